"""Kinds of training loops under the probe, each against what the loop counts and measures itself."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from watched import batches, model, trace, train  # noqa: E402

from mpaudit.runtime.progress import Losses  # noqa: E402
from mpaudit.runtime.record import Attempts  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

Own = dict[str, list[Any]]


def follow(network: Any, seen: Own, prefix: str = "") -> Any:
    """Hooks of the test's own: copies of what leaves each layer, and of the gradients of it."""

    def hook(name: str) -> Callable[..., None]:
        def look(_: Any, __: Any, output: Any) -> None:
            tensor = output["out"] if isinstance(output, dict) else output
            seen.setdefault(f"{name} forward", []).append(tensor.detach().clone())
            if tensor.requires_grad:
                back = seen.setdefault(f"{name} backward", [])
                tensor.register_hook(lambda gradient: back.append(gradient.clone()))

        return look

    for name, module in network.named_modules():
        module.register_forward_hook(hook(".".join(filter(None, (prefix, name)))))
    return network


def agree(run: Reader, seen: Own) -> None:
    """The trace's numbers are those of the copies: calls, elements, largest magnitude, dtype."""
    rows: dict[str, list[Any]] = {}
    for row in run.statistics():
        rows.setdefault(f"{row.layer} {row.phase}", []).append(row)
    assert seen
    for key, copies in seen.items():
        for dtype in {str(each.dtype).removeprefix("torch.") for each in copies}:
            own = [each for each in copies if str(each.dtype) == f"torch.{dtype}"]
            (row,) = [each for each in rows[key] if each.dtype == dtype]
            assert (row.calls, row.elements) == (len(own), sum(each.numel() for each in own)), key
            finite = [each[each.isfinite()] for each in own]
            assert row.amax == max(each.abs().max().item() for each in finite if each.numel()), key
            assert row.inf == sum(int(each.isinf().sum()) for each in own), key
            assert row.nan == sum(int(each.isnan().sum()) for each in own), key


