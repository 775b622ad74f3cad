"""`fit_same.py SHAPE TURNS STEPS`: models that train without and with mpaudit, in turn, in one process.

Processes that do the same differ by more than what is to be measured, as does a machine that others use
from one minute to the next. So there are three models of the same kind here: two were traced before
mpaudit was there, and stay without it, the third has its taps. A turn is STEPS steps of `fit` of each,
in an order that is drawn each time. What the first two differ by is noise. Printed is a line of JSON for
each turn: by name, seconds of a step on the wall and of the processor, and what was looked at.

In turns of one step as many are looked at as not, and what is looked at says by which share it counts.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpaudit.protocols import machines
from mpaudit.runtime.keras import patch, probe
from mpaudit.runtime.sampling import FIRST, Sampling, sampled
from mpaudit.runtime.tracer import Tracer
from tests.benchmarks.runtime.fit_worker import batches, model

OURS = "mpaudit"
OFTEN = 2
"""Of so many steps one is looked at where a turn is one step."""
WARM = 5
"""Turns before those that count."""


class Hooks:
    """What an installation replaces in Keras and TensorFlow, which can be away for a while."""

    def __init__(self, tracer: Tracer) -> None:
        self._replaced: list[tuple[Any, str, bool, Any, Any]] = []
        original = patch.Patches.wrap

        def noted(patches: patch.Patches, owner: Any, name: str, around: Any) -> None:
            own, before = name in vars(owner), vars(owner).get(name)
            original(patches, owner, name, around)
            self._replaced.append((owner, name, own, before, vars(owner)[name]))

        patch.Patches.wrap = noted  # type: ignore[method-assign]
        try:
            self.end = probe.install(tracer)
        finally:
            patch.Patches.wrap = original  # type: ignore[method-assign]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Keras and TensorFlow as they are without it."""
        for owner, name, own, before, _ in reversed(self._replaced):
            if own:
                setattr(owner, name, before)
            else:
                delattr(owner, name)
        try:
            yield
        finally:
            for owner, name, _, _, after in self._replaced:
                setattr(owner, name, after)


def timed(work: Callable[[], object], steps: int) -> tuple[float, float]:
    """Seconds of a step on the wall, and of the processor."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - began) / steps, (time.process_time() - used) / steps


def main() -> None:
    shape, turns, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    alone = steps == 1

    def trained() -> Callable[[], object]:
        made = model(shape, xla=False)
        data = batches(shape, made)
        made.fit(data, steps_per_epoch=1, verbose=0)
        return lambda: made.fit(data, steps_per_epoch=steps, verbose=0)

    plain = {name: trained() for name in ("none", "none again")}
    with TemporaryDirectory() as folder:
        sampling = Sampling(OFTEN if alone else None)
        tracer = Tracer(Path(folder) / "run.mpa", machines(), sampling)
        hooks = Hooks(tracer)
        ours, done, order = trained(), 1, random.Random(0)

        def look() -> str:
            """What is looked at in the next step; the first ones are all looked at."""
            if not alone:
                return ""
            return "counted" if sampled(done) else "between" if done % OFTEN else "looked at"

        while done < FIRST + WARM:
            ours()
            done += steps
        for again in plain.values():
            with hooks.away():
                again()
        for _ in range(turns):
            found: dict[str, Any] = {}
            names = [OURS, *plain]
            for name in order.sample(names, len(names)):
                if name == OURS:
                    found[OURS] = [*timed(ours, steps), look()]
                    done += steps
                    continue
                with hooks.away():
                    found[name] = timed(plain[name], steps)
            print(json.dumps(found), flush=True)
        hooks.end()
        tracer.close(0)
        if errors := tracer.fact("probe_errors"):
            raise RuntimeError(f"a probe failed: {errors}")


if __name__ == "__main__":
    main()
