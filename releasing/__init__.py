"""Makes releases: `make release` and docs/releasing.md."""
