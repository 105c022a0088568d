"""The models that the examples ask: a configured one, or else a script that plays a model's turns."""
