"""CUDA calls on the CPU: the cast policy, the rounding, and what is left alone."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import batches, launch, trace, traced  # noqa: E402

from mpaudit.render import html, run_text  # noqa: E402
from mpaudit.runtime.summary import summarise  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from tests.benchmarks.runtime.loop import gpt, resnet  # noqa: E402


def test_half_precision_is_rounded_as_on_a_gpu(tmp_path: Path) -> None:
    torch.manual_seed(3)
    samples, weight = torch.randn(5, 300), torch.randn(7, 300)
    expected = (samples.half().double() @ weight.half().double().T).half()

    def forward() -> Any:
        layer = nn.Linear(300, 7, bias=False)
        layer.weight.data = weight.clone()
        with torch.autocast("cuda"):
            return layer(samples), layer

    (output, layer), _ = trace(tmp_path, forward)
    assert output.dtype is torch.float16
    assert torch.allclose(output.double(), expected.double(), rtol=2**-10, atol=1e-3)
    arriving = torch.randn(5, 7).half()
    output.backward(arriving)
    gradient = (arriving.double().T @ samples.half().double()).half()
    assert layer.weight.grad.dtype is torch.float32
    assert torch.equal(layer.weight.grad, layer.weight.grad.half().float())
    assert torch.allclose(layer.weight.grad.double(), gradient.double(), rtol=2**-9, atol=2e-3)


@pytest.mark.parametrize(
    ("operation", "dtype"),
    [
        (lambda h: torch.softmax(h, -1), "float32"),
        (lambda h: torch.log_softmax(h, -1), "float32"),
        (lambda h: h.exp(), "float32"),
        (lambda h: h**2, "float32"),
        (lambda h: h.sum(), "float32"),
        (lambda h: h.norm(), "float32"),
        (lambda h: nn.functional.layer_norm(h, (16,)), "float32"),
        (lambda h: nn.functional.mse_loss(h, h), "float32"),
        (lambda h: torch.cat([h, h.float()]), "float32"),
        (lambda h: torch.addcmul(h, h, h.float()), "float32"),
        (lambda h: h.float() @ h.float().T, "float16"),
        (lambda h: torch.einsum("ij,kj->ik", h.float(), h.float()), "float16"),
        (lambda h: torch.relu(h), "float16"),
        (lambda h: h + 1, "float16"),
        (lambda h: nn.LSTM(16, 4)(h.float())[0], "float16"),
        (lambda h: nn.Conv1d(1, 2, 3)(h[:, None].float()), "float16"),
        (lambda h: nn.MultiheadAttention(16, 2)(h, h, h)[0], "float16"),
    ],
)
def test_the_cast_policy_is_cudas(tmp_path: Path, operation: Any, dtype: str) -> None:
    def loop() -> Any:
        with torch.autocast("cuda"):
            return operation(torch.randn(8, 16).half())

    result, _ = trace(tmp_path, loop)
    assert str(result.dtype) == f"torch.{dtype}"


def test_bce_is_refused_as_by_cuda(tmp_path: Path) -> None:
    def loop() -> None:
        with torch.autocast("cuda"), pytest.raises(RuntimeError, match="unsafe to autocast"):
            nn.functional.binary_cross_entropy(torch.rand(3), torch.ones(3))

    trace(tmp_path, loop)


def test_what_is_counted_is_no_part_of_a_traced_graph(tmp_path: Path) -> None:
    class Traced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, samples: Any) -> Any:
            with torch.no_grad(), torch.autocast("cuda", cache_enabled=False):
                self.layers(samples)
                return torch.jit.trace(self.layers, samples).inlined_graph

    def forward() -> Any:
        return Traced().cuda()(torch.randn(5, 8, device="cuda"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        graph, run = trace(tmp_path, forward)
    kinds = {each.kind() for each in graph.nodes()}
    assert {"aten::to", "aten::linear", "aten::relu"} <= kinds
    assert kinds.isdisjoint({"aten::numel", "prim::NumToTensor", "aten::mul", "aten::add"})
    assert run.casts()
    assert run.meta["probe_errors"] == []


def test_a_script_that_asks_for_the_cpu_is_not_altered(tmp_path: Path) -> None:
    hidden = torch.randn(4, 16).half()

    def own_policy() -> Any:
        with torch.autocast("cpu", dtype=torch.float16):
            return [nn.functional.layer_norm(hidden, (16,)), torch.softmax(hidden, -1)]

    expected = own_policy()

    def loop() -> Any:
        with torch.autocast("cuda"):
            first = torch.softmax(hidden, -1)
            inner = own_policy()
            again = torch.softmax(hidden, -1)
        return [first, again], inner + own_policy()

    (cuda, cpu), _ = trace(tmp_path, loop)
    assert [each.dtype for each in cuda] == [torch.float32] * 2
    for ours, theirs in zip(cpu, expected * 2, strict=True):
        assert ours.dtype is torch.float16
        assert torch.equal(ours, theirs)


def test_checkpoints_recompute_under_the_emulated_policy(tmp_path: Path) -> None:
    from torch.utils.checkpoint import checkpoint

    block = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU())
    samples = torch.randn(4, 12)

    def gradient(saving: bool) -> Any:
        block.zero_grad()
        with torch.autocast("cuda"):
            value = checkpoint(block, samples, use_reentrant=False) if saving else block(samples)
        value.float().square().sum().backward()
        return block[1].weight.grad.clone()

    (plain, saved), run = trace(tmp_path, lambda: (gradient(False), gradient(True)))
    assert torch.equal(plain, saved)
    assert {each.calls for each in run.layers()} == {2}


def test_gradients_flushed_by_float16_are_counted(tmp_path: Path) -> None:
    samples = torch.randn(64, 12) * 1e-2
    scales = torch.logspace(-9, -3, 16)

    def loop() -> Any:
        layer = nn.Linear(12, 16, bias=False).cuda()
        with torch.autocast("cuda"):
            output = layer(samples)
        output.backward((torch.ones(64, 1) * scales).half())
        return layer.weight.grad

    gradient, run = trace(tmp_path, loop)
    arriving = (torch.ones(64, 1) * scales).half().double()
    exact = arriving.T @ samples.half().double()
    expected = int(((exact != 0) & (exact.half() == 0)).sum())
    assert 0 < expected < gradient.numel()
    assert int((gradient == 0).sum()) - int((exact == 0).sum()) == expected
    (row,) = [each for each in run.statistics() if each.phase == "backward"]
    assert (row.flushed_weight, row.flushed_weight_of) == (expected, gradient.numel())


@pytest.mark.parametrize("name", ["resnet", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_emulated_steps_take_less_than_twice_the_time_of_float32(tmp_path: Path, name: str) -> None:
    model, edge = (resnet(32), 64) if name == "resnet" else (gpt(256, 2, 4000), 0)
    if edge:
        samples, labels = torch.randn(8, 3, edge, edge), torch.randint(100, (8,))
    else:
        samples, labels = torch.randint(4000, (2, 2, 128))

    def seconds(mixed: bool) -> float:
        """Of the processor, not of the clock: others may use the machine."""
        began = process_time()
        with torch.autocast("cuda", enabled=mixed):
            output = model(samples)
            output = output if isinstance(output, torch.Tensor) else output["logits"]
            loss = nn.functional.cross_entropy(output.flatten(0, -2), labels.flatten())
        loss.backward()
        model.zero_grad()
        return process_time() - began

    def loop() -> list[tuple[float, float]]:
        for mixed in (True, False) * 2:
            seconds(mixed)
        return [(seconds(True), seconds(False)) for _ in range(5)]

    path = tmp_path / "run.mpa"
    with traced(path):
        pairs = loop()
    assert median(emulated / plain for emulated, plain in pairs) < 2
    with Reader(path) as run:
        assert "float16" in {each.dtype for each in run.statistics()}


CUDA_CALLS = """
import torch
assert torch.cuda.is_available() and torch.cuda.device_count() == 1
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
assert device.type == "cuda"
torch.cuda.manual_seed_all(0); torch.cuda.synchronize(); torch.cuda.empty_cache()
assert torch.cuda.memory_allocated() == 0 and torch.cuda.is_bf16_supported()
x = torch.zeros(2, 3, device=device) + torch.ones(2, 3).to(device) + torch.ones(2, 3).cuda()
x = x.to("cuda:0", torch.float64, non_blocking=True).to(z := torch.ones(1)).to(device=device)
y = torch.tensor([1.0], device="cuda", pin_memory=False).pin_memory()
z = x.new_zeros(2, device=device)
layer = torch.nn.Linear(3, 3, device=device).cuda().to(device)
loader = torch.utils.data.DataLoader([1, 2, 3], pin_memory=True)
assert [int(each) for each in loader] == [1, 2, 3]
torch.save(layer.state_dict(), "w.pt"); torch.load("w.pt", map_location=device)
event = torch.cuda.Event(enable_timing=True); event.record(); event.synchronize()
with torch.cuda.stream(torch.cuda.Stream()):
    torch.cuda.current_stream().synchronize()