def test_a_gan_with_one_scaler_for_two_optimizers(tmp_path: Path) -> None:
    seen: Own = {}

    def loop(own: Own) -> list[float]:
        torch.manual_seed(0)
        generator = follow(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 12)), own)
        critic = follow(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)), own, "critic")
        makes = torch.optim.SGD(generator.parameters(), lr=0.1)
        judges = torch.optim.SGD(critic.parameters(), lr=0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        loss_of = nn.functional.binary_cross_entropy_with_logits
        losses = []
        for number, (real, _) in enumerate(batches(6)):
            with torch.autocast("cpu", dtype=torch.float16):
                fake = generator(torch.ones(8, 4))
                verdicts = critic(real), critic(fake.detach())
            judged = loss_of(verdicts[0].float(), torch.ones(8, 1))
            judged = judged + loss_of(verdicts[1].float(), torch.zeros(8, 1))
            judges.zero_grad()
            scaler.scale(judged).backward()
            scaler.step(judges)
            if number % 3 == 2:
                with torch.autocast("cpu", dtype=torch.float16):
                    verdict = critic(fake)
                made = loss_of(verdict.float(), torch.ones(8, 1))
                makes.zero_grad()
                scaler.scale(made).backward()
                scaler.step(makes)
            scaler.update()
            losses.append(judged.item())
        return losses

    plain = loop({})
    watched, run = trace(tmp_path, lambda: loop(seen))
    assert watched == plain
    agree(run, seen)
    calls = {each.path: each.calls for each in run.layers()}
    assert (calls["0"], calls["critic.0"]) == (6, 6 + 6 + 2)
    assert [each.type for each in run.optimizers()] == ["SGD", "SGD"]
    assert run.attempts() == [Attempts(0, 0, 5, True, 1024.0), Attempts(1, 0, 1, True, 1024.0)]
    assert run.problems() == []


class Casts(TorchDispatchMode):
    """Counts casts to a low-precision dtype, and the bytes they write."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **kwargs or {})
        if operation is torch.ops.aten._to_copy.default and result.dtype is not args[0].dtype:
            what = "parameter" if isinstance(args[0], nn.Parameter) else "activation"
            self.counts[what] += 1
            self.bytes[what] += result.numel() * result.element_size()
        return result


def test_accumulation_counts_micro_batches_and_their_casts(tmp_path: Path) -> None:
    own: list[Casts] = []
    seen: Own = {}

    def loop(own: list[Casts] | None, seen: Own) -> list[float]:
        network = follow(model(), seen)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        losses = []
        for number, (samples, labels) in enumerate(batches(10)):
            counting = Casts()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                if own is None:
                    output = network(samples)
                else:
                    with counting:
                        output = network(samples)
                    own.append(counting)
                loss = nn.functional.cross_entropy(output.float(), labels) / 4
            loss.backward()
            if number % 4 == 3 or number == 9:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    plain = loop(own, {})
    watched, run = trace(tmp_path, lambda: loop(None, seen))
    assert watched == plain
    agree(run, seen)
    assert {(each.calls, each.calls_per_step) for each in run.layers()} == {(10, 4)}
    assert run.attempts() == [Attempts(0, 0, 2, True, None)]
    assert run.meta["cast_steps"] == 2  # the first two: eight micro-batches
    for what in ("parameter", "activation"):
        rows = [each for each in run.casts() if each.what == what]
        assert sum(each.count for each in rows) == sum(each.counts[what] for each in own[:8])
        assert sum(each.bytes for each in rows) == sum(each.bytes[what] for each in own[:8])
    assert run.problems() == []
    steps = [sum(plain[first : first + 4]) for first in (0, 4, 8)]
    assert run.meta["losses"]["means"] == pytest.approx(steps)
    assert run.meta["losses"]["seen"] == 3


@pytest.mark.parametrize("end", ["zeroed", "stepped", "nobody"])
def test_a_loss_gone_back_from_in_parts_is_told_whole(tmp_path: Path, end: str) -> None:
    """Parts add up until gradients are used or dropped; of none who does that each is a loss."""
    parts = [[0.5, 0.25, 2.0], [1.5], [float("inf"), 1.0], [0.25, float("nan")], [3.0, -1.0]]

    def loop() -> None:
        weight = nn.Parameter(torch.ones(()))
        optimizer = torch.optim.SGD([weight], lr=0.0) if end != "nobody" else None
        for step in parts:
            for part in step:
                loss = weight * part
                loss.backward()
            if optimizer is None:
                weight.grad = None
            elif end == "zeroed":
                optimizer.zero_grad()
            else:
                optimizer.step()
                weight.grad = None
                weight.data.fill_(1.0)

    _, run = trace(tmp_path, lambda: loop() or [])
    told = run.meta["losses"]
    if end == "nobody":
        assert (told["means"], told["seen"]) == ([0.5, 0.25, 2.0, 1.5, 1.0, 0.25, 3.0, -1.0], 10)
        assert told["nonfinite"] == 2
    else:
        assert (told["means"], told["seen"], told["nonfinite"]) == ([2.75, 1.5, 2.0], 5, 2)


def test_means_of_losses_in_parts_are_those_of_the_whole_ones() -> None:
    losses, whole = Losses(), []
    for number in range(1000):
        parts = [float(number % 7), 0.5, float("inf") if number % 97 == 5 else number / 8]
        for part, tell in zip(parts, (losses.add, losses.join, losses.join), strict=True):
            tell(part)
        whole.append(sum(parts))
    fact = losses.fact
    assert fact is not None
    finite = [each for each in whole if each < float("inf")]
    width = fact["steps_each"]
    means = [sum(e := finite[n : n + width]) / len(e) for n in range(0, len(finite), width)]
    assert fact["means"] == pytest.approx(means) and width == 8
    assert (fact["seen"], fact["nonfinite"]) == (1000, len(whole) - len(finite))


def test_amp_that_is_switched_off_is_no_amp(tmp_path: Path) -> None:
    seen: Own = {}

    def loop(own: Own) -> list[float]:
        network = follow(model(), own)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        losses = []
        for samples, labels in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16, enabled=False):
                loss = nn.functional.cross_entropy(network(samples), labels)
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return losses

    plain = loop({})
    watched, run = trace(tmp_path, lambda: loop(seen))
    assert watched == plain
    agree(run, seen)
    assert {dtype for flows in run.dtypes().values() for f in flows.values() for dtype in f} == {
        "float32"
    }
    assert run.attempts() == [Attempts(0, 0, 5, True, None)]
    assert "amp" not in run.meta
    assert run.problems() == []


def test_a_closure_that_lbfgs_calls_again_and_again(tmp_path: Path) -> None:
    evaluated: list[int] = []
    seen: Own = {}

    def loop(own: Own, calls: list[int]) -> list[float]:
        network = follow(model(), own)
        optimizer = torch.optim.LBFGS(network.parameters(), lr=0.1, max_iter=4)
        samples, labels = batches(1)[0]
        losses = []
        for _ in range(3):
            count = 0

            def closure() -> Any:
                nonlocal count
                count += 1
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    output = network(samples)
                loss = nn.functional.cross_entropy(output.float(), labels)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
            calls.append(count)
        return losses

    plain = loop({}, evaluated)
    watched, run = trace(tmp_path, lambda: loop(seen, []))
    assert watched == plain
    agree(run, seen)
    assert [each.type for each in run.optimizers()] == ["LBFGS"]
    assert run.attempts() == [Attempts(0, 0, 2, True, None)]
    usual = Counter(evaluated).most_common(1)[0][0]
    assert {(each.calls, each.calls_per_step) for each in run.layers()} == {(sum(evaluated), usual)}
    assert run.problems() == []


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(12, 16)
        self.saved = nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True))
        self.head = nn.Linear(16, 4)
        self.reentrant = reentrant
        self.recomputing = 0

    def forward(self, samples: Any) -> Any:
        hidden = self.first(samples)
        hidden = checkpoint(self.saved, hidden, use_reentrant=self.reentrant)
        return self.head(hidden)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_is_no_further_call(tmp_path: Path, reentrant: bool) -> None:
    seen: Own = {}

    def loop(own: Own | None) -> list[float]:
        network = Checkpointed(reentrant=reentrant)
        return train(network if own is None else follow(network, own), device="cpu")

    plain = loop(None)
    watched, run = trace(tmp_path, lambda: loop(seen))
    assert watched == plain
    layers = {each.path: each for each in run.layers()}
    assert {(e.calls, e.calls_per_step) for e in layers.values()} == {(6, 1)}
    assert len(seen["saved.0 forward"]) == 12  # the test's own hooks see each call twice
    assert len(seen["saved.0 backward"]) == 6
    once = {k: v for k, v in seen.items() if "saved" not in k}
    agree(run, once)
    largest = max(each.abs().max().item() for each in seen["saved.0 forward"])
    rows = {(each.layer, each.phase): each for each in run.statistics()}
    assert rows["saved.0", "forward"].amax == largest
    assert rows["saved.0", "forward"].calls == rows["saved.0", "backward"].calls == 6
    backward = [each.abs().max().item() for each in seen["saved.0 backward"]]
    assert rows["saved.0", "backward"].amax == max(backward)
    assert run.problems() == []


@dataclass
class Wanted:
    """A dataclass as a model takes and returns it."""

    out: Any
    extra: list[Any]


class Nested(nn.Module):
    """Takes keywords, nested; returns a dataclass."""

    def forward(self, first: Any, *, rest: dict[str, Any]) -> Wanted:
        return Wanted(first + rest["more"][0], [rest["more"][1].double()])


def test_what_goes_in_and_out_nested(tmp_path: Path) -> None:
    def loop() -> Wanted:
        half = torch.full((2, 3), 3.0, dtype=torch.bfloat16)
        long = torch.tensor([1, 2])
        return Nested()(torch.ones(2, 3).half(), rest={"more": [half, torch.ones(1)], "n": long})

    output, run = trace(tmp_path, loop)
    (layer,) = run.layers()
    flows = run.dtypes()[layer.path]
    assert flows["input"] == ["bfloat16", "float16", "float32"]
    assert output.out.dtype is torch.float32  # torch promotes two halves to it
    assert flows["output"] == ["float32", "float64"]
    found = {row.dtype: (row.amax, row.elements) for row in run.statistics()}
    assert found == {"float32": (4.0, 6), "float64": (1.0, 1)}


def test_buffers_shared_weights_and_layers_called_twice(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encode = nn.Linear(12, 12)
            self.norm = nn.BatchNorm1d(12).half()
            self.decode = nn.Linear(12, 12)
            self.decode.weight = self.encode.weight

        def forward(self, samples: Any) -> Any:
            hidden = self.encode(self.encode(samples))
            return self.decode(self.norm(hidden.half()).float())

    seen: Own = {}

    def loop() -> None:
        network = follow(Tied(), seen)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, _ in batches(3):
            optimizer.zero_grad()
            network(samples).sum().backward()
            optimizer.step()

    _, run = trace(tmp_path, loop)
    agree(run, seen)
    flows = run.dtypes()
    assert flows["norm"]["buffer"] == flows["norm"]["parameter"] == ["float16"]
    assert "buffer" not in flows["encode"]
    assert flows["encode"]["parameter_grad"] == flows["decode"]["parameter_grad"] == ["float32"]
    assert {each.path: each.calls_per_step for each in run.layers()} == {
        "": 1,
        "encode": 2,
        "norm": 1,
        "decode": 1,
    }


@pytest.mark.parametrize("how", ["fused", "foreach", "plain"])
def test_a_skipped_step_is_one_however_the_optimizer_computes(tmp_path: Path, how: str) -> None:
    def loop() -> list[bool]:
        network = model()
        options = {"fused": how == "fused", "foreach": how == "foreach"}
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, **options)
        scaler = torch.amp.GradScaler("cpu")
        changed = []
        for number, (samples, labels) in enumerate(batches()):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(samples), labels)
            if number in (1, 4):
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            before = network[0].weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            changed.append(not torch.equal(before, network[0].weight))
        return changed

    plain = loop()
    changed, run = trace(tmp_path, loop)
    assert changed == plain
    applied = {
        step: each.applied for each in run.attempts() for step in range(each.first, each.last + 1)
    }
    assert applied == dict(enumerate(changed))
    assert [step for step, each in applied.items() if not each] == [1, 4]


@pytest.mark.parametrize(("again", "found"), [(False, ["backward-in-autocast"]), (True, [])])
def test_a_backward_that_is_derived_again_belongs_into_the_region(
    tmp_path: Path, again: bool, found: list[str]
) -> None:
    def loop() -> None:
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, labels in batches(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(network(samples).float(), labels)
                loss.backward(create_graph=again)
                penalty = sum(each.grad.square().sum() for each in network.parameters())
            if again:
                penalty.backward()
            optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the reference cycle
        _, run = trace(tmp_path, loop)
    assert [each.rule for each in run.problems()] == found


def test_a_hook_that_sends_gradients_in_float16_is_named_where_they_overflow(
    tmp_path: Path,
) -> None:
    """Losses, layers and their gradients are far from the end of bfloat16; what is sent is not."""
    distributed = pytest.importorskip("torch.distributed")
    hooks = pytest.importorskip("torch.distributed.algorithms.ddp_comm_hooks.default_hooks")

    def loop() -> list[bool]:
        network = nn.parallel.DistributedDataParallel(model())
        network.register_comm_hook(None, hooks.fp16_compress_hook)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**21)
        overflowed = []
        for samples, labels in batches(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(samples), labels)
            scaler.scale(loss).backward()
            overflowed.append(not network.module[2].weight.grad.isfinite().all())
            scaler.step(optimizer)
            scaler.update()
        return overflowed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        overflowed, run = trace(tmp_path, loop)
    finally:
        distributed.destroy_process_group()
    assert overflowed[:3] == [True] * 3 and not overflowed[-1]
    incidents = {each.layer: each for each in run.incidents()}
    assert incidents
    for each in incidents.values():
        assert each.judgement == "benign"
        assert "once `fp16_compress_hook` has sent it" in each.message
        assert "float32" not in each.message
    assert run.dtypes()["2"]["parameter_grad"] == ["float32"]


@pytest.mark.slow
def test_compiled_regions_are_called_as_often_as_without(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    def loop() -> tuple[list[float], dict[str, Any]]:
        torch._dynamo.reset()
        counters.clear()
        ran: Counter[str] = Counter()

        def backend(graph: Any, _: Any) -> Any:
            ran["graphs"] += 1

            def compiled(*args: Any) -> Any:
                ran["calls"] += 1
                return graph(*args)

            return compiled

        network = torch.compile(model(), backend=backend, fullgraph=True)
        losses = train(network, device="cpu")
        facts = {
            **ran,
            "frames": dict(counters["frames"]),
            "unique": counters["stats"]["unique_graphs"],
            "breaks": dict(counters["graph_break"]),
        }
        return losses, facts

    plain = loop()
    watched, run = trace(tmp_path, loop)
    assert watched == plain
    assert plain[1]["calls"] == 6
    assert plain[1]["breaks"] == {}
    assert plain[1]["graphs"] == plain[1]["unique"] == 1
    assert run.meta["compiled"] is True
    (layer,) = [each for each in run.layers() if each.path == ""]
    assert (layer.calls, layer.calls_per_step) == (6, 1)
    assert run.attempts() == [Attempts(0, 0, 5, True, 65536.0)]
    assert run.problems() == []
