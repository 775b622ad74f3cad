"""A Keras policy where it does not belong: float16 on a TPU, and in models that are loaded again."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, LayerMade, ModelLoaded, ModelSaved, PolicySet, StrategyMade
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "misplaced-policy"
HALF = "mixed_float16"


class MisplacedPolicyProtocol(Protocol):
    """MP513, but for what is left on after a test.

    State: "policy" -> the PolicySet in force; "tpu" -> the StrategyMade of a TPU; ("saved", path) -> the
    ModelSaved under mixed_float16.
    """

    __slots__ = ()

    takes = (PolicySet, StrategyMade, LayerMade, ModelSaved, ModelLoaded)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case PolicySet():
                self.state["policy"] = event
            case StrategyMade(kind="TPUStrategy"):
                self.state["tpu"] = event
            case LayerMade(policy=None):
                yield from self._built()
            case ModelSaved():
                known = event if event.policy == HALF else None
                self.state[("saved", event.path)] = known
            case ModelLoaded():
                yield from self._loaded(event)

    def _built(self) -> Iterator[Verdict]:
        policy, tpu = self.state.get("policy"), self.state.get("tpu")
        if not isinstance(policy, PolicySet) or policy.policy != HALF:
            return
        if not isinstance(tpu, StrategyMade):
            yield Kept(RULE, policy.at, occasional=True)
            return
        yield Broken(
            Problem(
                RULE,
                policy.at,
                "the policy is mixed_float16, and the layers are built for a TPU",
                "a TPU has units for bfloat16 and none for float16: it is slower, and needs loss scaling "
                "for nothing",
                (Related(tpu.at, "the TPU's strategy is made here"),),
                (("hardware", "tpu"),),
            ),
            grounded=not policy.chosen,
        )

    def _loaded(self, event: ModelLoaded) -> Iterator[Verdict]:
        policy, saved = self.state.get("policy"), self.state.get(("saved", event.path))
        if not isinstance(policy, PolicySet) or not isinstance(saved, ModelSaved):
            return
        if policy.policy != "float32":
            return
        yield Broken(
            Problem(
                RULE,
                event.at,
                "the model was saved under mixed_float16, and is loaded as that; the policy is float32",
                "its layers keep their policies: they compute in float16, many times slower on a CPU, and "
                "what leaves them is float16",
                (
                    Related(saved.at, "it is saved here"),
                    Related(policy.at, "the policy becomes float32 here"),
                ),
            ),
            grounded=True,
        )
