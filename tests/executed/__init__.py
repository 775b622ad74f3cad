"""Running scripts, many of them and fast: how each ended, and what became of its parameters.

A process that has the frameworks loaded forks for every script (`__main__`). CUDA calls run on the CPU
as under `mpaudit run`, random numbers are seeded, a process group has one process, the hub is a folder
of small models, and SGD takes the place of optimizers of Adam's kind, which hide constant factors.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
Arithmetic = Literal["as written", "float32", "plain"]
SECONDS = 240  # for one script


@dataclass(frozen=True)
class End:
    """How a script ended: its last error ("" for none), and for each parameter that an optimizer had
    at the end the sum and the sum of squares of its values, and of what training added to them."""

    error: str
    parameters: list[list[float]]

    @property
    def finite(self) -> bool:
        """Whether no parameter has become inf or NaN."""
        return all(math.isfinite(each) for sums in self.parameters for each in sums)

    @property
    def trained(self) -> bool:
        """Whether training changed a parameter."""
        return any(sums[3] for sums in self.parameters)

    def like(self, other: End, tolerance: float = 1e-4) -> bool:
        """Whether both came to the same parameters, by the same changes."""
        return len(self.parameters) == len(other.parameters) and all(
            math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-7)
            for mine, theirs in zip(self.parameters, other.parameters, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )

    def far(self, other: End, tolerance: float = 0.1) -> float:
        """By which factor the size of all changes differs (1.0 for not at all)."""
        mine, theirs = (math.sqrt(sum(s[3] for s in each.parameters)) for each in (self, other))
        return max(mine, theirs) / min(mine, theirs) if mine and theirs else math.inf


@dataclass(frozen=True)
class Watched:
    """What `mpaudit run` tells of a script: its last error ("" for none), faults of the probe, and
    (rule, filename, row, message) of each finding."""

    error: str
    faults: list[str]
    findings: list[list[Any]]


class Executor:
    """A process with "torch" or "keras" loaded; as "watched" it has torch, and runs under mpaudit.

    In "float32" what a script wants in float16 or bfloat16 is computed in float32; in "plain" its loss
    scale is 1 as well.
    """

    def __init__(self, framework: str, arithmetic: Arithmetic = "as written") -> None:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        extra = {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.executed", framework, arithmetic],
            env={**os.environ, **extra, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, text: str, path: Path) -> End:
        """Run a script; modules beside `path` are found, and it is called as that is."""
        return End(*self._ask(text, path))

    def watch(self, text: str, path: Path) -> Watched:
        """Run a script in the same way under `mpaudit run --device cpu`."""
        return Watched(*self._ask(text, path))

    def _ask(self, text: str, path: Path) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([text, str(path)]) + "\n")
        self._process.stdin.flush()
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
