"""The parts of the text that a language model reads. Pure functions; whatever they get can be hostile."""
