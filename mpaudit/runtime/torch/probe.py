"""The torch probe: everything that watches one run of a PyTorch script."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from mpaudit.errors import MpauditError
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.sampling import EVERY, Turns
from mpaudit.runtime.torch.compiler import Compiler
from mpaudit.runtime.torch.device import Remap
from mpaudit.runtime.torch.layers import Layers
from mpaudit.runtime.torch.light import Light
from mpaudit.runtime.torch.loop import Loop
from mpaudit.runtime.torch.recorder import Recorder
from mpaudit.runtime.torch.regions import watch_regions
from mpaudit.runtime.torch.remedy import Remedy
from mpaudit.runtime.torch.trial import Trial
from mpaudit.runtime.torch.watch import Watch
from mpaudit.runtime.tracer import Tracer

EMULATED = (
    "CUDA's autocast on the CPU: float16 inputs, float32 arithmetic, results rounded to float16"
)

EVERY_LIGHT = 100  # with --light, where a scaler says of the others that all is finite


def install(
    tracer: Tracer,
    device: str | None = "auto",
    say: Callable[[str], None] = print,
    rehearsal: Plan | None = None,
    remedy: Advice | None = None,
    late: bool = False,
) -> Callable[[], None]:
    """Watch torch from here on; returns what takes every hook away again.

    `device` is "auto", "cuda" or "cpu", or None for what the script says; `say` is told once if cuda
    calls are remapped to the CPU. A `rehearsal` says in which arithmetic the script is to compute, and
    what is recorded of it; a `remedy` is put into effect. `late`: models and optimizers may have been
    built before.
    Raises MpauditError for "cuda" on a machine without one.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MpauditError("--device cuda: torch sees no CUDA device here; use --device cpu")
    watch = Watch(tracer)
    try:
        compiler = Compiler(watch)
        watch_regions(watch)
        _watch_ranks(watch)
        asked = tracer.sampling
        watch.turns = Turns(asked.every or (EVERY_LIGHT if asked.light else EVERY))
        watch.glances = not available or device == "cpu"
        loop, layers = Loop(watch), (Light if asked.light else Layers)(watch)
        if late:
            for thing in gc.get_objects():
                if issubclass(type(thing), torch.nn.Module):
                    layers.built_before(thing)
                elif issubclass(type(thing), torch.optim.Optimizer):
                    loop.built_before(thing)
                elif issubclass(type(thing), torch.amp.GradScaler):
                    loop.scalers.built_before(thing)
        every = 1 if asked.light and not watch.glances else watch.turns.every
        tracer.claims.claim("torch", sampling=asked.fact(every, outputs=watch.glances))
        tracer.note("versions", {**(tracer.fact("versions") or {}), "torch": torch.__version__})
        if available and device != "cpu":
            tracer.note("device", torch.cuda.get_device_name())
        else:
            tracer.note("device", "cpu")
        if device == "cpu" or (device == "auto" and not available):

            def remapped() -> None:
                compiler.force_eager()
                tracer.note("emulated", EMULATED)
                why = "as asked" if available else "there is no CUDA device"
                say(f"the script's cuda calls run on the CPU ({why}); float16 is emulated there")

            Remap(watch, layers.casts, remapped)
        if remedy is not None:
            Remedy(remedy, watch, layers.names)
        if rehearsal is not None and rehearsal.kind == "trial":
            Trial(rehearsal.steps, watch)
        elif rehearsal is not None:
            Recorder(rehearsal, watch)
    except BaseException:
        watch.patches.undo()
        raise
    return watch.patches.undo


def _watch_ranks(watch: Watch) -> None:
    """Note which of several processes this is as soon as torch knows it."""
    distributed = torch.distributed

    def note() -> None:
        if distributed.is_available() and distributed.is_initialized():
            watch.tracer.note("rank", distributed.get_rank())
            watch.tracer.note("world_size", distributed.get_world_size())

    def joined(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        with watch.guard("init_process_group"):
            note()
        return result

    def hooked(original: Callable[..., Any], model: Any, state: Any, hook: Any) -> Any:
        watch.sent_by = getattr(hook, "__name__", type(hook).__name__)
        return original(model, state, hook)

    note()
    watch.patches.wrap(distributed, "init_process_group", joined)
    if distributed.is_available():
        watch.patches.wrap(torch.nn.parallel.DistributedDataParallel, "register_comm_hook", hooked)
