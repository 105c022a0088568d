"""Options: their values, and where they come from."""
