"""The models of the examples: a configured one, or a script that plays a model's turns."""
