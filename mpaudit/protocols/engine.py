"""Training on a DeepSpeed engine: backward and step go through it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from mpaudit.event import (
    EngineBackward,
    EngineRawBackward,
    EngineStep,
    Event,
    GradientsZeroed,
    LostSight,
    Ref,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "deepspeed-raw-backward"
MANY = 4
"""So many backward passes between two steps are remembered."""


class EngineProtocol(Protocol):
    """MP608. State: ("raw", engine) -> the plain backward passes since its last step; ("own", engine) ->
    "backward" or "step", the last that was asked of the engine itself.

    A plain backward is judged by the step that follows. One whose loss comes out of no engine, and the
    step of an optimizer that no engine has, keep the rule at their place on every path: a script that
    trains with DeepSpeed or without it is right where it trains without.
    """

    __slots__ = ()

    takes = (EngineBackward, EngineRawBackward, EngineStep, GradientsZeroed, LostSight)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case EngineRawBackward(engine=None):
                yield Kept(RULE, event.at, unseen=event.unseen)
            case EngineRawBackward(engine=Ref() as engine):
                before = self._raw(engine)
                if len(before) < MANY and event.at not in (each.at for each in before):
                    self.state[("raw", engine)] = (*before, event)
            case EngineBackward():
                self.state[("own", event.engine)] = "backward"
            case EngineStep(engine=None):
                yield Kept(RULE, event.at, unseen=event.unseen)
                self._drop("raw")
            case EngineStep(engine=Ref() as engine):
                yield from self._stepped(engine, event)
                self.state.pop(("raw", engine), None)
            case GradientsZeroed():
                self._drop("raw")
            case LostSight() if self.state:
                for key in list(self.state):
                    if isinstance(key, tuple) and key[1].key in event.objects:
                        del self.state[key]

    def _stepped(self, engine: Ref, event: EngineStep) -> Iterator[Verdict]:
        raws = self._raw(engine)
        for raw in raws:
            if event.required is False and event.optimizer is None:
                yield Kept(RULE, raw.at)
            else:
                yield _backward(raw, event)
        own = self.state.get(("own", engine))
        if event.optimizer is None:
            if own is not None:
                self.state[("own", engine)] = "step"
        elif raws or own is not None:
            yield _step(engine, event, twice=own == "step" and not raws)

    def _raw(self, engine: Ref) -> tuple[EngineRawBackward, ...]:
        known = self.state.get(("raw", engine), ())
        return known if isinstance(known, tuple) else ()

    def _drop(self, what: Hashable) -> None:
        for key in list(self.state):
            if isinstance(key, tuple) and key[0] == what:
                del self.state[key]


def _backward(raw: EngineRawBackward, step: EngineStep) -> Broken:
    loss = raw.loss.text or "the loss"
    reach = raw.engine.text if raw.engine is not None else ""
    call = f"{reach or 'engine'}.backward({'...' if raw.scaled else loss})"
    unknown = "where the configuration asks for fp16, or for no ZeRO stage: "
    when = "" if step.required else unknown
    return Broken(
        Problem(
            RULE,
            raw.at,
            f"`{loss}.backward()` goes around the DeepSpeed engine, which scales the loss and collects "
            f"the gradients; `{call}` does",
            f'{when}DeepSpeed raises "Loss scaling is required for this configuration" or "Direct calls '
            'to tensor.backward() are not supported"; under a static scale, and before 0.18.3, the '
            "gradients come out too small, and each rank's are its own, in silence",
            (*step.because, Related(step.at, "the gradients are applied here")),
            (
                ("loss", raw.loss.text),
                ("owner", "" if raw.divided or raw.scaled else reach),
                ("method", "backward"),
            ),
        )
    )


def _step(engine: Ref, step: EngineStep, *, twice: bool) -> Broken:
    optimizer = step.optimizer.text if step.optimizer is not None else "optimizer"
    reach = engine.text
    if step.given and step.wraps is not False:
        consequence = (
            "the engine trains copies of its own, in float32: in fp16, in bf16 and under ZeRO this optimizer "
            "has no gradients, and nothing is trained"
        )
    else:
        consequence = (
            "the engine's counters and its schedule stand still; with gradient accumulation it steps on "
            "every micro-batch, or raises under ZeRO"
        )
    if twice:
        message = (
            f"`{optimizer}.step()` after `{reach or 'engine'}.step()`, which has stepped already"
        )
    else:
        message = f"`{optimizer}.step()` goes around the DeepSpeed engine; `{reach or 'engine'}.step()` steps"
    return Broken(
        Problem(
            RULE,
            step.at,
            message,
            consequence,
            step.because,
            (("step", optimizer), ("owner", "" if twice else reach), ("method", "step")),
        )
    )
