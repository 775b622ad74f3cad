"""The torch probe: everything that watches one run of a PyTorch script."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mpaudit.errors import MpauditError
from mpaudit.runtime.torch_device import Remap
from mpaudit.runtime.torch_layers import Layers
from mpaudit.runtime.torch_loop import Loop
from mpaudit.runtime.torch_regions import watch_regions
from mpaudit.runtime.torch_watch import Watch
from mpaudit.runtime.tracer import Tracer

EMULATED = (
    "CUDA's autocast on the CPU: float16 inputs, float32 arithmetic, results rounded to float16"
)


def install(
    tracer: Tracer, device: str = "auto", say: Callable[[str], None] = print
) -> Callable[[], None]:
    """Watch torch from here on; returns what takes every hook away again.

    `device` is "auto", "cuda" or "cpu"; `say` is told once if cuda calls are remapped to the CPU.
    Raises MpauditError for "cuda" on a machine without one.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MpauditError("--device cuda: torch sees no CUDA device here; use --device cpu")
    watch = Watch(tracer)
    try:
        watch_regions(watch)
        Loop(watch)
        layers = Layers(watch)
        if remapped := device == "cpu" or not available:
            Remap(watch, layers.casting)
            why = "as asked" if available else "there is no CUDA device"
            say(f"the script's cuda calls run on the CPU ({why}); float16 arithmetic is emulated")
        name = "cpu" if remapped else torch.cuda.get_device_name()
        tracer.note("framework", "torch")
        tracer.note("versions", {**(tracer.fact("versions") or {}), "torch": torch.__version__})
        tracer.note("device", name)
        tracer.note("emulated", EMULATED if remapped else False)
    except BaseException:
        watch.patches.undo()
        raise
    return watch.patches.undo
