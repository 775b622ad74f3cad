"""Advice of real runs, put into effect: against scripts that were edited by hand to the same end."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import batches, model, mpaudit, train  # noqa: E402

from mpaudit.finding import Finding, Position, Span  # noqa: E402
from mpaudit.protocols import machines  # noqa: E402
from mpaudit.render import html, run_json, run_text  # noqa: E402
from mpaudit.render import outcome as render  # noqa: E402
from mpaudit.rule import Severity  # noqa: E402
from mpaudit.runtime.advice import Advice, advise, outcome, without_effect  # noqa: E402
from mpaudit.runtime.summary import RunReport, stamp, summarise  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

TOP = 65504.0


def watched(
    path: Path,
    loop: Callable[[], Any],
    remedy: Advice | None = None,
    before: dict[str, Any] | None = None,
) -> tuple[Any, RunReport]:
    """The result of a loop on an emulated GPU, and the report of it; `before` is compared with it."""
    tracer = Tracer(path, machines())
    if remedy is not None:
        tracer.note("applied", {"advice": remedy.data(), "before": before})
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None, None, remedy)
    try:
        result = loop()
    finally:
        tracer.flush()
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    with Reader(path) as reader:
        return result, summarise(reader, [stamp(each) for each in reader.problems()])


def large() -> Any:
    """Two layers that only float32 can compute: weights, then outputs, beyond 65504."""
    torch.manual_seed(0)
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 16), nn.LayerNorm(16)]
    network = nn.Sequential(*layers, nn.Linear(16, 4))
    with torch.no_grad():
        network[2].weight.mul_(1e6)
    return network


class Kept(nn.Module):
    """A layer that is kept in float32 by hand."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Any) -> Any:
        """As torch's notes on autocast show it."""
        with torch.autocast("cuda", enabled=False):
            return self.inner(inputs.float())


def beyond(network: Any) -> set[str]:
    """The layers that need numbers float16 lacks, by a forward pass in float32."""
    found = set()
    inputs = batches(1)[0][0]
    with torch.no_grad():
        for name, layer in network.named_children():
            numbers = [*layer.parameters(), outputs := layer(inputs)]
            if any(float(each.abs().max()) > TOP for each in (*numbers, inputs)):
                found.add(name)
            inputs = outputs
    return found


def rounds(folder: Path, loop: Callable[[], Any]) -> tuple[Advice, RunReport, RunReport, Any]:
    """Advice until there is no more of it; the reports before and after, and the last result."""
    result, report = watched(folder / "0.mpa", loop)
    before, advice = report, Advice()
    for number in range(1, 6):
        more = advise(report)
        if more is None or more.empty:
            break
        advice = more.after(advice)
        result, report = watched(folder / f"{number}.mpa", loop, advice)
    return advice, before, report, result


def test_a_model_that_overflows_trains_with_the_fewest_layers_in_float32(tmp_path: Path) -> None:
    advice, before, after, losses = rounds(tmp_path, lambda: train(large()))
    assert beyond(large()) == {"2", "3", "4"}  # the last is a LayerNorm, which autocast keeps
    assert advice == Advice(("2", "3"), reasons=advice.reasons)
    assert advice.reasons[0] == "layer '2' has weights that float16 cannot hold"
    assert [before.optimizers[0].applied, after.optimizers[0].applied] == [0, 6]

    def by_hand() -> list[float]:
        network = large()
        network[2], network[3] = Kept(network[2]), Kept(network[3])
        return train(network)

    assert losses == watched(tmp_path / "hand.mpa", by_hand)[0]
    told = outcome(before), outcome(after)
    assert [(each["skipped"], each["overflowing"], each["bad_losses"]) for each in told] == [
        (6, 1, 6),
        (0, 0, 0),
    ]
    assert [told[1]["first_loss"], told[1]["last_loss"]] == [losses[0], losses[-1]]
    page = html.render(before)
    assert re.search(r"<h3><code>keep in float32, .*: .*2", page)
    assert 'id="applied"' not in page
    rows = {title: values for title, *values in render.rows(*told)}
    assert rows["steps skipped"] == ["6 of 6", "0 of 6"]
    assert rows["loss at last"] == ["-", f"{losses[-1]:.4g}"]


