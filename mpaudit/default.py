"""What holds unless a configuration says otherwise, and what a configuration is called."""

EXCLUDED = (
    *(".bzr", ".direnv", ".eggs", ".git", ".git-rewrite", ".hg", ".ipynb_checkpoints"),
    *(".mpaudit_cache", ".mypy_cache", ".nox", ".pants.d", ".pyenv", ".pytest_cache", ".pytype"),
    *(".ruff_cache", ".svn", ".tox", ".venv", ".vscode", "__pycache__", "__pypackages__"),
    *("_build", "buck-out", "build", "dist", "node_modules", "site-packages", "venv"),
)
"""What is excluded unless `exclude` says otherwise: ruff's list, and what Python itself writes."""

CONFIGURATIONS = (".mpaudit.toml", "mpaudit.toml", "pyproject.toml")
"""The names a configuration file may have; of several in a folder the first counts."""
PYPROJECT = "pyproject.toml"
