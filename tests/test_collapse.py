"""Loss scales that fall, against a scaler written out here and against torch's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mpaudit.runtime.collapse import Fall, fall
from mpaudit.runtime.record import Attempts


def scaled(overflows: Iterable[bool], start: float = 65536.0, growth: int = 2000) -> list[Any]:
    """The attempts of a scaler: which overflow is given, the scale follows."""
    rows: list[Attempts] = []
    scale, good = start, 0
    for step, overflow in enumerate(overflows):
        rows.append(Attempts(0, step, step, not overflow, scale))
        good = 0 if overflow else good + 1
        scale = scale / 2 if overflow else scale * 2 if good == growth else scale
        good %= growth
    return joined(rows)


def joined(rows: list[Attempts]) -> list[Attempts]:
    runs: list[Attempts] = []
    for row in rows:
        last = runs[-1] if runs else None
        if last and (last.applied, last.scale) == (row.applied, row.scale):
            runs[-1] = Attempts(0, last.first, row.last, row.applied, row.scale)
        else:
            runs.append(row)
    return runs


def test_every_step_skipped() -> None:
    assert fall(scaled([True] * 40)) == Fall(0, 0, 39, 40, 65536.0, 65536.0 / 2**39, 40)


def test_a_long_healthy_run_that_turns_bad() -> None:
    overflows = [False] * 4500 + [True] * 30
    found = fall(scaled(overflows))
    top = 65536.0 * 4  # it grew twice
    assert found == Fall(0, 4500, 4529, 30, top, top / 2**29, 30)


@pytest.mark.parametrize("every", [2, 5, 30])
def test_a_slow_fall(every: int) -> None:
    overflows = [step % every == 0 for step in range(40 * every)]
    found = fall(scaled(overflows))
    assert found is not None
    assert (found.skipped, found.last, found.attempts) == (40, 39 * every, 40 * every)
    assert found.whole is False
    assert found.end == 65536.0 / 2**39


@pytest.mark.parametrize(
    "overflows",
    [
        [True] * 6 + [False] * 200,  # calibration
        [True] * 20 + [False] * 21,  # calibration to a scale below 1: a summed loss
        [True] * 17,  # all the way down to 1, and not beyond
        [step % 30 == 0 for step in range(30 * 40)] + [False] * 91,  # a slow fall that ended
        [False] * 3000 + [True] * 5 + [False] * 10,  # a spike
        [step % 500 == 7 for step in range(4000)],  # now and then
        [False] * 100,
        [],
    ],
)
def test_what_is_no_fall(overflows: list[bool]) -> None:
    assert fall(scaled(overflows)) is None


def test_growth_ends_a_fall_however_deep() -> None:
    assert fall(scaled([True] * 40 + [False] * 12, growth=10)) is None


def test_what_was_not_seen_or_not_scaled_is_no_fall() -> None:
    assert fall([Attempts(0, 0, 99, False, None)]) is None
    assert fall([Attempts(0, 0, 39, True, None)]) is None
    assert fall([*scaled([True] * 40), Attempts(0, 40, 40, None, None)]) is None


def test_the_number_of_rows_does_not_grow_with_a_scale_of_zero() -> None:
    found = fall(scaled([True] * 5000))
    assert found is not None
    assert (found.skipped, found.end) == (5000, 0.0)


torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import model, trace, train  # noqa: E402

from mpaudit.render import html, run_json, run_text  # noqa: E402
from mpaudit.verdict import read  # noqa: E402


class EpsilonOutside(nn.Module):
    def forward(self, x: Any) -> Any:
        return x / (torch.sqrt((x * x).mean(-1, keepdim=True)) + 1e-3)


class EpsilonInside(nn.Module):
    def forward(self, x: Any) -> Any:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-4)


def normalised(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 12, bias=False), norm, nn.Linear(12, 4))


def loop(
    network: nn.Module, steps: int, *, scaling: bool = True, size: float = 1e-4, factor: float = 1.0
) -> list[tuple[float, bool]]:
    """Trains; returns the scale before each step, and whether it changed the parameters."""
    network.to("cuda")
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler("cuda", enabled=scaling)
    generator = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(steps):
        x = size * torch.randn(8, 12, generator=generator)
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = factor * criterion(network(x.to("cuda")), torch.arange(8) % 4)
        before = [each.detach().clone() for each in network.parameters()]
        scale = scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        after = zip(network.parameters(), before, strict=True)
        seen.append((scale, any(not torch.equal(ours, old) for ours, old in after)))
    return seen


def test_a_layer_whose_gradient_no_scale_fits(tmp_path: Path) -> None:
    seen, run = trace(tmp_path, lambda: loop(normalised(EpsilonOutside()), 30))
    assert {changed for _, changed in seen} == {False}
    rows = [
        (each.scale, each.applied)
        for each in run.attempts()
        for _ in range(each.first, each.last + 1)
    ]
    assert rows == seen
    (problem,) = run.problems()
    assert problem.rule == "gradient-overflow"
    assert problem.moment is not None
    assert (problem.moment.layer, problem.moment.op, problem.moment.step) == (
        "1",
        "EpsilonOutside",
        0,
    )
    assert (
        f"all 30 steps from step 0 on were skipped, the scale went from 65536 to {seen[-1][0]:.3g}"
        in problem.message
    )
    line = Path(problem.span.filename).read_text().splitlines()[problem.span.start.row - 1]
    assert "criterion(network(x.to" in line
    assert {(each.layer, each.judgement) for each in run.incidents()} == {("1", "defect")}
    # what goes into the layer's backward pass is finite, what comes out of it is not
    hidden = (3e-5 * torch.randn(8, 12)).half().requires_grad_()
    EpsilonOutside()(hidden).backward(torch.full_like(hidden, 2.0**-20))
    assert not hidden.grad.isfinite().all()


def test_calibration_is_benign_and_no_finding(tmp_path: Path) -> None:
    seen, run = trace(tmp_path, lambda: loop(normalised(EpsilonInside()), 40, factor=300.0))
    skipped = [step for step, (_, changed) in enumerate(seen) if not changed]
    assert 0 < len(skipped) < 20
    assert [
        s for a in run.attempts() if not a.applied for s in range(a.first, a.last + 1)
    ] == skipped
    assert run.problems() == []
    assert {each.judgement for each in run.incidents()} == {"benign"}


def test_an_overflow_that_is_applied_is_the_gradients_fault(tmp_path: Path) -> None:
    network = normalised(EpsilonOutside())
    _, run = trace(tmp_path, lambda: loop(network, 3, scaling=False))
    assert any(not each.isfinite().all() for each in network.parameters())
    found = {each.rule: each for each in run.problems()}
    assert set(found) == {"gradient-overflow"}  # a scaler is there, only not enabled
    assert "at layer '1', and step 0 applies them" in found["gradient-overflow"].message
    assert {each.rule for each in run.incidents()} == {"gradient-overflow"}


def test_parameters_that_are_lost_are_not_the_fault_of_what_the_layer_computes(
    tmp_path: Path,
) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):  # type: ignore[no-untyped-def]
            ctx.factor = factor
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            return gradient * ctx.factor, None

    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    seen = []

    def run() -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        for step in range(20):  # from the tenth step on not every one is looked at
            optimizer.zero_grad()
            factor = torch.inf if step == 13 else 1.0
            Once.apply(network(torch.randn(4, 8)), factor).square().mean().backward()
            optimizer.step()
            seen.append(network[0].weight.isfinite().all().item())

    _, run_ = trace(tmp_path, run)
    assert seen == [True] * 13 + [False] * 7
    (problem,) = run_.problems()
    assert problem.moment is not None
    assert (problem.moment.layer, problem.moment.step) == ("0", 14)
    assert "the weight of layer '0' is not finite: an earlier step was applied" in problem.message


def test_a_gradient_that_overflows_beside_a_layer_is_not_the_layers(tmp_path: Path) -> None:
    def spread() -> None:
        torch.manual_seed(0)
        encoder, head = nn.Linear(12, 12).cuda(), nn.Linear(12, 4).cuda()
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
        scaler = torch.amp.GradScaler("cuda")
        for _ in range(25):
            with torch.autocast("cuda"):
                z = encoder(torch.randn(8, 12))
                apart = (z[:, None] - z[None]).float().square().sum(-1).sqrt().mean()
                loss = nn.functional.cross_entropy(head(z), torch.arange(8) % 4) - apart
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    _, run = trace(tmp_path, spread)
    (problem,) = run.problems()
    assert problem.rule == "loss-scale-collapse"
    line = Path(problem.span.filename).read_text().splitlines()[problem.span.start.row - 1]
    assert "scaler.step(optimizer)" in line
    assert "or beside it" in problem.related[0].message


def test_a_layer_whose_weight_gradient_overflows_is_the_culprit_of_a_skip(tmp_path: Path) -> None:
    def sums() -> tuple[list[str], Any]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).to("cuda")
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)
        scaler = torch.amp.GradScaler("cuda", init_scale=64.0)
        with torch.autocast("cuda"):
            output = network(30 * torch.randn(4096, 4).abs())
        scaler.scale(output.float().sum()).backward()
        bad = [name for name, each in network.named_parameters() if not each.grad.isfinite().all()]
        scaler.step(optimizer)
        scaler.update()
        return bad, network

    (bad, _), run = trace(tmp_path, sums)
    assert {name.split(".")[0] for name in bad} == {each.layer for each in run.incidents()}
    assert "in the gradient of its weight in float16" in run.incidents()[0].message
    assert {each.judgement for each in run.incidents()} == {"benign"}
    assert run.problems() == []


def test_a_mask_does_not_hide_what_goes_wrong_in_the_gradients(tmp_path: Path) -> None:
    class Mask(nn.Module):
        def forward(self, scores: Any) -> Any:
            return scores.masked_fill(torch.arange(4) == 3, float("-inf"))

    network = nn.Sequential(*normalised(EpsilonOutside()), Mask(), nn.Softmax(-1))
    _, run = trace(tmp_path, lambda: loop(network, 30))
    judged = {(each.layer, each.rule, each.judgement) for each in run.incidents()}
    assert ("3", "activation-overflow", "masked") in judged
    assert ("1", "gradient-overflow", "defect") in judged


def test_the_same_bits_with_and_without(tmp_path: Path) -> None:
    def cpu(network: nn.Module) -> list[Any]:
        return [
            train(network, device="cpu", factor={1: float("inf"), 2: 1e9}),
            *network.parameters(),
        ]

    plain = cpu(model())
    watched, _ = trace(tmp_path, lambda: cpu(model()))
    assert watched[0] == plain[0]
    assert all(torch.equal(a, b) for a, b in zip(watched[1:], plain[1:], strict=True))


def test_every_format_shows_it(tmp_path: Path) -> None:
    trace(tmp_path, lambda: loop(normalised(EpsilonOutside()), 30))
    report = read(tmp_path / "run.mpa")
    data = json.loads(run_json.render(report))
    assert "MP902" in [each["code"] for each in data["findings"]]
    assert {each["class"] for each in data["events"]} == {"defect"}
    text = run_text.render(report)
    assert "error[MP902] gradient-overflow: layer '1' makes" in text
    assert "MP902" in html.render(report)


def test_every_skipped_step_has_its_scale_before_and_after_and_a_culprit(tmp_path: Path) -> None:
    seen, _ = trace(tmp_path, lambda: loop(normalised(EpsilonInside()), 40, factor=300.0))
    report = read(tmp_path / "run.mpa")
    (optimizer,) = json.loads(run_json.render(report))["optimizers"]
    scales = [scale for scale, _ in seen]
    expected = [
        (step, scale, scales[step + 1]) for step, (scale, changed) in enumerate(seen) if not changed
    ]
    skips = optimizer["skips"]
    assert [(e["step"], e["scale_before"], e["scale_after"]) for e in skips] == expected
    paths = {each.layer.path for each in report.layers}
    assert all(each["layers"] and set(each["layers"]) <= paths for each in skips)
    first = skips[0]
    assert f"skipped: {first['layers'][0]}" in run_text.render(report)


def test_only_what_is_under_suspicion_is_measured_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpaudit.runtime.torch.measure import Numbers

    counted: list[int] = []
    measure = Numbers.measure

    def counting(numbers: Any, tensor: Any, receive: Any) -> None:
        counted.append(tensor.numel())
        measure(numbers, tensor, receive)

    monkeypatch.setattr(Numbers, "measure", counting)
    trace(tmp_path, lambda: train(model()))
    healthy = len(counted)
    # outputs of two layers and of the loss, not of the ReLU, and gradients of all four
    assert healthy == 6 * (3 + 4)
    counted.clear()
    trace(tmp_path, lambda: loop(normalised(EpsilonOutside()), 30))
    # the gradient of the norm's input has three parts, looked at until one of them tells
    assert len(counted) <= 30 * (4 + 4) + 3
