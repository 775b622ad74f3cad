"""The Keras dtype policy: a mixed one, set once, before the first layer, the output kept in float32."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Event,
    Forward,
    GradientsApplied,
    LayerMade,
    LossComputed,
    ModelMade,
    PolicyMade,
    PolicyRefused,
    PolicySet,
    PredictionsUsed,
    Ref,
    TapeGradient,
)
from mpaudit.finding import Span
from mpaudit.protocols import keras_policy_problems as problems
from mpaudit.protocols.keras_model import KerasProtocol, Layer
from mpaudit.protocols.protocol import Broken, Kept, Verdict

HALF = ("mixed_float16", "float16")
PURE = "float16"
WITH_WEIGHTS = (
    "Dense",
    "EinsumDense",
    "Embedding",
    "MultiHeadAttention",
    "LSTM",
    "GRU",
    "SimpleRNN",
)
PREPARING = frozenset(
    """Input InputLayer Normalization Rescaling Resizing CenterCrop Lambda TextVectorization StringLookup
    IntegerLookup CategoryEncoding Discretization Hashing HashedCrossing MelSpectrogram CutMix
    MixUp AutoContrast AugMix Solarization Equalization""".split()  # noqa: SIM905
)
"""Layers that prepare data: they have nothing to train, and are often built beforehand."""


class KerasPolicyProtocol(KerasProtocol):
    """MP501, MP502, MP509, MP510, MP511 and MP516.

    State, besides the books: "idle" -> the policies that were made and that nothing reads.
    Facts, besides the books: ("loss", layer) -> the loss that was computed from what left that layer;
    ("used", layer) -> True once a model that it is in was trained or used; ("tape", gradients) ->
    how they were taken.
    """

    __slots__ = ()

    takes = (
        PolicySet,
        PolicyMade,
        PolicyRefused,
        LayerMade,
        ModelMade,
        LossComputed,
        Forward,
        TapeGradient,
        GradientsApplied,
        PredictionsUsed,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        yield from self.observe(event)
        match event:
            case PolicyMade():
                self.state["idle"] = (*self._idle(), event)
            case PolicyRefused():
                yield problems.policy_refused(event)
            case PolicySet():
                for made in self._idle():
                    yield Kept("ineffective-policy", made.at)
            case LossComputed(output=output) if output is not None:
                self.facts[("loss", output)] = event
            case PredictionsUsed() if not self._spoils_loss(event.layer):
                yield problems.half_predictions(event)
            case Forward():
                yield from self._used(event, event.model)
            case TapeGradient(model=model) if model is not None:
                self.facts[("tape", event.gradients)] = event
                yield from self._trained(event, model, *event.others)
            case GradientsApplied():
                tape = self.facts.get(("tape", event.gradients))
                if isinstance(tape, TapeGradient) and tape.at == event.at and tape.model:
                    yield from self._unscaled(event, tape.model)

    def _trained(self, event: TapeGradient, *models: Ref) -> Iterator[Verdict]:
        layers = self.layers(*models)
        yield from self._split(event, layers)
        yield from self._used(event, *models)
        yield from self._outputs(*models)
        yield from self._pure(event, layers)
        following = [layer for layer in layers.values() if layer.own is None]
        set_to = self.state.get("policy")
        never = set_to is None or (isinstance(set_to, PolicySet) and set_to.floatx)
        if never and following and all(layer.under == "float32" for layer in following):
            first = min((each.at for each in following), key=lambda at: at.start)
            for made in self._idle():
                late = made.at.filename != first.filename or made.at > first
                yield problems.ineffective_policy(made, event, late=late)

    def _idle(self) -> tuple[PolicyMade, ...]:
        idle = self.state.get("idle")
        return idle if isinstance(idle, tuple) else ()

    # Set too late, or half-way

    def _used(self, event: Event, *models: Ref) -> Iterator[Verdict]:
        policy = self.overdue(*models)
        if policy is not None:
            yield problems.policy_after_model(policy, self._begun(*models), event)
        for ref in self.layers(*models):
            self.facts[("used", ref)] = True

    def _begun(self, *models: Ref) -> tuple[Span, str | None]:
        """Where the first piece of these models was built, and under which policy."""
        layers = self.layers(*models)
        first = layers[self._in_order(layers)[0]]
        at = first.at
        for made in map(self.facts.get, (("model", model) for model in models)):
            if isinstance(made, ModelMade) and made.at.filename == at.filename:
                at = min(at, made.at)
        return at, next(layer.under for layer in layers.values() if layer.unmixed)

    def _in_order(self, layers: dict[Ref, Layer]) -> list[Ref]:
        """Layers in the order in which they were built."""
        order = [name[1] for name in self.facts if isinstance(name, tuple) and name[0] == "layer"]
        return [ref for ref in order if isinstance(ref, Ref) and ref in layers]

    def _split(self, event: TapeGradient, layers: dict[Ref, Layer]) -> Iterator[Verdict]:
        """The policy was set when some of the layers existed, and others did not."""
        order = [ref for ref in self._in_order(layers) if _follows(layers[ref])]
        early = [ref for ref in order if layers[ref].unmixed]
        if not early or early[0] != order[0] or any(layers[ref].under is None for ref in order):
            return
        mixed = next((layers[ref] for ref in order if not layers[ref].unmixed), None)
        if (
            mixed is None
            or mixed.since is None
            or any(("used", ref) in self.facts for ref in early)
        ):
            return
        yield problems.policy_between_layers(
            mixed.since, [layers[ref] for ref in early], len(order), event
        )

    def _unscaled(self, event: GradientsApplied, model: Ref) -> Iterator[Verdict]:
        """Keras' own training step scales nothing: it goes by the policy when the model was made."""
        made = self.facts.get(("model", model))
        if event.scales is not False or not isinstance(made, ModelMade):
            return
        mixed = [
            layer
            for layer in self.layers(model).values()
            if layer.own is None and layer.under == "mixed_float16" and layer.since is not None
        ]
        if not mixed or made.policy is None or made.policy.startswith("mixed"):
            return
        set_to, first = self.state.get("policy"), mixed[0].since
        if isinstance(set_to, PolicySet) and set_to.policy == made.policy:
            yield problems.policy_reset_before_model(set_to, made, event)
        elif first is not None:
            yield problems.policy_after_empty_model(first, made, event)

    # Half from end to end

    def _outputs(self, *models: Ref) -> Iterator[Verdict]:
        late = self.overdue(*models)
        for ref, layer in self.layers(*models).items():
            loss = self.facts.get(("loss", ref))
            if not isinstance(loss, LossComputed):
                continue
            policy = late.policy if late is not None and layer.own is None else layer.policy
            if policy in HALF:
                if late is not None:
                    self.promise("output-not-float32", layer.at)
                yield problems.output_not_float32(layer, loss, self.state.get("policy"), late)

    def _spoils_loss(self, ref: Ref) -> bool:
        """Whether it is said already that the output of this layer is not float32."""
        layer = self.facts.get(("layer", ref))
        return ("loss", ref) in self.facts and isinstance(layer, Layer) and layer.policy in HALF

    def _pure(self, event: TapeGradient, layers: dict[Ref, Layer]) -> Iterator[Broken]:
        """Variables that are float16 themselves, because the policy or the layer's dtype is."""
        for layer in layers.values():
            if layer.own is None and layer.under == PURE and layer.since is not None:
                yield problems.pure_half_policy(layer.since, layer, event)
            elif layer.own == PURE and (layer.kind in WITH_WEIGHTS or "Conv" in layer.kind):
                yield problems.pure_half_layer(layer, event)


def _follows(layer: Layer) -> bool:
    """Whether a layer goes by the global policy, and computes something."""
    prepares = layer.kind in PREPARING or layer.kind.startswith("Rand")
    return layer.own is None and not prepares
