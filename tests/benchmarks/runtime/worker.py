"""`worker.py SHAPE WATCHER DEVICE`: a training script that steps when it is told to, and says how long.

A line "N" on standard input asks for N steps; answered is a line with seconds on the wall, and of
the processor. It ends with the input. WATCHER is "none", or a tool that is called from a script. A SHAPE
that ends in "-float32" is trained without mixed precision.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tests.benchmarks.runtime.loop import SHAPES, Loop, Shape


def nothing(_: Loop) -> AbstractContextManager[Any]:
    return nullcontext()


def hugging_face(loop: Loop) -> AbstractContextManager[Any]:
    """transformers' own: minima and maxima of all inputs, outputs and weights, forward only."""
    from transformers.debug_utils import DebugUnderflowOverflow

    loop.watcher = loop.watcher or DebugUnderflowOverflow(loop.model)
    return nullcontext()


def anomaly(_: Loop) -> AbstractContextManager[Any]:
    """torch's own: NaNs in what comes out of each backward function."""
    return torch.autograd.detect_anomaly()


def debug_mode(_: Loop) -> AbstractContextManager[Any]:
    """torch's own: a log of every operation with dtypes and shapes, no values."""
    from torch.utils._debug_mode import DebugMode

    return DebugMode()


FLOAT32 = "-float32"
WATCHERS: dict[str, Callable[[Loop], AbstractContextManager[Any]]] = {
    "none": nothing,
    "DebugUnderflowOverflow": hugging_face,
    "detect_anomaly": anomaly,
    "DebugMode": debug_mode,
}


def main() -> None:
    shape, watcher, device = sys.argv[1:]
    name = shape.removesuffix(FLOAT32)
    assert name in SHAPES
    loop = Shape(name).loop(device, mixed=name == shape)
    around = WATCHERS[watcher]
    wait = torch.cuda.synchronize if device == "cuda" else int
    print("ready", flush=True)
    for line in sys.stdin:
        wait()
        began, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            with around(loop):
                loop.step()
        wait()
        print(time.perf_counter() - began, time.process_time() - used, flush=True)


if __name__ == "__main__":
    main()
