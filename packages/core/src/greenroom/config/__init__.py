"""Options: their values and their sources."""
