"""The process of a rehearsal: `python -m mpaudit.runtime.rehearsing PLAN.json`.

It runs the script as `launch` does, stops after so many steps, and writes the record.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mpaudit.runtime import launch
from mpaudit.runtime.rehearsal import Plan


def perform(path: Path) -> int:
    """Follow the plan in the file at `path`; returns the exit code of the script."""
    plan = Plan.read(path)
    output = Path(f"{plan.record}.mpa")
    return launch.run(
        plan.name,
        plan.argv,
        how=plan.how,
        device=plan.device,
        output=output,
        source=plan.source,
        rehearsal=plan,
        applied=plan.applied,
    )


def follow(plan: Plan, file: Path) -> subprocess.CompletedProcess[str]:
    """Follow the plan in a process of its own, in which nothing is compiled; `file` is written."""
    plan.write(file)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),
        "TORCH_COMPILE_DISABLE": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "mpaudit.runtime.rehearsing", str(file)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )


if __name__ == "__main__":
    sys.exit(perform(Path(sys.argv[1])))
