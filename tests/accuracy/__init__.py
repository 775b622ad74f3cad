"""The accuracy bench: mutants of correct code, a corpus of packages, labelled files."""
