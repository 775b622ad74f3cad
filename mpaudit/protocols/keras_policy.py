"""The Keras dtype policy: set before the first layer, with the model's output kept in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mpaudit.event import (
    Event,
    Forward,
    LayerMade,
    LossComputed,
    ModelMade,
    PolicySet,
    Ref,
    TapeGradient,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.keras_model import KerasProtocol, Layer
from mpaudit.protocols.protocol import Broken, Verdict

HALF = ("mixed_float16", "float16")
BUILT = "the model is built here, before that policy is set"


class KerasPolicyProtocol(KerasProtocol):
    """MP501 and MP502.

    Facts, besides the books: ("loss", layer) -> the loss that was computed from what left that layer.
    """

    __slots__ = ()

    takes = (
        PolicySet,
        LayerMade,
        ModelMade,
        LossComputed,
        Forward,
        TapeGradient,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        yield from self.observe(event)
        match event:
            case LossComputed(output=output) if output is not None:
                self.facts[("loss", output)] = replace(event, moment=None)
            case Forward():
                yield from self._used(event, event.model)
            case TapeGradient(model=model) if model is not None:
                yield from self._used(event, model, *event.others)
                yield from self._outputs(model, *event.others)

    def _used(self, event: Event, *models: Ref) -> Iterator[Verdict]:
        policy = self.overdue(*models)
        if policy is not None:
            yield _policy_after_model(policy, self._begun(*models), event)

    def _begun(self, *models: Ref) -> tuple[Span, str | None]:
        """Where the first piece of these models was built, and under which policy."""
        layers = self.layers(*models)
        order = [name[1] for name in self.facts if isinstance(name, tuple) and name[0] == "layer"]
        first = next(layers[ref] for ref in order if isinstance(ref, Ref) and ref in layers)
        at = first.at
        for made in map(self.facts.get, (("model", model) for model in models)):
            if isinstance(made, ModelMade) and made.at.filename == at.filename:
                at = min(at, made.at)
        return at, next(layer.under for layer in layers.values() if layer.unmixed)

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
                yield _output_not_float32(layer, loss, self.state.get("policy"), late)


def _policy_after_model(policy: PolicySet, begun: tuple[Span, str | None], event: Event) -> Broken:
    at, before = begun
    trained = isinstance(event, TapeGradient)
    return Broken(
        Problem(
            "policy-after-model",
            policy.at,
            f"the policy `{policy.policy}` is set after the layers were built: they stay {before}",
            "nothing is mixed: every layer of the model computes in float32, `compile` adds no loss "
            "scaling, and nothing warns",
            (
                Related(at, BUILT),
                Related(event.at, f"the model is {'trained' if trained else 'used'} here"),
            ),
            (("policy", policy.policy or ""),),
        )
    )


def _output_not_float32(
    layer: Layer, loss: LossComputed, policy: object, late: PolicySet | None
) -> Broken:
    activation = layer.activation or "linear"
    if loss.got in ("softmax", "sigmoid"):
        activation = loss.got
    consequence = {
        "softmax": "a probability below 6e-8 becomes zero: the loss of a confident wrong answer is cut off "
        "at 16.118, and its gradient is 0",
        "sigmoid": "the output is exactly 1 from a logit of 8 on: the loss of a confident wrong answer is "
        "cut off near 16, and its gradient is 0",
    }.get(activation, "the values the loss starts from have 3 digits, and overflow beyond 65504")
    related = [Related(loss.at, "the loss is computed from it here")]
    if isinstance(policy, PolicySet):
        related.insert(0, Related(policy.at, "the policy is set here"))
    when = ", as soon as the policy takes effect" if late is not None else ""
    return Broken(
        Problem(
            "output-not-float32",
            layer.at,
            f"the model's output layer computes in float16, and its {activation} output leaves in it{when}"
            if activation != "linear"
            else f"the model's output layer computes, and its output leaves, in float16{when}",
            consequence,
            tuple(related),
            (("output", str(layer.at)),),
        )
    )
