"""Where tensors would be if there were a GPU: moves copy where they would, and tensors say it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import rnn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from watched import batches, launch, model, trace, traced  # noqa: E402

from mpaudit.runtime.torch.place import HOST  # noqa: E402
from mpaudit.runtime.torch.watch import Watch  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_weights_that_were_kept_on_the_cpu_stay_what_they_were(tmp_path: Path) -> None:
    def loop() -> Any:
        network = model()
        at_first = network.state_dict()
        plain = {name: each.clone() for name, each in at_first.items()}
        held = list(network.parameters())
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        network.to("cuda")
        assert all(a is b for a, b in zip(held, network.parameters(), strict=True))
        best = {name: each.cpu() for name, each in network.state_dict().items()}
        for samples, _ in batches(2):
            optimizer.zero_grad()
            network(samples.cuda()).square().sum().backward()
            optimizer.step()
        return plain, at_first, best, network.state_dict()

    (plain, at_first, best, last), _ = trace(tmp_path, loop)
    for name, expected in plain.items():
        assert torch.equal(best[name], expected)
        assert torch.equal(at_first[name], expected)
        assert not torch.equal(last[name], expected)


NUMBERS = np.ones(3, np.float32)
_sequence = rnn.pack_sequence([torch.ones(3), torch.ones(2)])
Move = Callable[[Any, Any], "tuple[Any, Any]"]
COPIES: list[Move] = [
    lambda host, gpu: (gpu, gpu.cpu()),
    lambda host, gpu: (gpu, gpu.to("cpu")),
    lambda host, gpu: (gpu, gpu.to(torch.device("cpu"), non_blocking=True)),
    lambda host, gpu: (gpu, gpu.to(host)),
    lambda host, gpu: (gpu, gpu[:].detach().cpu()),
    lambda host, gpu: (gpu, gpu.to("cuda:1")),
    lambda host, gpu: (gpu, gpu.to("cuda", copy=True)),
    lambda host, gpu: (gpu, gpu.to("cpu", torch.float32, False, True)),
    lambda host, gpu: (gpu, torch.from_numpy(gpu.numpy(force=True))),
    lambda host, gpu: (gpu, torch.as_tensor(gpu, device="cpu")),
    lambda host, gpu: (gpu * 2, (gpu * 2).cpu()),
    lambda host, gpu: (host, host.cuda()),
    lambda host, gpu: (host, host.cuda(0, True)),
    lambda host, gpu: (host, host.to("cuda", non_blocking=True)),
    lambda host, gpu: (host, host.to(device=0)),
    lambda host, gpu: (host, host.to(gpu)),
    lambda host, gpu: (host, host.to(tensor=gpu)),
    lambda host, gpu: (host, host.type("torch.cuda.FloatTensor")),
    lambda host, gpu: (host, torch.as_tensor(host, device="cuda")),
    lambda host, gpu: (host, host.pin_memory()),
    lambda host, gpu: (torch.from_numpy(NUMBERS), torch.from_numpy(NUMBERS).cuda()),
    lambda host, gpu: (torch.from_numpy(NUMBERS), torch.as_tensor(NUMBERS, device="cuda")),
    lambda host, gpu: (_sequence.data, _sequence.cuda().data),
    lambda host, gpu: ((moved := _sequence.cuda()).data, moved.cpu().data),
    lambda host, gpu: (host, nn.Parameter(host).cuda()),
]
SAME: list[Move] = [
    lambda host, gpu: (host, host.cpu()),
    lambda host, gpu: (host, host.to("cpu")),
    lambda host, gpu: (host, host[:].cpu()),
    lambda host, gpu: ((moved := gpu.cpu()), moved.cpu()),
    lambda host, gpu: ((moved := gpu.cpu()), torch.from_numpy(moved.numpy())),
    lambda host, gpu: (host, torch.as_tensor(host)),
    lambda host, gpu: (torch.from_numpy(NUMBERS), torch.as_tensor(NUMBERS)),
    lambda host, gpu: (gpu, gpu.cuda()),
    lambda host, gpu: (gpu, gpu.to("cuda:0")),
    lambda host, gpu: (gpu, gpu[:].view(3).cuda()),
    lambda host, gpu: (gpu, gpu.to(gpu)),
    lambda host, gpu: (gpu, torch.as_tensor(gpu, device="cuda")),
    lambda host, gpu: ((moved := host.cuda()), moved.to("cuda")),
    lambda host, gpu: ((moved := nn.Parameter(gpu)), moved.cuda()),
]


@pytest.mark.parametrize(("moves", "copied"), [(COPIES, True), (SAME, False)])
def test_a_move_copies_where_a_gpus_would(tmp_path: Path, moves: list[Move], copied: bool) -> None:
    def loop() -> list[tuple[int, bool]]:
        found = []
        for number, move in enumerate(moves):
            before, after = move(torch.ones(3), torch.ones(3, device="cuda"))
            assert torch.equal(after, before)
            found.append((number, after.data_ptr() != before.data_ptr()))
        return found

    found, _ = trace(tmp_path, loop)
    assert [number for number, apart in found if apart is not copied] == []


def test_gradients_come_through_a_move(tmp_path: Path) -> None:
    def loop() -> Any:
        weight = torch.ones(3, requires_grad=True)
        moved = weight.to("cuda")
        back = (moved * 2).cpu()
        back.sum().backward()
        return weight, moved, back

    (weight, moved, back), _ = trace(tmp_path, loop)
    assert moved.grad_fn.name() == back.grad_fn.name() == "ToCopyBackward0"
    assert weight.grad.tolist() == [2.0] * 3
    assert not moved.is_leaf


def test_weights_that_are_tied_stay_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.last.weight = self.first.weight
            self.lazy = nn.LazyLinear(2)

    def loop() -> Any:
        network = Tied().cuda().half().cpu().to(device="cuda")
        return (
            network.first.weight,
            network.last.weight,
            network.lazy(torch.ones(1, 3).cuda().half()),
        )

    (first, last, out), _ = trace(tmp_path, loop)
    assert first is last
    assert out.dtype is torch.float16


def test_where_nothing_is_sent_to_a_gpu_all_stays_as_it_was(tmp_path: Path) -> None:
    def loop() -> Any:
        numbers = torch.ones(3) * 2
        same = numbers.cpu(), numbers.to("cpu"), numbers.to(torch.ones(1)), torch.asarray(numbers)
        assert all(each is numbers for each in same)
        assert numbers.numpy(force=True).ctypes.data == numbers.data_ptr()
        return torch.Tensor.device

    before = torch.Tensor.device
    told, _ = trace(tmp_path, loop)
    assert told is before


def test_a_tensor_says_the_same_inside_regions_and_outside(tmp_path: Path) -> None:
    def loop() -> Any:
        network = model().to("cuda")
        device, lengths = next(network.parameters()).device, torch.tensor([3])
        samples = torch.ones(2, 12, device=device)
        asked: list[Any] = []
        with torch.no_grad():
            for enabled in (False, True):
                with torch.autocast("cuda", dtype=torch.float16, enabled=enabled):
                    out = network(samples) * 2
                    asked.append((out.device, out.is_cuda, out.get_device()))
                    asked.append((samples.device, samples.is_cuda, samples.get_device()))
                    host = out.cpu(), lengths, torch.zeros(2), torch.zeros_like(lengths)
                    told = {(each.device.type, each.is_cuda, each.get_device()) for each in host}
                    assert told == {("cpu", False, -1)}
                    made = torch.zeros_like(samples), samples.new_zeros(2), torch.tensor(samples)
                    assert {each.device for each in made} == {device}
        return device, asked

    (device, asked), _ = trace(tmp_path, loop)
    assert set(asked) == {(torch.device("cuda", 0), True, 0)}
    assert device == torch.device("cuda", 0)


def test_a_default_device_is_where_tensors_are_made(tmp_path: Path) -> None:
    def loop() -> Any:
        with torch.device("cuda"):
            inside, made = torch.get_default_device(), [torch.ones(2), nn.Linear(2, 2).weight]
        torch.set_default_device("cuda:1")
        try:
            made.append(torch.zeros(2))
            default = torch.get_default_device()
        finally:
            torch.set_default_device(None)
        return [each.device.index for each in made], inside, default, torch.ones(2).device.type

    (indices, inside, default, after), _ = trace(tmp_path, loop)
    assert indices == [0, 0, 1]
    assert (inside, default) == (torch.device("cuda", 0), torch.device("cuda", 1))
    assert after == "cpu"


def test_a_file_is_loaded_to_where_it_is_asked_to_be(tmp_path: Path) -> None:
    torch.save({"model": model().state_dict(), "step": 3}, tmp_path / "w.pt")

    def loop() -> Any:
        first = torch.load(tmp_path / "w.pt", map_location="cuda:0")["model"]["0.weight"]
        other = torch.load(tmp_path / "w.pt", map_location="cpu")["model"]["0.weight"]
        return first.cuda() is first, first.cpu() is first, other.cpu() is other

    assert trace(tmp_path, loop)[0] == (True, False, True)


@pytest.mark.parametrize("pins", [False, True])
def test_a_loader_that_pins_its_batches_hands_out_copies(tmp_path: Path, pins: bool) -> None:
    samples = [{"x": [torch.zeros(2)], "y": 1}, {"x": [torch.ones(2)], "y": 2}]

    def loop() -> Any:
        seen = []
        for batch in DataLoader(samples, batch_size=None, pin_memory=pins):  # type: ignore[arg-type]
            batch["x"][0].add_(5)
            seen.append(batch["y"])
        positional = DataLoader(samples, None, False, None, None, 0, None, pins)  # type: ignore[arg-type]
        return seen, next(iter(positional))["x"][0].tolist()

    (seen, again), _ = trace(tmp_path, loop)
    assert seen == [1, 2]
    assert samples[1]["x"][0].tolist() == ([1.0, 1.0] if pins else [6.0, 6.0])  # type: ignore[index]
    assert again == ([0.0, 0.0] if pins else [5.0, 5.0])


def test_what_is_kept_of_tensors_goes_with_them(tmp_path: Path) -> None:
    with traced(tmp_path / "run.mpa") as tracer:
        watch = Watch.of(tracer)
        assert watch is not None
        assert watch.places is not None
        for _ in range(3000):
            torch.ones(2, device="cuda").cpu()
        assert len(watch.places._kept) <= 1024
        kept = torch.ones(2, device="cuda")
        assert watch.places.of(kept) == 0
    assert not watch.places._kept


def test_the_place_of_a_weight_takes_few_bytes(tmp_path: Path) -> None:
    weights = [torch.ones(2) for _ in range(1000)]
    with traced(tmp_path / "run.mpa") as tracer:
        watch = Watch.of(tracer)
        assert watch is not None
        assert watch.places is not None
        tracemalloc.start()
        try:
            for each in weights:
                watch.places.put(each, HOST)
            assert tracemalloc.get_traced_memory()[0] <= 160 * len(weights)
        finally:
            tracemalloc.stop()
        assert all(watch.places.of(each[1:]) == HOST for each in weights)


def test_what_is_kept_of_tensors_of_many_threads_goes_with_them(tmp_path: Path) -> None:
    def moves(_: int) -> None:
        for _ in range(1000):
            torch.ones(2, device="cuda").cpu()

    with traced(tmp_path / "run.mpa") as tracer:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(moves, range(4)))
        watch = Watch.of(tracer)
        assert watch is not None
        assert watch.places is not None
        assert len(watch.places._kept) <= 1024


def test_numbers_of_memory_that_nobody_wrote_to_are_not_told(tmp_path: Path) -> None:
    """A model is warmed up with what `torch.empty` finds in memory, as detectors are."""

    def warm(seen: dict[str, Any]) -> None:
        network = nn.Linear(4, 2).cuda().eval()
        buffer = torch.empty(3, 4, device="cuda")
        buffer.data.fill_(float("inf"))  # what happens to be there
        with torch.no_grad():
            network(buffer)
            seen["again"] = network(buffer) if "again" in seen else None
            network(torch.empty(3, 4).cuda().fill_(2.0))

    def told(seen: dict[str, Any], name: str) -> tuple[int, int]:
        (tmp_path / name).mkdir()
        _, run = trace(tmp_path / name, lambda: warm(seen))
        with run:
            (row,) = [each for each in run.statistics() if each.phase == "forward"]
            return row.calls, row.inf + row.nan

    assert told({}, "once") == (1, 0)
    assert told({"again": True}, "twice") == (2, 6)  # then it counts: it may have been written to


def test_nor_are_they_in_the_inference_mode_where_tensors_have_no_version(tmp_path: Path) -> None:
    def warm() -> None:
        network = nn.Linear(64, 2).cuda().eval()
        with torch.inference_mode():
            network(torch.empty(3, 64, device="cuda"))
            written = torch.empty(3, 64, device="cuda")
            written.fill_(2.0)
            network(written)
            network(torch.empty(3, 64, device="cuda").fill_(1.0))

    usual = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch fills such memory with NaN
    try:
        _, run = trace(tmp_path, warm)
    finally:
        torch.use_deterministic_algorithms(usual)
    with run:
        (row,) = [each for each in run.statistics() if each.phase == "forward"]
        assert (row.calls, row.inf + row.nan) == (2, 0)
        assert run.incidents() == []


class Names(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_scripts_sees_the_moves_alone(tmp_path: Path) -> None:
    def loop() -> list[str]:
        with Names() as mode:
            torch.ones(2).cuda().cpu()
        return mode.seen

    assert trace(tmp_path, loop)[0] == ["ones", "to", "to"]


SPARSE = """
import torch
rows = torch.eye(3).to_sparse().to("cuda")
assert rows.device == torch.device("cuda", 0)
back = rows.cpu()
back.mul_(2)
print(rows.to_dense().sum().item(), back.to_dense().sum().item())
ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]).cuda()
print(ragged.cpu().is_nested, torch.vmap(lambda row: row.cuda().cpu() * 2)(torch.ones(2)).tolist())
"""


def test_what_has_no_memory_of_its_own_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(SPARSE)
    done = launch(tmp_path / "calls.py", tmp_path)
    assert done.stdout == "3.0 6.0\nTrue [2.0, 2.0]\n", done.stderr
