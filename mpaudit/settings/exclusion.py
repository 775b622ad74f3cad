"""Which files and folders a check does not look at."""

from __future__ import annotations

from pathlib import Path

from mpaudit.settings.configuration import Configuration
from mpaudit.settings.gitignore import Ignored


class Exclusion:
    """Says it of paths as settings, and git, have it; folders that are left out are not entered."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._ignored = Ignored()

    def __call__(self, path: str, *, folder: bool) -> bool:
        """Whether the absolute path of a file, or of a `folder`, is left out."""
        path = self._configuration.place(path)
        settings = self._configuration.within(path.rpartition("/")[0] or "/")
        if any(each.match(path) for each in settings.excluded):
            return True
        if not settings.options.get("respect-gitignore", True):
            return False
        return self._ignored(path, folder=folder)

    def forced(self, path: Path) -> bool:
        """Whether a path is left out although the user named it: where he asks to force exclusion."""
        settings = self._configuration.of(path)
        return bool(settings.options.get("force-exclude", False)) and self.covers(path)

    def covers(self, path: Path) -> bool:
        """Whether a path, or a folder around it, is excluded, whoever names it."""
        whole = Path(self._configuration.place(str(path.absolute())))
        settings = self._configuration.of(path)
        within = [each for each in whole.parents if settings.folder in each.parents]
        return any(
            pattern.match(each.as_posix())
            for each in (whole, *within)
            for pattern in settings.excluded
        )
