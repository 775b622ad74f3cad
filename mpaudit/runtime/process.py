"""This process among those that train together: its rank, and where its trace goes."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mpaudit


def rank() -> int:
    """The number of this process, from 0; a launcher (torchrun, accelerate, deepspeed) gives it."""
    return _number("RANK", _number("LOCAL_RANK", 0))  # Lightning says only the second, on one node


def world_size() -> int:
    """How many processes train together, 1 where no launcher said otherwise."""
    return _number("WORLD_SIZE", 1)


def run_name() -> str:
    """What the processes of one run have in common, and no other run: of ranks, where they met."""
    met = [
        os.environ.get(name, "")
        for name in (
            "MASTER_ADDR",
            "MASTER_PORT",
            "TORCHELASTIC_RUN_ID",
            "TORCHELASTIC_RESTART_COUNT",
        )
    ]
    if world_size() > 1 and any(met):
        return ":".join(met)
    return f"{platform.node()}:{os.getpid()}:{time.time():.0f}"


def trace_path(
    program: str, output: Path | None = None, *, folder: Path | None = None, own: bool = False
) -> Path:
    """Where this process writes the trace of `program`, absolute: the script may change directory.

    `output` is what the user asked for, in `folder` (default: the working directory). Where several
    processes train together, each puts its rank into the name; with `own`, one that has no rank puts
    its number there, as others may be told the same `output`.
    """
    part = f".r{rank()}" if world_size() > 1 else ""
    if output is None:
        output = Path(f"mpaudit-{program}.{os.getpid()}{part}.mpa")
    else:
        part = part or (f".{os.getpid()}" if own else "")
        output = output.with_name(f"{output.stem}{part}{output.suffix}")
    return (folder or Path.cwd()) / output


def facts() -> Mapping[str, Any]:
    """What a trace says of the process that is watched, as it begins."""
    return {
        "framework": None,
        "versions": {"python": sys.version.split()[0], "mpaudit": mpaudit.__version__},
        "device": None,
        "emulated": False,
        "started": datetime.now(timezone.utc).isoformat(),
        "pid": os.getpid(),
        "rank": rank(),
        "world_size": world_size(),
    }


def _number(variable: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(variable, otherwise))
    except ValueError:  # somebody else's variable
        return otherwise
