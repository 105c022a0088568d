"""The parts of the text that a language model reads. Pure functions; all of their input can be hostile."""
