"""The tools that mpaudit is compared with, by exact version, each in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = {
    "mpaudit": (
        "click==8.5.1",
        "hatchling==1.27.0",
        "libcst==1.9.0",
        "msgspec==0.23.0",
        "ruff==0.17.6",
    ),
    "torchfix": ("torchfix==0.7.0",),
    "torch-preflight": ("torch-preflight==0.5.0",),
}
"""Environment -> what is installed there. mpaudit shares one with click, libcst and ruff, so that none
starts faster for the folder it is in; the others want versions that exclude each other."""


@dataclass(frozen=True, slots=True)
class Peers:
    """The environments, by name; what could not be had, by name, with the reason."""

    folders: dict[str, Path]
    missing: dict[str, str]

    def program(self, environment: str, name: str) -> str:
        """The path of a program that is installed in an environment."""
        return str(self.folders[environment] / "bin" / name)


def cache() -> Path:
    """The user's cache folder of the benchmarks."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mpaudit-bench"


def clean() -> dict[str, str]:
    """The variables that every measured program is given: none that changes how Python runs."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "TERM": "dumb"}


def install(where: Path) -> Peers:
    """Make the environments below `where`, unless they are there, and install this mpaudit anew.

    A peer that cannot be had is noted; raises SystemExit where mpaudit's own cannot be made.
    """
    folders: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name, requirements in PINNED.items():
        words = " ".join((sys.version, *requirements))
        folder = where / f"{name}-{blake2b(words.encode(), digest_size=4).hexdigest()}"
        problem = _make(folder, requirements)
        if problem is None:
            folders[name] = folder
        else:
            missing[name] = problem
    if "mpaudit" in missing:
        raise SystemExit(f"the environment cannot be made: {missing['mpaudit']}")
    _pip(folders["mpaudit"], "uninstall", "--yes", "mpaudit")
    problem = _pip(
        folders["mpaudit"], "install", "--no-deps", "--no-build-isolation", "--compile", str(ROOT)
    )
    if problem is not None:
        raise SystemExit(f"mpaudit cannot be installed: {problem}")
    return Peers(folders, missing)


def _make(folder: Path, requirements: tuple[str, ...]) -> str | None:
    ready = folder / ".ready"
    if ready.exists():
        return None
    print(f"installing {', '.join(requirements)}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    problem = _pip(folder, "install", "--compile", *requirements)
    if problem is None:
        ready.touch()
    return problem


def _pip(folder: Path, *arguments: str) -> str | None:
    """Run pip in an environment; the last line of what it says where it fails."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [*command, "--quiet", *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
