"""A row about the CPU that stands in for a GPU: a float16 step there, against one in float32."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from ..goal import Goal
from .loop import SHAPES
from .pair import Pair, added
from .turn import PLAIN, WARM, WORKER, pair, seconds, worker

FLOAT32, EMULATED = "float32", "mpaudit run --device cpu --light"
LIMIT = 2


def row(shape: str, rounds: int) -> Goal:
    """How many times as long as one in float32 a step takes whose float16 is emulated.

    The script asks for "cuda"; `--light`, so that looking at layers is not among it.
    """
    pairs: list[Pair] = []
    watching = ["-m", "mpaudit", "run", "--device", "cpu", "--light", "-o", "run.mpa", str(WORKER)]
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain, emulated = (
            stack.enter_context(worker(arguments, where=where))
            for arguments in (
                [str(WORKER), f"{shape}-float32", PLAIN, "cpu"],
                [*watching, shape, PLAIN, "cuda"],
            )
        )
        for number in range(-WARM, rounds):
            each = pair(plain, emulated, 1, number)
            if number >= 0:
                pairs.append(each)
    found = added(pairs)
    return Goal(
        f"{SHAPES[shape]}: a float16 step where the CPU stands in for a GPU",
        FLOAT32,
        1 + found.share,
        LIMIT,
        rounds=rounds,
        seconds=seconds({EMULATED: pairs}),
        interval=(1 + found.low, 1 + found.high),
    )
