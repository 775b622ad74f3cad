"""Which steps of a run are looked at, and how closely."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from msgspec import Struct

EVERY = 10  # steps from one that is looked at to the next
FIRST = 10  # steps that are always looked at
AFTER = 5  # steps that are looked at behind one in which something went wrong
CALLS = 8  # calls of one layer in one step whose numbers are counted by power of two
COUNTED = 100  # every so many steps numbers are counted, after those that are powers of two
NOT_LOOKED_AT = "inputs, outputs and casts of layers, and the gradients between them"
"""What `--light` does not look at in a run of torch."""


class Sampling(Struct, frozen=True):
    """What `mpaudit run` was asked for.

    The layers are looked at in each `every`-th step, in the first FIRST ones, in those in which numbers
    are counted, and in AFTER steps from one on in which something went wrong; None is a default.
    `light` asks for no look at a layer at all: only for loss scales, steps and the gradients of
    parameters, where a scaler says of a step that they are finite in such steps only.
    """

    every: int | None = None
    light: bool = False

    def fact(
        self, every: int, not_looked_at: str = NOT_LOOKED_AT, *, outputs: bool = False
    ) -> dict[str, Any]:
        """What the trace says of it; `every` is the number that was taken. `outputs`: what layers
        give out was read in the steps between, too."""
        if self.light:
            return {"every": every, "light": True, "not_looked_at": not_looked_at}
        return {"every": every, "outputs_every": 1} if outputs and every > 1 else {"every": every}


EVERYTHING = Sampling()


@lru_cache(maxsize=8)  # asked for every tensor of a step
def sampled(step: int) -> bool:
    """Whether numbers are counted in a step: 0 and powers of two, then every 100th."""
    return step % COUNTED == 0 if step >= COUNTED else step & (step - 1) == 0


def due(step: int, every: int) -> bool:
    """Whether a step is looked at, whatever happens in those before it."""
    return step < FIRST or step % every == 0 or sampled(step)


def following(step: int, every: int) -> int:
    """The first step behind one that is looked at, whatever happens in those before it."""
    if step < FIRST - 1:
        return step + 1
    often = (every, COUNTED) if step + 1 >= COUNTED else (every,)
    found = min(step - step % each + each for each in often)
    return found if step + 1 >= COUNTED else min(found, 1 << step.bit_length(), COUNTED)


def told(fact: Any) -> str | None:
    """What a trace's fact says, in words; None where there is none."""
    if not isinstance(fact, dict):
        return None if fact is None else str(fact)
    every = fact.get("every") or 1
    often = f"every {every} steps, the first {FIRST}, and {AFTER} after one that went wrong"
    if fact.get("light"):
        light = f"light: {fact['not_looked_at']} were not looked at"
        return light if every == 1 else f"{light}; gradients of parameters: {often}"
    if every == 1:
        return "every step"
    return (
        f"outputs of layers in every step; all else: {often}" if "outputs_every" in fact else often
    )


class Turns:
    """Says of each step whether it is looked at."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._asked = 0
        self._looked = 0
        self._until = FIRST
        self._quiet = 0, 0  # between these steps none is due, unless something goes wrong

    def due(self, step: int) -> bool:
        """Whether the layers are looked at in this step."""
        self._asked = step
        after, before = self._quiet
        looks = step < self._until
        if not looks and not after < step < before:
            looks = due(step, self.every)
            self._quiet = step, following(step, self.every)
        if looks:
            self._looked = step
        return looks

    def looked(self, step: int) -> bool:
        """Whether the layers were looked at in this step, which is the last one."""
        return self._looked == step

    def alarm(self) -> None:
        """Something went wrong: the next steps are looked at."""
        self._until = max(self._until, self._asked + 1 + AFTER)
