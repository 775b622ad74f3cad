"""The names of the frameworks: what rules and engine know them by, and nothing else."""
