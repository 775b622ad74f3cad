"""Files as text and tree: found, read, parsed, and where in them an edit goes."""
