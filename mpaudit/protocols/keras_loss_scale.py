"""Loss scaling in a training loop on Keras: wrap the optimizer, scale the loss, or neither."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Event,
    GradientsApplied,
    LayerMade,
    LossComputed,
    ModelMade,
    OptimizerWrapped,
    PolicySet,
    Ref,
    TapeGradient,
    TapeGradientsClipped,
    TapeGradientsUnscaled,
)
from mpaudit.protocols.keras_loss_scale_problems import (
    Found,
    loop_without_loss_scaling,
    missing_scale_loss,
    needless_loss_scale,
    per_layer_policy_unscaled,
    unwrapped_second_optimizer,
)
from mpaudit.protocols.keras_model import KerasProtocol, Layer
from mpaudit.protocols.protocol import Broken, Kept, Verdict
from mpaudit.protocols.tape import Handled, follow, handled

MIXED = "mixed_float16"
LOOP, SCALE, SECOND = (
    "keras-loop-without-loss-scaling",
    "missing-scale-loss",
    "unwrapped-second-optimizer",
)
PER_LAYER, NEEDLESS = "per-layer-policy-unscaled", "needless-loss-scale"


class KerasLossScaleProtocol(KerasProtocol):
    """MP503, MP504, MP512, MP517 and MP519.

    Facts, besides the books: ("tape", gradients) -> how they were handled; ("loss", layer) -> True
    where a loss was computed from what left that layer; ("wrapped", optimizer) -> its wrapping.
    """

    __slots__ = ()

    takes = (
        PolicySet,
        LayerMade,
        ModelMade,
        LossComputed,
        OptimizerWrapped,
        TapeGradient,
        TapeGradientsUnscaled,
        TapeGradientsClipped,
        GradientsApplied,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        yield from self.observe(event)
        follow(event, self.facts)
        match event:
            case LossComputed(output=output) if output is not None:
                self.facts[("loss", output)] = True
            case OptimizerWrapped():
                self.facts[("wrapped", event.optimizer)] = event
            case GradientsApplied():
                known = handled(self.facts, event.gradients)
                if known is not None:
                    yield from self._applied(event, known)

    def _applied(self, event: GradientsApplied, known: Handled) -> Iterator[Verdict]:
        tape, own_step = known.taken, known.taken.at == event.at
        models = tuple(ref for ref in (tape.model, *tape.others) if ref is not None)
        found = Found(event, tape, self._subjects(event, models))
        unscaled = tape.scaled_by == () and not known.unscaled
        idle = event.scales is False or (bool(event.scales) and event.keras == 2 and not own_step)
        if not idle or not unscaled:
            for rule in (LOOP, SECOND, PER_LAYER):
                yield Kept(rule, event.at)
        elif self._mixed(*models) and not own_step:
            yield from self._unscaled(found, models)
        elif (layer := self._mixed_by_itself(*models)) is not None:
            yield Broken(per_layer_policy_unscaled(found, layer))
        yield from self._needless(found, models)
        if own_step:
            return
        divides = known.unscaled or (event.scales and event.keras != 2)
        if event.scales is None or tape.scaled_by is None or event.optimizer in tape.scaled_by:
            yield Kept(SCALE, event.at)
        elif divides and not tape.scaled_by:
            yield Broken(missing_scale_loss(found, known.unscaled))

    def _unscaled(self, found: Found, models: tuple[Ref, ...]) -> Iterator[Verdict]:
        """The gradients of a float16 model are applied with no loss scaling."""
        applied = found.event
        other = self._another(applied.optimizer) if applied.scales is False else None
        rule = LOOP if other is None else SECOND
        if self.overdue(*models) is not None:
            self.promise(rule, applied.at)
        if other is None:
            yield Broken(loop_without_loss_scaling(found))
        else:
            yield Broken(unwrapped_second_optimizer(found, other))

    def _another(self, optimizer: Ref) -> OptimizerWrapped | None:
        """How another optimizer was wrapped."""
        for name, each in self.facts.items():
            if isinstance(name, tuple) and name[0] == "wrapped":
                assert isinstance(each, OptimizerWrapped)
                if optimizer not in (each.optimizer, each.inner):
                    return each
        return None

    def _needless(self, found: Found, models: tuple[Ref, ...]) -> Iterator[Verdict]:
        """Loss scaling where it is certain that nothing is computed in float16."""
        event, policy = found.event, self.state.get("policy")
        wrapped = self.facts.get(("wrapped", event.optimizer))
        made = event.made if event.factor is not None else None
        if isinstance(wrapped, OptimizerWrapped) and wrapped.by_hand:
            made = wrapped.at
        if not event.scales or made is None:
            return
        policies = [layer.policy for layer in self.layers(*models).values()]
        stated = policy if isinstance(policy, PolicySet) else None
        half = not policies or any(map(_half, policies))
        free = isinstance(wrapped, OptimizerWrapped) and wrapped.unpoliced and policy is None
        if not half and (free or (stated is not None and not _half(stated.policy))):
            yield Broken(needless_loss_scale(found, made, stated))
        else:
            yield Kept(NEEDLESS, made)

    def _mixed(self, *models: Ref) -> bool:
        late = self.overdue(*models)
        if late is not None:
            return late.policy == MIXED
        layers = self.layers(*models).values()
        return any(layer.own is None and layer.under == MIXED for layer in layers)

    def _mixed_by_itself(self, *models: Ref) -> Layer | None:
        """A layer that has the policy of its own, while the global one is known to be another."""
        for layer in self.layers(*models).values():
            if layer.own == MIXED and layer.under not in (None, MIXED):
                return layer
        return None

    def _subjects(
        self, event: GradientsApplied, models: tuple[Ref, ...]
    ) -> tuple[tuple[str, str], ...]:
        found = [("optimizer", event.optimizer.text), ("keras", str(event.keras))]
        for ref, layer in self.layers(*models).items():
            if ("loss", ref) in self.facts:
                found.append(("output", str(layer.at)))
        return tuple(found)


def _half(policy: str | None) -> bool:
    """Whether a policy computes in float16, or may do so."""
    return policy is None or policy.removeprefix("mixed_") not in ("float32", "bfloat16", "float64")
