"""Python's own functions and classes, and numpy's arrays."""