with torch.device("cuda"):
    torch.ones(3)
print(x.device.type, x.dtype, layer(torch.ones(1, 3)).shape)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_calls_are_remapped_and_it_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CUDA_CALLS)
    done = launch(tmp_path / "calls.py", tmp_path)
    assert done.stdout == "cuda torch.float32 torch.Size([1, 3])\n", done.stderr
    assert done.stderr.count("cuda calls run on the CPU") == 1


ACCELERATOR_CALLS = """
import torch
assert torch.accelerator.is_available() and torch.accelerator.device_count() == 1
device = torch.accelerator.current_accelerator()
assert device == torch.device("cuda") and torch.accelerator.current_device_index() == 0
torch.accelerator.set_device_index(0); torch.accelerator.synchronize()
model = torch.nn.Linear(3, 2).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler(device.type)
loader = torch.utils.data.DataLoader(torch.ones(4, 3), batch_size=2, pin_memory=True)
for batch in loader:
    optimizer.zero_grad()
    with torch.autocast(device.type, dtype=torch.float16):
        loss = model(batch.to(device)).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
torch.optim.Adam(model.parameters()).step()
print(model(batch).shape)
"""


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="torch.accelerator came with 2.6")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_script_that_asks_for_any_accelerator_gets_the_stand_in(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(ACCELERATOR_CALLS)
    done = launch(tmp_path / "calls.py", tmp_path)
    assert done.stdout == "torch.Size([2, 2])\n", done.stderr
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as run:
        assert {each.dtype for each in run.statistics()} == {"float16", "float32"}


RARE_CALLS = """
import functools
import torch
device = torch.device("cuda")
stream = torch.cuda.Stream(device=device)
with functools.partial(torch.cuda.stream, stream=stream)():
    torch.cuda.current_stream().wait_stream(stream)
with torch.cuda.device(device=0), torch.cuda.nvtx.range("step"):
    torch.cuda.nvtx.range_push("forward"); torch.cuda.nvtx.range_pop()
made = [
    torch.fft.fftfreq(8, device=device),
    torch.fft.rfftfreq(8, d=0.5, device="cuda"),
    torch.normal(0.0, 1.0, size=(2, 3), device=device),
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=device),
    torch.ones(2, 2).to_sparse_csr(),
    torch.sparse_csr_tensor([0, 1, 2], [0, 1], [1.0, 2.0], device=device),
]
with torch.device("cuda"):
    made.append(torch.fft.fftfreq(8))
print({each.device.type for each in made})
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_rarer_cuda_calls_are_remapped_too(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(RARE_CALLS)
    done = launch(tmp_path / "calls.py", tmp_path)
    assert done.stdout == "{'cuda'}\n", done.stderr
    assert "Traceback" not in done.stderr


class Rotary(torch.nn.Module):
    """As transformers has it: its angles are computed in float32, on whatever device."""

    def forward(self, x: Any) -> Any:
        places = torch.arange(4096.0, device=x.device)[-2:, None]
        with torch.autocast(device_type=x.device.type, enabled=False):
            return places @ torch.full((1, 2), 0.9, device=x.device)


class Asking(torch.nn.Module):
    """A model that goes by where tensors are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rotary = torch.nn.Linear(12, 8), Rotary()
        self.recurrent = torch.nn.LSTM(8, 4, batch_first=True)
        self.asked: set[str] = set()

    def forward(self, x: Any) -> Any:
        hidden = self.first(x)
        assert hidden.device == x.device == self.first.weight.device
        self.asked.add(str(x.device))
        lengths = torch.tensor([2, 1])
        pack, unpack = (
            torch.nn.utils.rnn.pack_padded_sequence,
            torch.nn.utils.rnn.pad_packed_sequence,
        )
        packed = pack(hidden.float().view(-1, 2, 8)[:2], lengths, batch_first=True)
        out, _ = unpack(self.recurrent(packed)[0], batch_first=True)
        zeros = torch.zeros(out.shape, device=out.device)
        return out + zeros, self.rotary(hidden)


def test_a_tensor_says_that_it_is_on_cuda(tmp_path: Path) -> None:
    plain = torch.Tensor.device

    def loop() -> Any:
        model = Asking().to("cuda")
        optimizer = torch.optim.Adam(model.parameters())
        scaler = torch.amp.GradScaler("cuda")
        for samples, _ in batches(2):
            samples = samples.to("cuda")
            outside = model.first.weight.device
            with torch.autocast("cuda", dtype=torch.float16):
                loader = torch.utils.data.DataLoader(samples, batch_size=8, num_workers=1)
                (loaded,) = loader  # in a process that is forked from this one
                out, angles = model(loaded)
                loss = out.square().mean()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                copied = copy.deepcopy(model)
            scaler.update()
            optimizer.zero_grad()
        return model.asked, outside, angles, copied.first.weight.device

    (asked, outside, angles, copied), run = trace(tmp_path, loop)
    assert asked == {"cuda:0"}
    assert {str(outside), str(copied)} == {"cuda:0"}
    assert angles.dtype is torch.float32
    assert float(angles[1, 0]) == pytest.approx(4095 * 0.9)  # float16 would say 3686
    assert run.dtypes()["rotary"]["output"] == ["float32"]
    assert torch.Tensor.device is plain


RANKS = """
import os
import torch
rank = int(os.environ["LOCAL_RANK"])
assert torch.cuda.device_count() == torch.accelerator.device_count() == 2
assert torch.cuda.current_device() == 0
torch.cuda.set_device(rank)
assert torch.cuda.current_device() == torch.accelerator.current_device_index() == rank
layer = torch.nn.Linear(2, 2).to(rank)
with torch.autocast("cuda", dtype=torch.float16):
    assert layer.weight.device == layer(torch.ones(1, 2).cuda()).device == torch.device("cuda", rank)
    torch.ones(1).to("cuda:0")
    print(layer.weight.device)
"""


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="torch.accelerator came with 2.6")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_each_process_of_a_launcher_has_a_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    (tmp_path / "ranks.py").write_text(RANKS)
    done = launch(tmp_path / "ranks.py", tmp_path)
    assert done.stdout == "cuda:1\n", done.stderr


