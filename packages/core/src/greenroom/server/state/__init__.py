"""What a server keeps between its runs: one SQLite file, which is one server's at a time. Private."""
