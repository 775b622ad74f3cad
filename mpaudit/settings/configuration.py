"""Which settings hold for which file: those of the configuration file closest to it, as in ruff."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy as replicate
from pathlib import Path

from mpaudit.config import Selection, Target
from mpaudit.default import CONFIGURATIONS
from mpaudit.settings.reading import Layer, concerns, layers
from mpaudit.settings.resolved import Settings, resolve


class Configuration:
    """Finds and merges settings.

    The files closest to a checked file count, and no other, unless it extends them; where there is
    none, the user's own in his configuration folder. `file` stands for all of them, `isolated` for
    none; `over` are the layers of the command line, which go over all. Raises MpauditError, from every
    method, for a file that is broken.
    """

    def __init__(
        self, over: Sequence[Layer] = (), *, file: Path | None = None, isolated: bool = False
    ) -> None:
        self._over = tuple(over)
        self._here = Path.cwd()
        self._fixed = None
        self._found: dict[str, Path | None] = {}
        self._made: dict[Path | None, Settings] = {}
        self._moved: tuple[str, str] | None = None
        self._origins: set[Path] = set()
        if file is not None:
            base = self._layers(file.absolute(), self._here)
            self._fixed = resolve((*base, *self._over), self._here, file.absolute())
        elif isolated:
            self._fixed = resolve(self._over, self._here)

    @classmethod
    def of_rules(
        cls, selection: Selection | None = None, target: Target | None = None
    ) -> Configuration:
        """Settings that say which rules are on, for which versions, and read no files."""
        made = cls(isolated=True)
        plain = resolve((), made._here)
        made._fixed = Settings(
            selection or Selection(), target or Target(), excluded=plain.excluded
        )
        return made

    @property
    def here(self) -> Settings:
        """The settings of this folder, which say how things are shown and fixed."""
        return self.within(str(self._here))

    def origins(self) -> list[Path]:
        """The configuration files that settings were taken from so far, those extended among them."""
        return sorted(self._origins)

    def of(self, path: Path) -> Settings:
        """The settings of a file."""
        if self._fixed is not None:
            return self._fixed
        return self.within(os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH120

    def rules(self, filename: str) -> Selection:
        """The rules that are on in a file."""
        return self.of(Path(filename)).of(self.place(os.path.abspath(filename)))  # noqa: PTH100

    def of_copy(self, copy: Path, original: Path) -> Configuration:
        """The same settings for the files of a folder `copy` as for those of the `original`."""
        made = replicate(self)
        made._moved = (copy.as_posix(), original.as_posix())
        return made

    def place(self, path: str) -> str:
        """The absolute path, with forward slashes, that a file's settings are those of."""
        path = path.replace("\\", "/")
        if self._moved is None or not path.startswith(self._moved[0]):
            return path
        return self._moved[1] + path.removeprefix(self._moved[0])

    def within(self, folder: str) -> Settings:
        """The settings of the files in a folder, given by its absolute path."""
        if self._fixed is not None:
            return self._fixed
        file = self._closest(self.place(folder))
        if file not in self._made:
            if file is None:
                own = _of_user()
                base = self._layers(own, self._here) if own is not None else ()
                self._made[file] = resolve((*base, *self._over), self._here, own)
            else:
                found = (*self._layers(file), *self._over)
                self._made[file] = resolve(found, file.parent, file)
        return self._made[file]

    def _layers(self, file: Path, folder: Path | None = None) -> tuple[Layer, ...]:
        found = layers(file, folder)
        self._origins |= {each.origin for each in found if each.origin is not None}
        return found

    def _closest(self, folder: str) -> Path | None:
        if folder not in self._found:
            candidates = (Path(folder, name) for name in CONFIGURATIONS)
            file = next((each for each in candidates if concerns(each)), None)
            above = os.path.dirname(folder)  # noqa: PTH120 - Path would cost more than all else here
            if file is None and above != folder:
                file = self._closest(above)
            self._found[folder] = file
        return self._found[folder]


def _of_user() -> Path | None:
    """The configuration that a user keeps for what has none of its own."""
    above = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME")
    folder = Path(above) if above else Path.home() / ".config"
    return next((p for name in CONFIGURATIONS if concerns(p := folder / "mpaudit" / name)), None)
