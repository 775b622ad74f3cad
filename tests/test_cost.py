"""What watching a run costs, counted: the goals that need no quiet machine, and the modes that cost less."""

from __future__ import annotations

import cProfile
import json
import re
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from mpaudit.protocols import machines  # noqa: E402
from mpaudit.runtime.frame import OWN  # noqa: E402
from mpaudit.runtime.headroom import Headroom  # noqa: E402
from mpaudit.runtime.measured import Values  # noqa: E402
from mpaudit.runtime.record import Layer  # noqa: E402
from mpaudit.runtime.sampling import AFTER, FIRST, Sampling, Turns, due  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.torch.lying import gapless, once  # noqa: E402
from mpaudit.runtime.torch.measure import Numbers  # noqa: E402
from mpaudit.runtime.torch.on_cpu import amax_on_cpu  # noqa: E402
from mpaudit.runtime.torch.watch import Watch  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402
from tests.benchmarks.runtime.alone import LOOKS  # noqa: E402
from tests.benchmarks.runtime.cost import more  # noqa: E402
from tests.benchmarks.runtime.counted import WAITS, count, mpaudit  # noqa: E402
from tests.benchmarks.runtime.hooked import kept, look  # noqa: E402
from tests.benchmarks.runtime.loop import SHAPES, Shape  # noqa: E402
from tests.benchmarks.runtime.time import by_itself  # noqa: E402
from tests.watched import batches, model  # noqa: E402


