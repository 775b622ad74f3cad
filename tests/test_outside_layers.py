"""Numbers that go wrong where no layer computes them: between layers, in the loss, without an optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from mpaudit import verdict  # noqa: E402
from mpaudit.protocols import machines  # noqa: E402
from mpaudit.render import html, run_text  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

STEPS = 24
BAD = {6, 13, 21}


def watch(path: Path, loop: Any, sampling: Sampling) -> Any:
    tracer = Tracer(path, machines(), sampling)
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        found = loop()
        tracer.flush()
    finally:
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    return found


def incidents(path: Path) -> list[tuple[Any, ...]]:
    with Reader(path) as run:
        return [(i.layer, i.kind, i.judgement, i.first_step, i.count) for i in run.incidents()]


def two_parts(
    between: Any, *, first: Any = None, last: Any = None, data: Any = lambda _, value: value
) -> tuple[list[int], list[Any]]:
    """A script that computes something between two models; returns its bad steps, and parameters."""
    torch.manual_seed(0)
    first, last = first or nn.Linear(4, 4), last or nn.Linear(4, 2)
    parameters = [*first.parameters(), *last.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    wrong = []
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given = between(step, first(data(step, torch.randn(3, 4))))
            if not given.isfinite().all():
                wrong.append(step)
            result = last(given)
        scaler.scale(result.float().square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    return wrong, [each.detach().clone() for each in parameters]


def overflowing(step: int, value: Any) -> Any:
    return value * (3e38 if step in BAD else 1.0) * 10.0


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, value: Any) -> Any:
        return self.outer(self.inner(value))


@pytest.mark.parametrize("every", [1, None])
@pytest.mark.parametrize("last", [lambda: nn.Linear(4, 2), Pair])
def test_what_is_computed_between_two_models(tmp_path: Path, last: Any, every: int | None) -> None:
    def loop() -> Any:
        torch.manual_seed(1)
        return two_parts(overflowing, last=last())

    plain, path = loop(), tmp_path / "run.mpa"
    wrong, parameters = watch(path, loop, Sampling(every))
    assert wrong == plain[0] == sorted(BAD)
    assert all(map(torch.equal, parameters, plain[1]))
    began = [each for each in incidents(path) if each[1] == "input-nonfinite"]
    assert began == [("last", "input-nonfinite", "defect", min(BAD), len(BAD))]
    with Reader(path) as run:
        assert [(p.rule, p.moment.step) for p in run.problems() if p.rule[0] == "a"] == [
            ("activation-overflow", min(BAD))
        ]
        assert [each[1:3] for each in run.meta["skips"]] == [[step, step] for step in sorted(BAD)]
        assert {tuple(each[3]) for each in run.meta["skips"]} == {("last",)}
    advice = run_text.render(verdict.read(path)).partition("\nadvice\n")[2]
    assert "keep in float32" not in advice


class Between(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.step = nn.Linear(4, 4), nn.Linear(4, 4), -1

    def forward(self, value: Any) -> Any:
        self.step += 1
        return self.last(overflowing(self.step, self.first(value)))


def test_what_a_container_computes_between_its_layers_is_the_containers(tmp_path: Path) -> None:
    path = tmp_path / "run.mpa"
    watch(path, lambda: two_parts(lambda _, value: value, first=Between()), Sampling(1))
    began = [each for each in incidents(path) if each[1].startswith("activation")]
    assert [(each[0], each[2:]) for each in began] == [("", ("defect", min(BAD), len(BAD)))]
    assert not [each for each in incidents(path) if each[1] == "input-nonfinite"]


class Overflowing(nn.Linear):
    """A layer that overflows in some steps."""

    step = -1

    def forward(self, value: Any) -> Any:
        self.step += 1
        return overflowing(self.step, super().forward(value))


class Kept(nn.Module):
    """A state that goes on from step to step, and is bad from one on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.state = nn.Linear(4, 2), torch.zeros(3, 4)

    def forward(self, value: Any) -> Any:
        self.state = self.state.detach() + value
        return self.layer(self.state)


