"""The tree that a branch started from, so that only what the branch adds is reported."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from mpaudit.errors import MpauditError

_NEEDED = (".py", ".ipynb", ".toml", ".cfg", ".txt", ".yml", ".yaml")
"""Endings of the files that a check reads, statements of requirements among them."""


class Past(Struct, frozen=True):
    """A tree as it was: `folder` stands for `root`; `renamed` maps old names below it to new ones."""

    folder: Path
    root: Path
    renamed: Mapping[str, str]
    commit: str

    def now(self, filename: str) -> str:
        """What a file of the past is called now."""
        name = Path(filename).absolute().relative_to(self.folder).as_posix()
        return str(self.root / self.renamed.get(name, name))

    def then(self, paths: Sequence[Path]) -> list[Path]:
        """The files and folders of the past that are now called `paths`, if they were there."""
        old = {new: name for name, new in self.renamed.items()}
        found: list[Path] = []
        for path in paths:
            whole = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
            try:
                name = whole.resolve().relative_to(self.root).as_posix()
            except ValueError:
                raise MpauditError(f"--diff-base: {path} is not in the repository") from None
            names = [name, old.get(name, name)]
            if path.is_dir():
                names += [
                    each for new, each in old.items() if name == "." or new.startswith(f"{name}/")
                ]
            found += [self.folder / each for each in dict.fromkeys(names)]
        return [path for path in dict.fromkeys(found) if path.exists()]


@contextmanager
def past(reference: str) -> Iterator[Past]:
    """The tree where this branch left `reference`, in a folder that is removed afterwards.

    Raises MpauditError outside of a repository, and for what is no commit.
    """
    root = Path(_git("rev-parse", "--show-toplevel").strip())
    commit = _commit(reference)
    with tempfile.TemporaryDirectory(prefix="mpaudit-") as made:
        folder = Path(made).resolve() / "tree"
        (folder / ".git").mkdir(parents=True)  # where a repository ends
        index = {"GIT_INDEX_FILE": str(folder.parent / "index")}
        _git("read-tree", commit, cwd=root, **index)
        names = _git("ls-files", "-z", cwd=root, **index).split("\0")
        wanted = [each for each in names if each.endswith(_NEEDED)]
        checkout = ("--work-tree", str(folder), "checkout-index", "-z", "--stdin")
        _git(*checkout, cwd=root, given="".join(f"{each}\0" for each in wanted), **index)
        yield Past(folder, root, _renamed(commit, root), commit)


def _commit(reference: str) -> str:
    try:
        _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    except MpauditError:
        raise MpauditError(
            f"--diff-base: git knows no commit {reference!r}; is it fetched?"
        ) from None
    try:
        return _git("merge-base", reference, "HEAD").strip()
    except MpauditError:
        raise MpauditError(
            f"--diff-base: {reference} and HEAD have no common commit here; "
            "fetch the whole history (fetch-depth: 0)"
        ) from None


def _renamed(commit: str, root: Path) -> dict[str, str]:
    """Old names to new ones, between a commit and the files as they are."""
    words = _git("diff", "--name-status", "-M", "-z", "--diff-filter=R", commit, cwd=root).split(
        "\0"
    )
    return dict(zip(words[1::3], words[2::3], strict=False))


def _git(*args: str, cwd: Path | None = None, given: str | None = None, **environment: str) -> str:
    command = ["git", *args]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            input=None if given is None else os.fsencode(given),
            capture_output=True,
            env={**os.environ, **environment},
            check=False,
        )
    except OSError as problem:
        raise MpauditError(f"--diff-base: git cannot be run: {problem.strerror}") from None
    if done.returncode:
        said = os.fsdecode(done.stderr).strip().splitlines() or ["it fails"]
        raise MpauditError(f"--diff-base: git {args[0]}: {said[-1].removeprefix('fatal: ')}")
    return os.fsdecode(done.stdout)
