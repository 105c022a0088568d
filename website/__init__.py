"""Builds the documentation site from the repository's pages: `make docs`. Standard library only."""