def test_what_a_layer_or_the_data_began_is_not_told_again(tmp_path: Path) -> None:
    def masked(_: int, value: Any) -> Any:
        return value.masked_fill(torch.eye(3, 4, dtype=torch.bool), float("-inf"))

    def nan(step: int, value: Any) -> Any:
        return value + (float("nan") if step in BAD else 0.0)

    cases = {
        "layer": (lambda _, value: value[:, [3, 2, 1, 0]] * 0.5, {"first": Overflowing(4, 4)}),
        "mask": (masked, {"last": nn.Sequential(nn.Softmax(-1), nn.Linear(4, 2))}),
        "kept mask": (masked, {"last": nn.Identity()}),
        "data": (lambda _, value: value * 2.0, {"data": nan}),
    }
    for name, (between, parts) in cases.items():
        path = tmp_path / f"{name}.mpa"
        watch(path, lambda between=between, parts=parts: two_parts(between, **parts), Sampling(1))
        assert not [
            each for each in incidents(path) if each[1:3] == ("input-nonfinite", "defect")
        ], name
    assert incidents(tmp_path / "layer.mpa")[0][1] == "activation-overflow"


def test_a_bad_state_is_told_where_it_began(tmp_path: Path) -> None:
    path = tmp_path / "run.mpa"
    watch(path, lambda: two_parts(overflowing, last=Kept()), Sampling(1))
    found = [each for each in incidents(path) if each[2] == "defect"]
    assert [(each[0], each[3]) for each in found][:1] == [("last", min(BAD))]


def train(bad_loss: bool, losses: list[float]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for step in range(STEPS):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = network(torch.randn(3, 4)).square().mean()
        if step in BAD and bad_loss:
            loss = loss * 60000.0 * 60000.0
        losses.append(loss.item())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(), Sampling(light=True)])
def test_a_loss_that_overflows_by_itself_is_no_calibration(
    tmp_path: Path, sampling: Sampling
) -> None:
    losses: list[float] = []
    path = tmp_path / "run.mpa"
    watch(path, lambda: train(True, losses), sampling)
    wrong = [step for step, loss in enumerate(losses) if loss == float("inf")]
    assert wrong == sorted(BAD)
    found = incidents(path)
    assert ("", "activation-overflow", "defect", wrong[0], len(wrong)) in found
    with Reader(path) as run:
        skipped = [[each.first, each.last] for each in run.attempts() if not each.applied]
        benign = {step for first, last in skipped for step in range(first, last + 1)} - BAD
        assert benign and benign.isdisjoint(wrong)  # the scale that is found, before
        for each in run.incidents():
            if each.judgement == "benign":
                assert {each.first_step, each.last_step} <= benign
        problems = [each for each in run.problems() if each.rule == "activation-overflow"]
        assert [each.moment.step for each in problems] == [wrong[0]]
    report = verdict.read(path)
    assert f"\n  {len(wrong)} losses inf or nan\n" in run_text.render(report)
    assert f'<p class="losses">{len(wrong)} losses inf or nan</p>' in html.render(report)


def test_a_loss_that_a_scaler_multiplied_too_much_is_calibration(tmp_path: Path) -> None:
    losses: list[float] = []
    path = tmp_path / "run.mpa"
    watch(path, lambda: train(False, losses), Sampling(1))
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert {each[2] for each in incidents(path)} == {"benign"}
    with Reader(path) as run:
        assert "activation-overflow" not in {each.rule for each in run.problems()}
    assert "inf or nan" not in run_text.render(verdict.read(path))


