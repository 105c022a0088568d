"""The state that a server keeps between runs: one SQLite file, used by one server at a time. Private."""
