"""Makes the documentation's site from the pages of the repository: `make docs`. Standard library only."""