class Squares(nn.Module):
    """The logarithm of a mean of squares, which float16 cannot hold on the way."""

    def forward(self, inputs: Any) -> Any:
        """Half numbers in, float32 out: autocast computes logarithms in it."""
        return torch.log1p((inputs * inputs).mean(dim=1, keepdim=True))


class Powers(nn.Module):
    """What float32 cannot hold either."""

    def forward(self, inputs: Any) -> Any:
        """Half numbers in, float32 out."""
        return torch.exp(inputs.float().square()).mean(dim=1, keepdim=True)


def inner(middle: Any) -> Any:
    """A network with a layer that takes float16 and gives float32."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), middle, nn.Linear(1, 4))
    with torch.no_grad():
        network[0].weight.mul_(1e3)
    return network


def test_a_layer_that_overflows_on_the_way_to_float32_is_kept_in_it(tmp_path: Path) -> None:
    with torch.no_grad():
        hidden = inner(nn.Identity())[:2](batches(1)[0][0])
    assert float(hidden.abs().max()) < TOP < float(hidden.square().max())
    _, before = watched(tmp_path / "0.mpa", lambda: train(inner(Squares())))
    advice = advise(before)
    assert advice is not None
    assert advice.float32 == ("2",)
    assert advice.init_scale is None  # steps are skipped for the overflow, not for their scale
    losses, after = watched(tmp_path / "1.mpa", lambda: train(inner(Squares())), advice)
    assert [outcome(each)["overflowing"] for each in (before, after)] == [1, 0]
    assert losses == watched(tmp_path / "2.mpa", lambda: train(inner(Kept(Squares()))))[0]
    assert all(math.isfinite(each) for each in losses)


def test_where_the_advice_keeps_all_in_float32_that_is_no_finding(tmp_path: Path) -> None:
    def loop() -> list[float]:
        return train(nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 4)))

    advice = Advice(float32=("0", "1"))
    _, after = watched(tmp_path / "1.mpa", loop, advice, {})
    assert {dtype for flow in after.layers for dtype in flow.dtypes["output"]} == {"float32"}
    assert [each.name for each in after.findings] == []


def test_advice_that_changes_nothing_is_taken_back(tmp_path: Path) -> None:
    def loop() -> list[float]:
        return train(inner(Powers()))

    advice, _, after, _ = rounds(tmp_path, loop)
    assert advice.float32 == ("2",)
    left = without_effect(advice, after)
    assert left == Advice(beside=("none on layer '2': it overflows in float32, too",))
    assert without_effect(Advice(("0",)), after).float32 == ("0",)


def scaled(start: float, weight: float = 1.0, interval: int = 2000, steps: int = 6) -> list[float]:
    """Training of a loss so small that float16 loses its gradients unless they are scaled."""
    network = model().cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1 / weight)
    scaler = torch.amp.GradScaler("cuda", init_scale=start, growth_interval=interval)
    losses = []
    for step in range(steps):
        inputs, labels = batches()[step % 6]
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = weight * nn.functional.cross_entropy(network(inputs.cuda()), labels.cuda())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def largest_gradient(weight: float) -> float:
    """Of activations and weights, in float32, over the same steps."""
    network, found = model(), 0.0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1 / weight)

    def look(grad: Any) -> None:
        nonlocal found
        found = max(found, float(grad.abs().max()))

    for step, (inputs, labels) in enumerate(batches()):
        optimizer.zero_grad()
        outputs = inputs
        for layer in network:
            outputs = layer(outputs)
            if step in (0, 1, 2, 4):
                outputs.register_hook(look)
        (weight * nn.functional.cross_entropy(outputs, labels)).backward()
        if step in (0, 1, 2, 4):
            for parameter in network.parameters():
                look(parameter.grad)
        optimizer.step()
    return found


def test_a_loss_scale_that_is_too_low_starts_where_the_gradients_fit(tmp_path: Path) -> None:
    start, weight = 2.0**-6, 2.0**-10
    _, before = watched(tmp_path / "0.mpa", lambda: scaled(start, weight))
    advice = advise(before)
    assert advice is not None
    assert advice.init_scale is not None
    assert (advice.float32, advice.dtype, advice.growth_interval) == ((), None, None)
    room = TOP / (largest_gradient(weight) * advice.init_scale)
    assert 4 < room < 16  # three bits, give or take that it is a power of two
    losses, after = watched(tmp_path / "1.mpa", lambda: scaled(start, weight), advice)
    assert losses == watched(tmp_path / "2.mpa", lambda: scaled(advice.init_scale, weight))[0]
    assert after.scaled is not None
    assert {scale for _, scale in after.scaled.scales} == {advice.init_scale}
    was, now = outcome(before), outcome(after)
    assert was["subnormal"] > 0.25 > 10 * now["subnormal"]
    assert was["flushed"] > 0.1 > 100 * now["flushed"]
    assert advise(after) == Advice()


def test_a_start_that_is_too_high_comes_down(tmp_path: Path) -> None:
    _, before = watched(tmp_path / "0.mpa", lambda: scaled(2.0**24, steps=20))
    assert before.scaled is not None
    first = next(row for row in before.scaled.attempts if row.applied)
    settled = min(scale for _, scale in before.scaled.scales)
    assert (first.first, settled) == (6, first.scale / 2)  # it is skipped once more
    advice = advise(before)
    assert advice is not None
    assert (advice.init_scale, advice.growth_interval) == (settled, None)
    until = next(step for step, scale in before.scaled.scales if scale == settled)
    lost = [step for step in before.scaled.skipped if step < until]
    why = f"{len(lost)} of the first {until} steps are skipped until the loss scale has come down"
    assert advice.reasons == (f"{why} to {settled:.6g}",)
    _, after = watched(tmp_path / "1.mpa", lambda: scaled(2.0**24, steps=20), advice)
    assert [outcome(each)["skipped"] for each in (before, after)] == [7, 0]


def test_losses_are_compared_after_as_many_steps(tmp_path: Path) -> None:
    _, report = watched(tmp_path / "0.mpa", lambda: scaled(2.0**24, steps=20))
    advice, before = advise(report), outcome(report)
    assert advice is not None

    def longer() -> list[float]:
        return scaled(2.0**24, steps=300)

    losses, after = watched(tmp_path / "1.mpa", longer, advice, before)
    last = sum(losses[296:]) / 4  # of so many losses, means of four are kept
    assert outcome(after)["last_loss"] == pytest.approx(last)
    told = {title: pair for title, *pair in render.rows(before, outcome(after))}
    assert told["loss after 20 steps"] == [f"{before['last_loss']:.4g}", f"{losses[19]:.4g}"]
    assert told["loss at last"] == ["-", f"{last:.4g}"]
    _, equal = watched(tmp_path / "2.mpa", lambda: scaled(2.0**24, steps=20), advice, before)
    told = {title: pair for title, *pair in render.rows(before, outcome(equal))}
    assert told["loss at last"] == [f"{before['last_loss']:.4g}", f"{losses[19]:.4g}"]
    assert "loss after 20 steps" not in told


def test_a_scale_that_grows_into_every_wall_grows_slower(tmp_path: Path) -> None:
    _, before = watched(tmp_path / "0.mpa", lambda: scaled(2.0**14, interval=2, steps=30))
    advice = advise(before)
    assert advice is not None
    assert (advice.init_scale, advice.growth_interval) == (None, 2000)
    _, after = watched(tmp_path / "1.mpa", lambda: scaled(2.0**14, interval=2, steps=30), advice)
    assert after.scaled is not None
    assert {scale for _, scale in after.scaled.scales} == {2.0**14}


def test_where_most_layers_overflow_bfloat16_is_advised(tmp_path: Path) -> None:
    def loop() -> list[float]:
        torch.manual_seed(0)
        network = nn.ModuleList([nn.Linear(12, 12) for _ in range(6)]).cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-12)
        scaler = torch.amp.GradScaler("cuda")
        for inputs, _ in batches():
            with torch.autocast("cuda", dtype=torch.float16):
                parts = [layer(1e6 * inputs.cuda()) for layer in network]
            loss = torch.stack([part.float() for part in parts]).mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return [loss.item()]

    advice, _, after, losses = rounds(tmp_path, loop)
    assert (advice.dtype, advice.float32) == ("bfloat16", ())
    outputs = {dtype for flow in after.layers for dtype in flow.dtypes.get("output", ())}
    assert outputs == {"bfloat16"}
    assert losses[0] == losses[0]  # no NaN


def test_where_nothing_is_wrong_nothing_is_advised(tmp_path: Path) -> None:
    _, report = watched(tmp_path / "0.mpa", lambda: train(model()))
    assert advise(report) == Advice()
    assert "advice\n  none: no layer overflows, and the loss scale fits\n" in run_text.render(
        report
    )
    data = json.loads(run_json.render(report))
    assert (Advice.read(data["advice"]), data["applied"]) == (Advice(), None)


def test_a_loss_scale_that_there_is_not_is_not_said_to_fit(tmp_path: Path) -> None:
    _, report = watched(tmp_path / "0.mpa", lambda: train(model()))
    unscaled = replace(report, optimizers=())
    assert "advice\n  none: no layer overflows\n" in run_text.render(unscaled)


def test_where_a_mistake_was_found_the_loss_scale_is_not_said_to_fit(tmp_path: Path) -> None:
    _, report = watched(tmp_path / "0.mpa", lambda: train(model()))
    at = Position(1, 1)
    mistake = Finding("MP504", "missing-scale-loss", Severity.ERROR, "", Span("a.py", at, at))
    text = run_text.render(replace(report, findings=[mistake]))
    assert "advice\n  none: no layer overflows; mend what was found first\n" in text


def test_float32_gets_no_advice(tmp_path: Path) -> None:
    def loop() -> None:
        network = model()
        for inputs, labels in batches():
            nn.functional.cross_entropy(network(inputs), labels).backward()

    _, report = watched(tmp_path / "0.mpa", loop)
    assert advise(report) is None
    assert "\nadvice\n" not in run_text.render(report)


SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4)
).cuda()
with torch.no_grad():
    model[2].weight.mul_(float(sys.argv[1]))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for step in range(12):
    inputs = torch.randn(8, 12, device="cuda")
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
print("loss", loss.item())
"""


