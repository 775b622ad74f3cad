"""Measures mpaudit's speed against other tools, in the same run: `make bench`."""
