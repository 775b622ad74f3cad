"""What the protocols are told of a run, event by event."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mpaudit.event import Backward, Event, ScalerStep  # noqa: E402
from mpaudit.protocols.protocol import Protocol, Verdict  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402


class Heard(Protocol):
    """A protocol that only listens."""

    __slots__ = ("events",)

    takes = (Event,)

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def feed(self, event: Event) -> Iterator[Verdict]:
        self.facts[len(self.events)] = True  # it never is where it was: it is told of everything
        self.events.append(event)
        return iter(())


def heard(
    tmp_path: Path, run: Callable[[], object], *kinds: type[Event], **asked: Any
) -> list[Any]:
    """What is told of a run."""
    listening = Heard()
    tracer = Tracer(tmp_path / "run.mpa", [listening], Sampling(**asked))
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        run()
    finally:
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    return [each for each in listening.events if isinstance(each, kinds)]


@pytest.mark.parametrize("light", [False, True])
def test_all_scalers_behind_a_loss_are_told(tmp_path: Path, light: bool) -> None:
    def run() -> None:
        network = torch.nn.Linear(4, 4)
        first, second = (torch.amp.GradScaler("cpu", init_scale=n) for n in (2.0, 4.0))
        for _ in range(3):
            first.scale(network(torch.ones(2, 4)).sum()).backward()
            value = network(torch.ones(2, 4))
            (first.scale(value.sum()) + second.scale(value.square().mean())).backward()
            second.scale(network(torch.ones(2, 4)).mean()).backward()
            network(torch.ones(2, 4)).mean().backward()

    told = heard(tmp_path, run, Backward, light=light)
    texts = [[each.text for each in event.scalers] for event in told]
    assert texts == [["first"], ["first", "second"], ["second"], []] * 3


def test_losses_that_live_are_others_and_are_called_what_the_script_calls_them(
    tmp_path: Path,
) -> None:
    def run() -> None:
        weight = torch.ones(2, requires_grad=True)
        for step in range(30):
            one = weight.sum() / 2
            other = weight.square().sum() / 2
            kept.append(one)
            (one if step % 3 else other).backward()

    kept: list[Any] = []
    told = heard(tmp_path, run, Backward, light=True)
    assert [each.loss.text for each in told] == [
        "one" if step % 3 else "other" for step in range(30)
    ]
    held = {each.loss.key for step, each in enumerate(told) if step % 3}
    assert len(held) == 20  # they live on, and are others each


def test_gradients_that_a_scaler_divides_are_not_the_scripts_edit(tmp_path: Path) -> None:
    def run() -> None:
        network = torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for step in range(8):
            if step % 2:
                optimizer.zero_grad(set_to_none=step > 3)
            scaler.scale(network(torch.ones(2, 4)).sum()).backward()
            if step in (2, 5):
                network.weight.grad.add_(1.0)
            for _ in range(2 if step == 6 else 1):
                scaler.step(optimizer)
                scaler.update()

    told = heard(tmp_path, run, ScalerStep, light=True)
    assert [each.edited for each in told] == [s in (2, 5) for s in (0, 1, 2, 3, 4, 5, 6, 6, 7)]


@pytest.mark.parametrize("light", [False, True])
def test_what_a_function_has_let_go_of_is_not_kept_by_looking_for_names(
    tmp_path: Path, light: bool
) -> None:
    lived: list[bool] = []
    own: list[dict[str, Any]] = []

    def run() -> None:
        weight = torch.ones(2, requires_grad=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for step in range(12):
            output = weight * step
            gone = weakref.ref(output)
            if step == 10:
                own.append(locals())  # it is the script's from here on
            loss = output.sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            del output, loss
            lived.append(gone() is not None)

    heard(tmp_path, run, light=light)
    assert lived[:10] == [False] * 10
    assert own[0]["scaler"] is not None and "weight" in own[0]