def test_what_was_never_sent_to_cuda_says_that_it_is_not(tmp_path: Path) -> None:
    def loop() -> Any:
        with torch.autocast("cuda", dtype=torch.float16):
            return torch.ones(2).device

    device, _ = trace(tmp_path, loop)
    assert device.type == "cpu"


def test_a_generator_of_the_script_is_on_the_cpu(tmp_path: Path) -> None:
    def draw() -> Any:
        generator = torch.Generator(device="cuda").manual_seed(3)
        assert isinstance(generator, torch.Generator)
        assert isinstance(torch.Generator(), torch.Generator)
        return torch.rand(4, generator=generator, device="cuda")

    before = torch.Generator
    found, _ = trace(tmp_path, draw)
    assert torch.Generator is before
    assert torch.equal(found, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_a_report_gives_no_such_reason_where_there_is_no_mixed_precision(tmp_path: Path) -> None:
    def loop() -> None:
        network = nn.Linear(12, 4).to("cuda")
        for samples, _ in batches(2):
            network(samples.to("cuda")).sum().backward()

    _, run = trace(tmp_path, loop)
    report = summarise(run, [], {})
    assert "float32: nothing ran in 16 bits\n" in run_text.render(report)


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ("torch.cuda.is_available()", "float16 autocast"),
        ("next(model.parameters()).is_cuda", "float16 autocast"),
        ("torch.version.cuda is not None", "float32: nothing ran in 16 bits (on a GPU it may: "),
    ],
)
def test_a_report_says_that_a_script_may_have_switched_mixed_precision_off(
    tmp_path: Path, asks: str, said: str
) -> None:
    (tmp_path / "train.py").write_text(
        f"""import torch
model = torch.nn.Linear(4, 2).to("cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
amp = {asks}
scaler = torch.amp.GradScaler("cuda", enabled=amp)
for _ in range(3):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16, enabled=amp):
        loss = model(torch.ones(2, 4, device="cuda")).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""
    )
    done = launch(tmp_path / "train.py", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as trace:
        report = summarise(trace, [], {})
    for page in (run_text.render(report), html.render(report)):
        assert said in page
        assert ("nothing ran in 16 bits" in page) == ("version" in asks)