def run(folder: Path, *arguments: str, text: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(text, encoding="utf-8")
    return mpaudit(folder, *arguments)


@pytest.mark.slow
def test_apply_tries_runs_and_shows_before_and_after(tmp_path: Path) -> None:
    done = run(tmp_path, "run", "--apply", "6", "-o", "a.mpa", "train.py", "1e6")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loss") == 1  # the trials are not heard
    assert (tmp_path / "train.py").read_text(encoding="utf-8") == SCRIPT
    assert "applies: keep in float32, within autocast(enabled=False): '2'" in done.stderr
    assert re.search(r"steps skipped +6 of 6 +0 of 12", done.stderr)
    assert re.search(r"loss after 6 steps +- +\d", done.stderr)  # before, none was finite
    told = run(tmp_path, "report", "a.mpa").stdout
    assert re.search(
        r"applied: before and after\n.*'2'\n(.*\n)*  steps skipped +6 of 6 +0 of 12", told
    )
    data = json.loads(run(tmp_path, "report", "a.mpa", "--format", "json").stdout)
    assert data["applied"]["advice"]["float32"] == ["2"]
    assert data["applied"]["before"]["skipped"] == 6
    run(tmp_path, "report", "a.mpa", "--format", "html", "-o", "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<td>6 of 6</td><td>0 of 12</td>" in page
    assert data["applied"]["after"]["last_loss"] == float(done.stdout.split()[1])


@pytest.mark.slow
def test_a_light_run_shows_of_what_was_applied_what_it_knows(tmp_path: Path) -> None:
    done = run(tmp_path, "run", "--light", "--apply", "6", "-o", "a.mpa", "train.py", "1e6")
    assert done.returncode == 0, done.stderr
    assert "applies: keep in float32, within autocast(enabled=False): '2'" in done.stderr
    assert re.search(r"steps skipped +6 of 6 +0 of 12", done.stderr)
    assert re.search(r"layers that overflow +1 +-", done.stderr)  # none was looked at afterwards
    data = json.loads(run(tmp_path, "report", "a.mpa", "--format", "json").stdout)
    assert data["meta"]["sampling"]["light"] is True
    assert data["applied"]["after"]["overflowing"] is None
    whole = run(tmp_path, "run", "--apply", "6", "-o", "b.mpa", "train.py", "1e6")
    assert whole.stdout == done.stdout
    assert data["applied"]["after"]["last_loss"] == float(done.stdout.split()[1])


@pytest.mark.slow
def test_what_is_applied_is_not_applied_in_processes_that_a_script_starts_and_that_is_said(
    tmp_path: Path,
) -> None:
    run(tmp_path, "run", "-o", "a.mpa", "train.py", "1e6")
    forks = SCRIPT + (
        "import multiprocessing\n\ndef again():\n    model(inputs).sum().backward()\n\n"
        "child = multiprocessing.get_context('fork').Process(target=again)\n"
        "child.start()\nchild.join()\nassert child.exitcode == 0\n"
    )
    done = run(tmp_path, "run", "--apply", "a.mpa", "-o", "b.mpa", "train.py", "1e6", text=forks)
    assert done.returncode == 0, done.stderr
    assert "in this process only, not in those that it started" in done.stderr
    assert re.search(r"steps skipped +12 of 12 +0 of 12", done.stderr)
    alone = run(tmp_path, "run", "--apply", "a.mpa", "-o", "c.mpa", "train.py", "1e6")
    assert "only" not in alone.stderr


@pytest.mark.slow
def test_apply_takes_the_advice_of_a_trace(tmp_path: Path) -> None:
    plain = run(tmp_path, "run", "-o", "a.mpa", "train.py", "1e6")
    assert plain.stdout == "loss nan\n"
    report = run(tmp_path, "report", "a.mpa").stdout
    assert "keep in float32, within autocast(enabled=False): '2'" in report
    done = run(tmp_path, "run", "--apply", "a.mpa", "-o", "b.mpa", "train.py", "1e6")
    assert re.search(r"steps skipped +12 of 12 +0 of 12", done.stderr)
    again = run(tmp_path, "run", "--apply", "b.mpa", "-o", "c.mpa", "train.py", "1e6")
    assert again.stdout == done.stdout  # what was applied stays applied
    (tmp_path / "other.py").write_text("import torch\n", encoding="utf-8")
    wrong = run(tmp_path, "run", "--apply", "a.mpa", "other.py")
    assert wrong.returncode == 2
    assert "is a trace of" in wrong.stderr
    assert "torchrun ... -m mpaudit run --apply TRACE" in wrong.stderr


@pytest.mark.slow
def test_apply_says_that_there_is_nothing_to_apply(tmp_path: Path) -> None:
    done = run(tmp_path, "run", "--apply", "6", "-o", "a.mpa", "train.py", "1")
    assert "nothing is applied, the script runs as it is" in done.stderr
    assert "before" not in done.stderr
    plain = run(tmp_path, "run", "-o", "b.mpa", "train.py", "1")
    assert done.stdout == plain.stdout
    assert run(tmp_path, "run", "--apply", "2", "train.py", "1").returncode == 2


def test_steps_are_not_tried_in_one_of_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run(tmp_path, "run", "--apply", "6", "train.py", "1e6")
    assert done.returncode == 2
    assert "several processes are not tried; give the trace of one" in done.stderr
    assert not list(tmp_path.glob("*.mpa"))