@pytest.mark.parametrize("name", ["resnet", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_every_tensor_is_read_once_in_one_operation_and_nothing_waits(name: str) -> None:
    shape = Shape(name, small=True)
    hooked, plain = look(shape.loop()), count(shape.loop())
    watched = count(shape.loop(), lambda _: mpaudit())
    added = watched.total() - plain.total()
    assert plain.results == watched.results
    assert added[WAITS] == 0
    read = hooked.outputs - hooked.rectified + hooked.gradients
    assert added == {"aten::aminmax": read}
    assert watched.read["forward"] - plain.read["forward"] == hooked.bytes - hooked.rectified_bytes
    assert watched.read["backward"] - plain.read["backward"] == hooked.bytes
    with mpaudit():
        assert kept(shape.loop()) == 0


class Deep:
    """A training of 25 blocks of small layers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        blocks = [[nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()] for _ in range(25)]
        self._model = nn.Sequential(*[nn.Sequential(*block) for block in blocks])
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01)
        self._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        self.tensors = (
            2 * 3 * len(blocks)
        )  # what layers make, and its gradients; containers make none

    def step(self) -> None:
        self._optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self._model(torch.ones(4, 8)).float().square().mean()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()


def test_what_is_kept_of_a_tensor_is_less_than_a_kibibyte() -> None:
    kept_of_all = more(lambda: Deep().step, steps=4)
    assert 0 < kept_of_all <= 1024 * Deep().tensors


def test_a_trace_takes_200_bytes_for_a_tensor_and_step_at_most_and_ends_to_grow(
    tmp_path: Path,
) -> None:
    sizes = {}
    for steps in (20, 60):
        tracer = Tracer(tmp_path / f"{steps}.mpa", machines(), Sampling(every=1))
        uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
        deep = Deep()
        for _ in range(steps):
            deep.step()
        uninstall()
        tracer.close(0)
        assert tracer.fact("probe_errors") == []
        with Reader(tracer.path) as run:
            looked = sum(each.calls for each in run.statistics() if each.layer.count("."))
        assert looked == deep.tensors * steps
        sizes[steps] = tracer.path.stat().st_size
        assert sizes[steps] <= 200 * looked
    assert sizes[60] <= 1.1 * sizes[20]


def test_how_the_range_of_a_layer_goes_is_kept_in_a_kibibyte() -> None:
    layers, steps = 50, 2000
    tracemalloc.start()
    try:
        headroom = Headroom(lambda path: Layer(path, "Linear", 0))
        for step in range(steps):
            for layer in range(layers):
                headroom.add(str(layer), step, 100.0 + layer, finite=True)
        assert tracemalloc.get_traced_memory()[0] <= 1024 * layers
    finally:
        tracemalloc.stop()
    assert {each.steps for each in headroom.courses(last=True)} == {steps}


def test_light_hooks_no_layer_and_reads_the_gradients_of_parameters_once() -> None:
    shape = Shape("resnet", small=True)
    plain = count(shape.loop())
    watched = count(shape.loop(), lambda _: mpaudit(light=True))
    parameters = list(shape.loop().model.parameters())
    assert plain.results == watched.results
    assert watched.total() - plain.total() == {"aten::aminmax": len(parameters)}
    assert watched.read["forward"] == plain.read["forward"]
    assert watched.read["backward"] == plain.read["backward"]
    size = sum(each.numel() * each.element_size() for each in parameters)
    assert watched.read["update"] - plain.read["update"] == size


BETWEEN = 11  # a step that is not looked at


def test_between_the_steps_that_are_looked_at_light_reads_nothing() -> None:
    shape = Shape("resnet", small=True)
    plain = count(shape.loop(), behind=BETWEEN)
    watched = count(shape.loop(), lambda _: mpaudit(every=None, light=True), behind=BETWEEN)
    assert plain.results == watched.results
    assert watched.total() == plain.total()
    assert watched.read == plain.read


def test_between_the_steps_that_are_looked_at_outputs_are_read_once() -> None:
    shape = Shape("resnet", small=True)
    hooked = look(shape.loop())
    assert 0 < hooked.rectified < hooked.outputs
    assert hooked.normalised == 20
    for behind in (BETWEEN, BETWEEN + 1):  # it is seen in the first what is normalised
        known, size = hooked.rectified, hooked.rectified_bytes
        if behind > BETWEEN:
            known, size = known + hooked.normalised, size + hooked.normalised_bytes
        plain = count(shape.loop(), behind=behind)
        watched = count(shape.loop(), lambda _: mpaudit(every=None), behind=behind)
        assert plain.results == watched.results
        assert watched.total() - plain.total() == {"aten::aminmax": hooked.outputs - known}
        assert watched.read["forward"] - plain.read["forward"] == hooked.bytes - size
        assert watched.read["backward"] == plain.read["backward"]


OURS = 186  # functions of mpaudit that --light calls in such a step, at most


def functions(shape: Shape, **asked: Any) -> int:
    """The functions that a step in between calls more where mpaudit watches."""

    def calls(loop: Any) -> int:
        for _ in range(BETWEEN):
            loop.step()
        profile = cProfile.Profile()
        profile.runcall(loop.step)
        return sum(each.callcount for each in profile.getstats())

    plain = calls(shape.loop())
    with mpaudit(**asked) as tracer:
        watched = calls(shape.loop())
        tracer.flush()
    return watched - plain


def test_light_calls_as_many_functions_however_many_layers_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpaudit.runtime.tracer.FLUSH_EVERY", 1e9)
    few, many = (functions(Shape(name, small=True), every=None, light=True) for name in SHAPES)
    assert max(few, many) < 520 and abs(few - many) < 60


def called(loop: Any) -> Counter[str]:
    """The functions of mpaudit that a step calls, each as often as it does; lists that are made in one are
    functions of their own before Python 3.12, and left out."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OWN) and code.co_name[0] != "<":
            found[f"{Path(code.co_filename).name}:{code.co_name}"] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        loop.step()
    finally:
        sys.setprofile(before)
    return found


def test_what_light_calls_of_its_own_in_a_step_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than it did when this was written: who adds one says what for."""
    monkeypatch.setattr("mpaudit.runtime.tracer.FLUSH_EVERY", 1e9)
    with mpaudit(every=None, light=True):
        loop = Shape("resnet", small=True).loop()
        for _ in range(BETWEEN):
            loop.step()
        found = called(loop)
    assert found.total() <= OURS, found
    once = ("scaler.py", "loop.py", "light.py", "measuring.py", "sampling.py", "progress.py")
    several = {name for name, count in found.items() if count > 1 and name.startswith(once)}
    assert several == {"progress.py:number", "progress.py:over"}
    assert found["sampling.py:due"] == 1  # of Turns: what is due was found out once
    assert not {"scaler.py:_once", "measuring.py:add", "sampling.py:following"} & found.keys()


@pytest.mark.slow
def test_what_light_does_is_timed_by_itself() -> None:
    """The functions of a step of the large model are counted there, and are those of the small one."""
    goal = by_itself("resnet", cycles=12)
    (told,) = re.findall(r"(\d+) function calls", goal.against)
    counted = functions(Shape("resnet", small=True), every=None, light=True)
    assert abs(int(told) - counted) < 0.1 * counted
    assert goal.figure is not None and goal.interval is not None and goal.seconds["plain"] > 0
    assert goal.interval[0] <= goal.figure <= goal.interval[1]
    assert goal.rounds == 12 + LOOKS


def test_what_a_tensor_costs_in_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpaudit.runtime.tracer.FLUSH_EVERY", 1e9)
    shape = Shape("resnet", small=True)
    light, looked = functions(shape, every=None, light=True), functions(shape, every=1)
    hooked = look(shape.loop())
    assert looked - light < 115 * (hooked.outputs + hooked.gradients)


class Late(Numbers):
    """Numbers that are handed out at a flush, as those of a GPU are."""

    def __init__(self, failed: Callable[[str, Exception], None]) -> None:
        super().__init__(failed)
        self._waiting: list[Callable[[], None]] = []

    @staticmethod
    def at_once(tensor: Any) -> bool:
        return False

    def measure(self, tensor: Any, receive: Callable[[Values], None]) -> None:
        found: list[Values] = []
        super().measure(tensor, found.append)
        self._waiting.append(lambda: receive(found[0]))

    def drain(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deliver in waiting:
            deliver()


def test_what_waits_for_a_device_keeps_no_activation_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(path: Path, flushed: float) -> list[Any]:
        monkeypatch.setattr("mpaudit.runtime.tracer.FLUSH_EVERY", flushed)
        tracer = Tracer(path, machines(), Sampling(every=1))
        uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
        try:
            loop = Shape("resnet", small=True).loop()
            loop.step()
            assert kept(loop) == 0
            tracer.flush()
        finally:
            uninstall()
            tracer.close(0)
        assert tracer.fact("probe_errors") == []
        with Reader(path) as run:
            return sorted(run.statistics(), key=lambda each: (each.layer, each.phase))

    at_once = rows(tmp_path / "once.mpa", 1.0)
    monkeypatch.setattr("mpaudit.runtime.torch.watch.Numbers", Late)
    assert rows(tmp_path / "late.mpa", 1e9) == at_once


def test_numbers_are_read_as_they_lie_in_memory() -> None:
    numbers = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    numbers[1, 2, 3, 4] = -9.0
    lasting = numbers.to(memory_format=torch.channels_last)
    cases = [lasting, lasting.bfloat16(), numbers.permute(2, 0, 3, 1), numbers[:, ::2, 1:, ::3]]
    cases += [numbers[:, :1].expand(4, 9, 5, 7), numbers.sum().expand(3, 4), numbers[0, 0, 0, 0]]
    for tensor in cases:
        assert amax_on_cpu(tensor) == tensor.abs().max().item()
    assert [gapless(each) for each in cases] == [True, True, True, False, False, False, True]
    assert not lasting.is_contiguous() and once(lasting).is_contiguous()
    assert once(numbers[:, :1].expand(4, 9, 5, 7)).numel() == 4 * 5 * 7


STEPS, BAD = 45, 25
LOOKED_AT = sorted({*range(FIRST), 10, 16, 20, BAD, *range(BAD + 1, BAD + 1 + AFTER), 32, 40})
LOOKED_AT_LIGHT = sorted({*LOOKED_AT} - {10, 20, 40})  # every 100th, not every 10th


def train(taken: list[Any] | None = None, *, scaled: bool = True) -> list[float]:
    """A correct loop whose step BAD overflows; `taken` gets the gradients that each step had."""
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    losses = []
    for number, (samples, labels) in enumerate(batches(STEPS)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(network(samples), labels)
        scaler.scale(loss * (1e38 if number == BAD else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if taken is not None:
            taken.append([each.grad.clone() for each in network.parameters()])
        losses.append(loss.item())
    return losses


def traced(path: Path, sampling: Sampling) -> tuple[list[float], Reader]:
    tracer = Tracer(path, machines(), sampling)
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        losses = train()
        tracer.flush()
    finally:
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    return losses, Reader(path)


def test_light_tells_steps_scales_and_gradients_as_they_were(tmp_path: Path) -> None:
    gradients: list[Any] = []
    plain = train(gradients)
    losses, run = traced(tmp_path / "run.mpa", Sampling(light=True))
    assert losses == plain
    assert [(a.first, a.last, a.applied, a.scale) for a in run.attempts()] == [
        (0, BAD - 1, True, 65536.0),
        (BAD, BAD, False, 65536.0),
        (BAD + 1, STEPS - 1, True, 32768.0),
    ]
    assert {each.path for each in run.layers()} == {"0", "2"}
    rows = {each.layer: each for each in run.statistics()}
    assert {each.phase for each in rows.values()} == {"update"}
    for layer, parts in (("0", slice(0, 2)), ("2", slice(2, 4))):
        found = [tensor for step in LOOKED_AT_LIGHT for tensor in gradients[step][parts]]
        finite = [each.abs().max().item() for each in found if each.isfinite().all()]
        assert rows[layer].amax == max(finite)
        assert rows[layer].calls == len(found)
        bad = rows[layer].inf + rows[layer].nan
        assert bad == sum(not each.isfinite().all() for each in found)
        assert (rows[layer].first_bad_step, rows[layer].last_bad_step) == (BAD, BAD)
    assert run.meta["skips"] == [[0, BAD, BAD, ["2"]]]
    assert [(each.layer, each.judgement) for each in run.incidents()] == [("2", "benign")]
    assert run.problems() == []  # float32 is all that was seen, and that is no finding


def test_light_reads_every_step_where_no_scaler_does(tmp_path: Path) -> None:
    gradients: list[Any] = []
    tracer = Tracer(tmp_path / "run.mpa", machines(), Sampling(light=True))
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        train(gradients, scaled=False)
        tracer.flush()
    finally:
        uninstall()
        tracer.close(0)
    bad = [n for n, step in enumerate(gradients) if not all(g.isfinite().all() for g in step)]
    with Reader(tmp_path / "run.mpa") as run:
        rows = run.statistics()
    assert bad and {(each.calls, each.first_bad_step) for each in rows} == {(2 * STEPS, bad[0])}


def test_light_says_what_it_did_not_look_at(tmp_path: Path) -> None:
    from mpaudit import verdict
    from mpaudit.render import html, run_json, run_text

    traced(tmp_path / "run.mpa", Sampling(light=True))[1].close()
    report = verdict.read(tmp_path / "run.mpa")
    text = run_text.render(report)
    assert "gradients between them were not looked at" in text
    assert "output gradients" not in text
    data = json.loads(run_json.render(report))
    assert data["meta"]["sampling"]["light"] is True
    assert data["layers"][0]["parameter_gradients"]["first_bad_step"] == BAD
    page = html.render(report)
    assert "What is empty here is not known" in page
    assert "layers put out 16 bits or fewer" not in page


def test_steps_that_are_looked_at(tmp_path: Path) -> None:
    losses, run = traced(tmp_path / "run.mpa", Sampling(every=10))
    assert losses == train()
    due = {*LOOKED_AT} - {BAD}
    rows = {(each.layer, each.phase): each for each in run.statistics()}
    for layer in ("", "0", "1", "2"):
        assert rows[layer, "forward"].calls == STEPS  # outputs are read in every step
        assert rows[layer, "backward"].calls == len(due)
    flowed = run._database.execute("SELECT layer, flow, count FROM dtypes").fetchall()
    counts = {(layer, flow): count for layer, flow, count in flowed}
    assert (counts["1", "input"], counts["1", "output"]) == (len(due), STEPS)
    assert {each.calls for each in run.layers()} == {STEPS}
    assert {each.calls_per_step for each in run.layers()} == {1}
    assert run.meta["sampling"] == {"every": 10, "outputs_every": 1}
    assert run.meta["skips"] == [[0, BAD, BAD, ["2"]]]  # known from the gradients of parameters
    assert "last of 4 such of 4 parameters" in run.incidents()[0].message
    assert [each.rule for each in run.problems()] == ["scaler-with-bfloat16"]  # of all steps


def test_a_step_not_looked_at_names_the_layer_nearest_to_the_loss_in_any_order_of_parameters(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 4, bias=False))
    decayed = [each for each in network.parameters() if each.dim() > 1]
    others = [each for each in network.parameters() if each.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others}]
    cut, bad = {13: 1, 27: 2}, {}
    tracer = Tracer(tmp_path / "run.mpa", machines())
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        optimizer, scaler = torch.optim.SGD(groups, lr=0.1), torch.amp.GradScaler("cpu")
        for step, (samples, labels) in enumerate(batches(30)):
            optimizer.zero_grad()
            parts = network[: cut.get(step, 3)](samples)  # what is left out gets no gradient
            loss = (
                parts.square().mean() if step in cut else nn.functional.cross_entropy(parts, labels)
            )
            scaler.scale(loss * (1e37 if step in (*cut, 22) else 1.0)).backward()
            named = [n for n, each in network.named_parameters() if each.grad is not None]
            bad[step] = [n for n in named if not network.get_parameter(n).grad.isfinite().all()]
            scaler.step(optimizer)
            scaler.update()
    finally:
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    expected = [[0, step, step, [bad[step][-1].partition(".")[0]]] for step in (13, 22, 27)]
    assert [each[3] for each in expected] == [["0"], ["2"], ["1"]]
    assert tracer.fact("skips") == expected


class Doubling(nn.Module):
    """Doubles its input in place, as an activation or dropout may change it."""

    def forward(self, value: Any) -> Any:
        return value.mul_(2.0)


BAD_DATA = {13: 1e31, 27: 7e29, 33: float("inf")}


def goes_wrong() -> list[bool]:
    """Step 13 overflows in a layer, step 27 in one that works in place, step 33 has bad data."""
    torch.manual_seed(0)
    first, last, finite = nn.Linear(4, 4), nn.Linear(4, 4), []
    network = nn.Sequential(first, nn.Sequential(Doubling(), nn.Identity()), last)
    with torch.no_grad():
        first.weight.fill_(0.0).fill_diagonal_(3e8)
        last.weight.fill_(1e-8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for step in range(36):
        data = torch.full((2, 4), 1e-9)
        data[1, 2] = BAD_DATA.get(step, 0.0)
        loss = network(data).mean()
        finite.append(bool(loss.isfinite()))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return finite


def test_where_outputs_go_wrong_is_found_in_steps_that_are_not_looked_at(tmp_path: Path) -> None:
    plain, runs = goes_wrong(), {}
    assert [step for step, finite in enumerate(plain) if not finite] == list(BAD_DATA)
    for every in (1, None):
        tracer = Tracer(tmp_path / f"{every}.mpa", machines(), Sampling(every=every))
        uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
        try:
            assert goes_wrong() == plain
            tracer.flush()
        finally:
            uninstall()
            tracer.close(0)
        assert tracer.fact("probe_errors") == []
        with Reader(tmp_path / f"{every}.mpa") as run:
            began = [each for each in run.incidents() if each.rule == "activation-overflow"]
            numbers = [each for each in run.statistics() if each.phase == "forward"]
            runs[every] = began, run.problems(), numbers
            assert run.meta["skips"][:2] == [[0, 13, 13, ["0"]], [0, 27, 27, ["1.0"]]]
            assert run.meta["skips"][2][:3] == [0, 33, 33]  # how far it got is known of a look only
    assert runs[None] == runs[1]
    found = [(each.layer, each.first_step, each.judgement) for each in began]
    assert found[:2] == [("0", 13, "defect"), ("1.0", 27, "defect")]
    assert found[2:] == [("0", 33, "from-data")]


def test_a_mask_of_minus_infinity_does_not_have_every_step_looked_at(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, value: Any) -> Any:
            return value.masked_fill(torch.eye(4, dtype=torch.bool), float("-inf"))

    def loop() -> None:
        network = nn.Sequential(nn.Linear(4, 4), Masked(), nn.Softmax(-1), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(30):
            network(torch.ones(4, 4)).sum().backward()
            optimizer.step()

    tracer = Tracer(tmp_path / "run.mpa", machines())
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        loop()
        tracer.flush()
    finally:
        uninstall()
        tracer.close(0)
    with Reader(tmp_path / "run.mpa") as run:
        assert [(i.layer, i.judgement, i.count) for i in run.incidents()] == [("1", "masked", 30)]
        rows = {(each.layer, each.phase): each for each in run.statistics()}
        assert rows["0", "backward"].calls == FIRST + 3  # steps 10, 16 and 20


def test_what_watching_took_is_counted_once_and_with_what_is_around_it(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "run.mpa")
    watch = Watch(tracer)
    before = tracer.spent
    began = time.perf_counter()
    with watch.guard("outer"):
        for _ in range(3):
            with watch.guard("inner"):
                time.sleep(0.02)
    took = time.perf_counter() - began
    assert 0.06 + watch.around <= tracer.spent - before <= took + watch.around
    assert watch.around > 0
    with pytest.raises(KeyboardInterrupt), watch.guard("stopped"):
        raise KeyboardInterrupt
    before = tracer.spent
    with watch.guard("after it"):
        pass
    assert tracer.spent > before  # it is an outermost one again
    tracer.close(0)


@pytest.mark.parametrize("every", [1, 3, 10, 33, 64, 100, 150, 1000])
def test_what_is_due_is_the_same_in_any_order_of_steps(every: int) -> None:
    """It is kept from when on none is: several optimizers make their steps at numbers of their own."""
    turns = Turns(every)
    for step in range(1500):
        for number in (step, 2 * step, step // 7):
            assert turns.due(number) == due(number, every)
            assert turns.looked(number) or not due(number, every)
    turns.alarm()
    assert all(turns.due(number) for number in range(step // 7 + 1 + AFTER))
    assert not turns.due(1017) or due(1017, every)


def test_a_step_after_one_that_went_wrong_is_looked_at() -> None:
    turns = Turns(10)
    assert [step for step in range(30) if turns.due(step)] == [*range(FIRST), 10, 16, 20]
    turns.alarm()
    assert [step for step in range(30, 50) if turns.due(step)] == [30, 31, 32, 33, 34, 40]


def test_the_command_line_takes_them(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import torch\nlayer = torch.nn.Linear(2, 2)\n"
        "optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)\n"
        "layer(torch.ones(1, 2)).sum().backward()\noptimizer.step()\n"
    )
    for options, said in ((["--every", "7"], {"every": 7}), (["--light"], {"light": True})):
        command = [sys.executable, "-m", "mpaudit", "run", *options, "-o", "run.mpa", "train.py"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        with Reader(tmp_path / "run.mpa") as run:
            assert said.items() <= run.meta["sampling"].items()
            assert bool(run.meta["sampling"].get("light")) is ("--light" in options)
