"""What is wrong where gradients go around the Accelerator, in words: one function for each breach."""

from __future__ import annotations

from mpaudit.event import (
    Accelerated,
    AcceleratorBackward,
    GradientsClipped,
    OptimizerStep,
    PlainBackward,
    PreparedStep,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken

BACKWARD = "accelerate-raw-backward"
CLIP = "accelerate-raw-clip"


def under_fp16(accelerator: Accelerated) -> str:
    """When a consequence of loss scaling comes about."""
    if accelerator.scales:
        return ""
    if accelerator.chosen:
        return 'with mixed_precision="fp16" '
    return "with `--mixed_precision fp16`, which `accelerate launch` decides, "


def raw_backward(raw: PlainBackward, event: PreparedStep) -> Broken:
    """A prepared optimizer steps what `loss.backward()` made."""
    accelerator = event.accelerator
    name = (raw.accelerator or accelerator).text or "accelerator"
    said = []
    if accelerator.scales is not False:
        said.append(
            f'{under_fp16(accelerator)}the first step raises "Attempted step but _scale is None", and '
            "any later one divides gradients by a loss scale that they were never multiplied by"
        )
    if accelerator.accumulates is not False:
        said.append(
            "the loss is not divided by the number of micro-batches: the update is that many times too large"
        )
    return Broken(
        Problem(
            BACKWARD,
            raw.at,
            f"`{raw.loss.text}.backward()` goes around the Accelerator that prepared "
            f"`{event.optimizer.text}`",
            "; ".join(said),
            (
                Related(
                    event.at,
                    f"the prepared optimizer steps here; write `{name}.backward({raw.loss.text})`",
                ),
            ),
            (
                ("accelerator", raw.accelerator.text if raw.accelerator else ""),
                ("loss", raw.loss.text),
            ),
        )
    )


def raw_clip(event: GradientsClipped, backward: AcceleratorBackward) -> Broken:
    """Scaled gradients are clipped by torch, or edited by hand."""
    accelerator = backward.accelerator
    return Broken(
        Problem(
            CLIP,
            event.at,
            f"{event.how} on gradients that `{accelerator.text or 'the Accelerator'}` has scaled",
            f"{under_fp16(accelerator)}they are 65536 times too large at the initial scale: the limit cuts "
            "them to nothing, and the update is as good as zero",
            (Related(backward.at, "the loss is scaled and the gradients are made here"),),
            _subjects(event, backward),
        ),
        grounded=bool(accelerator.scales),  # that another run does without a scale is no excuse
    )


def _subjects(
    event: GradientsClipped, backward: AcceleratorBackward
) -> tuple[tuple[str, str], ...]:
    accelerator = backward.accelerator
    found = [("accelerator", accelerator.text), ("how", event.how)]
    if accelerator.gathering and accelerator.accumulates is not False and not event.occasional:
        found.append(("guard", "sync_gradients"))
    return tuple(found)


def raw_step(event: OptimizerStep, backward: AcceleratorBackward) -> Broken:
    """Scaled gradients are applied by the optimizer that was given to `prepare()`."""
    accelerator = backward.accelerator
    optimizer = event.optimizer.text
    return Broken(
        Problem(
            CLIP,
            event.at,
            f"`{optimizer}` is not what `prepare()` returned for it: nothing unscales the gradients it steps",
            f"{under_fp16(accelerator)}the update is 65536 times too large at the initial scale, and "
            "overflows are not skipped",
            (Related(backward.at, "the loss is scaled and the gradients are made here"),),
            (("optimizer", optimizer),),
        )
    )
