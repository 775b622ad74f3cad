"""Measures what watching a run costs, against other tools, in the same run: `make bench-runtime`."""