def half_model(losses: list[float], multiplied: bool) -> None:
    """Nothing is scaled, and gradients of a loss that is inf are applied."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).half()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(16):
        output = network(torch.randn(3, 4).half())
        loss = (output * (6e4 if step == 13 else 1.0)).square().mean()
        loss = loss * 1.0 if multiplied else loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(), Sampling(light=True)])
def test_a_loss_that_overflows_is_told_where_nothing_scales_it(
    tmp_path: Path, sampling: Sampling
) -> None:
    losses: list[float] = []
    path = tmp_path / "run.mpa"
    watch(path, lambda: half_model(losses, False), sampling)
    assert losses[13] == float("inf") and all(each != each for each in losses[14:])
    assert next(each[:4] for each in incidents(path) if each[3] == 13) == (
        *("", "activation-overflow", "defect"),
        13,
    )
    assert "before it is scaled" not in run_text.render(verdict.read(path))


def test_a_loss_that_may_have_been_scaled_by_hand_is_no_overflow_by_itself(tmp_path: Path) -> None:
    losses: list[float] = []
    path = tmp_path / "run.mpa"
    watch(path, lambda: half_model(losses, True), Sampling(1))
    assert losses[13] == float("inf")
    assert ("", 13) not in {(each[0], each[3]) for each in incidents(path)}
    assert "\n  3 losses inf or nan\n" in run_text.render(verdict.read(path))


def picture(losses: list[float]) -> None:
    """A model that no optimizer trains: what it is given is."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).requires_grad_(False)
    image = torch.randn(3, 4, requires_grad=True)
    optimizer = torch.optim.SGD([image], lr=0.1)
    for step in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = network(image * (float("inf") if step == 17 else 1.0)).float().square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if step != 17:
            optimizer.step()


def test_work_of_a_frozen_model_belongs_to_the_steps_of_what_is_trained(tmp_path: Path) -> None:
    losses: list[float] = []
    path = tmp_path / "run.mpa"
    watch(path, lambda: picture(losses), Sampling(1))
    wrong = [step for step, loss in enumerate(losses) if loss != loss]
    with Reader(path) as run:
        assert {each.calls for each in run.layers()} == {STEPS}
        assert {each.calls_per_step for each in run.layers()} == {1}
        rows = {each.layer: each for each in run.statistics() if each.phase == "forward"}
        assert [rows["0"].first_bad_step] == wrong == [17]
        assert [(each.first, each.last) for each in run.attempts()] == [(0, STEPS - 2)]


def by_hand() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    for _ in range(4):
        network(torch.randn(3, 4)).square().mean().backward()
        with torch.no_grad():
            for each in network.parameters():
                each -= 0.1 * each.grad
                each.grad = None


def test_it_is_said_where_no_optimizer_steps(tmp_path: Path) -> None:
    path = tmp_path / "run.mpa"
    watch(path, by_hand, Sampling(1))
    report = verdict.read(path)
    for text in (run_text.render(report), html.render(report)):
        assert "o step of an optimizer was seen: all that came in the run is told as step 0" in text


@pytest.mark.parametrize("bad", ["first", "second"])
@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(), Sampling(light=True)])
def test_a_skip_is_that_of_the_optimizer_whose_gradients_overflow(
    tmp_path: Path, sampling: Sampling, bad: str
) -> None:
    told: list[tuple[int, list[bool]]] = []

    def loop() -> None:
        """Two models, whose losses both go backward before both optimizers step."""
        torch.manual_seed(0)
        models = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
        optimizers = [torch.optim.SGD(each.parameters(), lr=1e-3) for each in models]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(STEPS):
            for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(torch.randn(3, 4)).float().square().mean()
                wrong = step in (0, 13) and number == (bad == "second")
                scaler.scale(loss * (1e36 if wrong else 1.0)).backward()
            finite = [all(p.grad.isfinite().all() for p in each.parameters()) for each in models]
            told.append((step, [bool(each) for each in finite]))
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()

    path = tmp_path / "run.mpa"
    watch(path, loop, sampling)
    with Reader(path) as run:
        rows = run.attempts()
        for step, finite in told:
            applied = [r.applied for r in rows if r.first <= step <= r.last]
            assert applied == finite
        assert {each.judgement for each in run.incidents()} == {"benign"}
        first = {each.path.partition(".")[0] for each in run.layers()}
        assert len(first) > 1
        culprits = {(each[0], each[1]) for each in run.meta["skips"] if each[3]}
    assert culprits == {(int(bad == "second"), 0), (int(bad == "second"), 13)}
