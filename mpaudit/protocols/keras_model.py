"""What Keras policies, layers and models there are: the ground of the Keras protocols."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from mpaudit.event import Event, LayerMade, ModelMade, PolicySet, Ref
from mpaudit.finding import Span
from mpaudit.protocols.protocol import Kept, Protocol

UNKNOWN = "?"


class Layer(Struct, frozen=True):
    """A layer as it was built: its own `dtype`, else the global policy then (None: not known).

    `since` is the event that put that policy in force, None for the default.
    """

    at: Span
    kind: str
    activation: str | None
    own: str | None
    under: str | None
    since: PolicySet | None = None

    @property
    def policy(self) -> str | None:
        """The policy it computes by, None if that is not known."""
        own = None if self.own == UNKNOWN else self.own
        return own if self.own is not None else self.under

    @property
    def unmixed(self) -> bool:
        """Whether it follows the global policy, and that was known and not a mixed one."""
        return self.own is None and self.under is not None and not self.under.startswith("mixed")


class KerasProtocol(Protocol):
    """Keeps the books; the protocols derive from it.

    State: "policy" -> the PolicySet in force; "late" -> True from a mixed policy on until something is
    built under it; "promised" -> the places of problems that rest on the policy being late; "before"
    -> the policy that was in force when a function was called some time later.
    Facts: ("layer", ref) -> Layer; ("model", ref) -> ModelMade.
    """

    __slots__ = ()

    def later(self) -> KerasProtocol:
        """A function that is called later works with the policy and the models there are.

        If it builds a model, that says nothing about those that were trained before.
        """
        machine = type(self)(self.state.copy(), self.facts.copy())
        if "policy" in self.state:  # without one, nothing is under way
            machine.state["before"] = self.state["policy"]
        return machine

    def imported(self, other: Protocol) -> None:
        """Know the layers and models of an imported module, and the policy that it sets."""
        self.facts = {**other.facts, **self.facts}
        if "policy" not in self.state:
            self.state.update(other.state)

    def observe(self, event: Event) -> Iterator[Kept]:
        """Enter an event into the books."""
        match event:
            case PolicySet():
                self.state["policy"] = event
                self.state["late"] = (event.policy or "").startswith("mixed")
                self.state["promised"] = ()
            case LayerMade():
                yield from self._in_time()
                since = self.state.get("policy")
                self.facts[("layer", event.layer)] = Layer(
                    event.at,
                    event.kind,
                    event.activation,
                    event.policy,
                    self.policy,
                    since if isinstance(since, PolicySet) else None,
                )
            case ModelMade():
                if not event.layers:
                    yield from self._in_time()
                self.facts[("model", event.model)] = event

    @property
    def policy(self) -> str | None:
        """The name of the global policy, None if it is not known."""
        policy = self.state.get("policy")
        return policy.policy if isinstance(policy, PolicySet) else "float32"

    def _in_time(self) -> Iterator[Kept]:
        """Something is built under the policy: so it was not set too late for that."""
        policy, promised = self.state.get("policy"), self.state.get("promised")
        if self.state.get("late") and isinstance(policy, PolicySet) and isinstance(promised, tuple):
            if policy != self.state.get("before"):
                yield Kept("policy-after-model", policy.at)
                for rule, span in promised:
                    yield Kept(rule, span)
            self.state["late"], self.state["promised"] = False, ()

    def promise(self, rule: str, span: Span) -> None:
        """Note a problem that stands only if nothing will be built under the policy in force."""
        promised = self.state.get("promised")
        if isinstance(promised, tuple) and (rule, span) not in promised:
            self.state["promised"] = (*promised, (rule, span))

    def layers(self, *models: Ref) -> dict[Ref, Layer]:
        """The layers of models, those of models within them included, in order."""
        found: dict[Ref, Layer] = {}
        waiting, seen = list(reversed(models)), set()
        while waiting:
            ref = waiting.pop()
            made, layer = self.facts.get(("model", ref)), self.facts.get(("layer", ref))
            if isinstance(layer, Layer):
                found[ref] = layer
            if isinstance(made, ModelMade) and ref not in seen:
                waiting.extend(reversed(made.layers))
            seen.add(ref)
        return found

    def overdue(self, *models: Ref) -> PolicySet | None:
        """The policy that was set too late for these models, None if there is no such thing."""
        policy = self.state.get("policy")
        if not self.state.get("late") or not isinstance(policy, PolicySet):
            return None
        following = [layer for layer in self.layers(*models).values() if layer.own is None]
        late = bool(following) and all(layer.unmixed for layer in following)
        return policy if late else None
