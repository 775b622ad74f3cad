"""Which versions of a library a project allows, from the files that state its requirements."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from msgspec import Struct

from mpaudit.source.text.walk import walk

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Version = tuple[int, int]

TORCH = ("torch", "pytorch")
TENSORFLOW = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-gpu",
    "tensorflow-intel",
    "tensorflow-macos",
    "tensorflow-rocm",
)
KERAS = ("keras",)

_REQUIREMENT = re.compile(
    r"\s*(?P<name>[a-zA-Z0-9][\w.-]*)\s*(\[[^]]*\])?\s*\(?\s*(?P<bounds>[^;#@)]*)"
)
_BOUND = re.compile(r"(?P<sign>===|[<>=!~]=|[<>^~=]|)\s*v?(?P<major>\d+)(\.(?P<minor>\d+))?")
_ANY = 99  # stands for the last minor version of a major one
_STATES = ("pyproject.toml", "setup.cfg", "setup.py")


class Allowed(Struct, frozen=True):
    """The lowest version that is allowed, and the highest; None where nothing bounds it.

    Both are (major, minor). `floor` is (0, 0) where only an upper bound is given.
    """

    floor: Version | None = None
    ceiling: Version | None = None


def allowed_torch(path: Path) -> Allowed:
    """The torch versions that the project around the file `path` allows."""
    return allowed(path, TORCH)


def allowed(path: Path, names: tuple[str, ...]) -> Allowed:
    """The versions of a library that the project around the file `path` allows.

    `names` are what the library is called where it is installed from, in lower case. The nearest
    folder, upwards to the root of the repository, that states a requirement on it decides; where
    several of its files do, the most generous.
    """
    return _allowed_in(path.resolve().parent, names)


@lru_cache(maxsize=4096)
def _allowed_in(folder: Path, names: tuple[str, ...]) -> Allowed:
    bounds = [_bounds(each, names) for file in _files(folder) for each in _requirements(file)]
    found = [each for each in bounds if each is not None]
    if found:
        floors = [each.floor for each in found if each.floor]
        ceilings = [each.ceiling for each in found if each.ceiling]
        return Allowed(
            floor=min(floors, default=None),
            ceiling=max(ceilings) if len(ceilings) == len(found) else None,
        )
    if _is_last(folder):
        return Allowed()
    return _allowed_in(folder.parent, names)


@lru_cache(maxsize=4096)
def statements(folder: Path) -> str:
    """A digest of all that `allowed` may read for the files of a folder."""
    found = blake2b(digest_size=16)
    for file in _files(folder):
        with suppress(OSError):
            content = file.read_bytes()
            found.update(f"{file}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    if not _is_last(folder):
        found.update(statements(folder.parent).encode())
    return found.hexdigest()


def forget() -> None:
    """Read all statements anew: in a process that lives on they may have changed."""
    for each in (statements, _allowed_in, _requirements):
        each.cache_clear()


def _is_last(folder: Path) -> bool:
    """Whether no folder above is asked."""
    is_root = (folder / ".git").exists() or folder.parent == folder or folder == Path.home()
    return is_root or folder.name == "site-packages"


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [
            *(folder / name for name in _STATES if (folder / name).is_file()),
            *sorted(folder.glob("requirements*.txt")),
            *sorted(folder.glob("requirements/*.txt")),
            *sorted(folder.glob("environment*.y*ml")),
        ]
    return []


@lru_cache(maxsize=256)
def _requirements(file: Path) -> tuple[str, ...]:
    """Every requirement that a file states, as text; a file that cannot be read states none."""
    return tuple(_stated(file))


def _stated(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".txt":
            yield from text.splitlines()
        elif file.suffix == ".toml":
            yield from _in_pyproject(tomllib.loads(text))
        elif file.suffix == ".cfg":
            yield from _in_setup_cfg(text)
        elif file.suffix in (".yml", ".yaml"):
            yield from (line.strip()[2:] for line in text.splitlines() if "- " in line)
        else:
            for node in walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    except (OSError, ValueError, SyntaxError, RecursionError):
        return


def _in_setup_cfg(text: str) -> Iterator[str]:
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error:
        return
    if parser.has_section("options"):
        yield from parser.get("options", "install_requires", fallback="").splitlines()
    if parser.has_section("options.extras_require"):
        for value in dict(parser["options.extras_require"]).values():
            yield from value.splitlines()


def _in_pyproject(data: dict[str, Any]) -> Iterator[str]:
    project = _table(data, "project")
    yield from _strings(project.get("dependencies"))
    for group in (_table(project, "optional-dependencies"), _table(data, "dependency-groups")):
        for entries in group.values():
            yield from _strings(entries)
    poetry = _table(_table(data, "tool"), "poetry")
    for group in [poetry, *_table(poetry, "group").values()]:
        for name, wanted in _table(group, "dependencies").items():
            for each in wanted if isinstance(wanted, list) else [wanted]:
                version = each.get("version") if isinstance(each, dict) else each
                if isinstance(version, str):
                    yield f"{name} {version}"


def _table(data: object, key: str) -> dict[str, Any]:
    found = data.get(key) if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}


def _strings(entries: object) -> Iterable[str]:
    return [each for each in entries if isinstance(each, str)] if isinstance(entries, list) else []


def _bounds(requirement: str, names: tuple[str, ...]) -> Allowed | None:
    """What one requirement says of a library; None if it is about something else.

    A bare number means that very version, as does = of conda; ^ and ~ are Poetry's, ~= is Python's.
    """
    match = _REQUIREMENT.match(requirement)
    if match is None or re.sub(r"[-_.]+", "-", match["name"]).lower() not in names:
        return None
    text = match["bounds"].strip()
    if text and not re.match(r"[<>=!~^]|\*$|\d[\w.]*$", text):
        return None  # another distribution: torchvision, torch-geometric, or prose
    lows: list[Version] = []
    highs: list[Version] = []
    for part in text.split(","):
        bound = _BOUND.match(part.strip())
        if bound is None:
            continue
        version = (int(bound["major"]), int(bound["minor"] or 0))
        if bound["sign"] in {"==", "===", "=", ""}:
            lows.append(version)
            highs.append(version)
        elif bound["sign"] in {">=", ">", "~=", "^", "~"}:
            lows.append(version)
            if bound["sign"] in {"~=", "^", "~"}:
                one_minor = bound["sign"] != "^" and part.count(".") >= (bound["sign"] == "~=") + 1
                highs.append(version if one_minor else (version[0], _ANY))
        elif bound["sign"] == "<=":
            highs.append(version)
        elif bound["sign"] == "<":
            highs.append(_below(version, part))
    floor = max(lows) if lows else (0, 0) if highs else None
    return Allowed(floor, min(highs) if highs else None)


def _below(version: Version, text: str) -> Version:
    """The last (major, minor) below `version`: 2.3 for "<2.4", 2.4 for "<2.4.1"."""
    patch = re.search(r"\d+\.\d+\.(\d+)", text)
    if patch and int(patch[1]):
        return version
    return (version[0], version[1] - 1) if version[1] else (version[0] - 1, _ANY)
