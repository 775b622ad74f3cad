"""The torch probe against independent computations: plain runs, own hooks, torch's arithmetic."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from mpaudit.protocols import machines  # noqa: E402
from mpaudit.rule import catalogue  # noqa: E402
from mpaudit.runtime import torch_probe  # noqa: E402
from mpaudit.runtime.record import Attempts  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

ROOT = Path(__file__).parents[1]
ARTICLE = ROOT / "fixtures" / "article"
LAUNCH = (
    "import sys; from mpaudit.runtime.launch import run; sys.exit(run(sys.argv[1], sys.argv[2:]))"
)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for device in ("cpu", "cuda"):
        assert not torch.is_autocast_enabled(device)
    assert torch.get_autocast_dtype("cpu") is torch.bfloat16


@contextmanager
def traced(path: Path) -> Iterator[Tracer]:
    """Everything in the block is watched; the trace is closed after it."""
    said: list[str] = []
    tracer = Tracer(path, machines())
    uninstall = torch_probe.install(tracer, "cpu", said.append)
    try:
        yield tracer
    finally:
        tracer.flush()
        uninstall()
        tracer.close(0)
    assert len(said) == bool(tracer.fact("emulated"))
    assert tracer.fact("probe_errors") == []


def trace(folder: Path, loop: Callable[[], Any]) -> tuple[Any, Reader]:
    path = folder / "run.mpa"
    with traced(path):
        result = loop()
    return result, Reader(path)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def batches(count: int = 6) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 12, generator=generator),
            torch.randint(4, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def train(
    network: Any, *, device: str = "cuda", factor: dict[int, float] | None = None
) -> list[float]:
    """A correct loop; in the steps of `factor` the loss is multiplied, so that it overflows."""
    network = network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler(device)
    losses = []
    for number, (samples, labels) in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = criterion(network(samples.to(device)), labels.to(device))
        loss = loss * (factor or {}).get(number, 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def test_a_cpu_script_computes_the_same_bits_with_and_without(tmp_path: Path) -> None:
    plain_model = model()
    plain = train(plain_model, device="cpu")
    state = torch.get_rng_state()
    watched_model = model()
    watched, run = trace(tmp_path, lambda: train(watched_model, device="cpu"))
    assert not run.meta.get("emulated")
    assert watched == plain
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(watched_model.parameters(), plain_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_layers_dtypes_and_steps_of_a_remapped_run(tmp_path: Path) -> None:
    _, run = trace(tmp_path, lambda: train(model()))
    assert {each.path: each.type for each in run.layers()} == {
        "": "Sequential",
        "0": "Linear",
        "1": "ReLU",
        "2": "Linear",
        "criterion": "CrossEntropyLoss",
    }
    assert {(each.calls, each.calls_per_step) for each in run.layers()} == {(6, 1)}
    flows = run.dtypes()
    for path in ("0", "2"):
        assert flows[path]["output"] == flows[path]["output_grad"] == ["float16"]
        assert flows[path]["parameter"] == flows[path]["parameter_grad"] == ["float32"]
    assert flows["0"]["input"] == ["float32"]
    assert flows["criterion"]["output"] == ["float32"]
    assert run.attempts() == [Attempts(0, 0, 5, True, 65536.0)]
    assert [each.type for each in run.optimizers()] == ["SGD"]
    assert run.problems() == []
    assert run.incidents() == []
    assert run.meta["emulated"]


def test_numbers_are_those_of_independent_hooks(tmp_path: Path) -> None:
    outputs: list[Any] = []
    gradients: list[Any] = []

    def loop() -> None:
        network = model()

        def own(_: Any, __: Any, output: Any) -> None:
            outputs.append(output.detach().clone())
            output.register_hook(lambda grad: gradients.append(grad.clone()))

        network[0].register_forward_hook(own)
        train(network)

    _, run = trace(tmp_path, loop)
    rows = {(each.layer, each.phase): each for each in run.statistics()}
    forward, backward = rows["0", "forward"], rows["0", "backward"]
    assert forward.dtype == backward.dtype == "float16"
    assert forward.amax == max(each.abs().max().item() for each in outputs)
    assert backward.amax == max(each.abs().max().item() for each in gradients)
    assert forward.elements == backward.elements == sum(each.numel() for each in outputs)
    assert forward.calls == backward.calls == 6


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


def test_a_forced_overflow_is_exactly_one_skipped_step(tmp_path: Path) -> None:
    _, run = trace(tmp_path, lambda: train(model(), factor={3: float("inf")}))
    assert run.attempts() == [
        Attempts(0, 0, 2, True, 65536.0),
        Attempts(0, 3, 3, False, 65536.0),
        Attempts(0, 4, 5, True, 32768.0),
    ]
    assert {(each.rule, each.judgement, each.first_step) for each in run.incidents()} == {
        ("gradient-overflow", "benign", 3)
    }
    bad = [each for each in run.statistics() if each.inf or each.nan]
    assert bad
    assert {(each.first_bad_step, each.last_bad_step) for each in bad} == {(3, 3)}
    assert {each.phase for each in bad if each.layer in ("", "0", "1", "2")} == {"backward"}


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 16), nn.ReLU())
        self.wide = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, samples: Any) -> Any:
        hidden = self.encoder(samples)
        return self.head(torch.relu(self.wide(hidden)))


def test_the_layer_where_an_activation_overflows_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Overflowing()
    nn.init.constant_(network.encoder[0].weight, 0.5)
    nn.init.constant_(network.encoder[0].bias, 5.0)

    def loop() -> None:
        network.cuda()
        with torch.autocast("cuda"):
            network(torch.ones(2, 12))
        with torch.no_grad():
            network.wide.weight.fill_(2e4)
        with torch.autocast("cuda"):
            network(torch.ones(2, 12))

    _, run = trace(tmp_path, loop)
    (incident,) = run.incidents()
    assert (incident.layer, incident.kind, incident.judgement) == (
        "wide",
        "activation-overflow",
        "defect",
    )
    assert (incident.nonfinite, incident.call) == (("inf",), 1)
    (problem,) = run.problems()
    assert problem.rule == "activation-overflow"
    assert problem.moment is not None
    assert problem.moment.layer == "wide"
    line = Path(problem.span.filename).read_text().splitlines()[problem.span.start.row - 1]
    assert "self.wide(hidden)" in line


def test_a_deliberate_minus_infinity_is_masked(tmp_path: Path) -> None:
    class Mask(nn.Module):
        def forward(self, scores: Any) -> Any:
            return scores.masked_fill(torch.eye(4, dtype=torch.bool), float("-inf"))

    network = nn.Sequential(nn.Linear(4, 4), Mask(), nn.Softmax(-1))

    def loop() -> None:
        network.cuda()
        with torch.autocast("cuda"):
            network(torch.randn(4, 4))

    _, run = trace(tmp_path, loop)
    assert [(each.layer, each.judgement) for each in run.incidents()] == [("1", "masked")]
    assert run.problems() == []


def test_nan_in_the_data_is_no_layers_fault(tmp_path: Path) -> None:
    def loop() -> None:
        samples = torch.randn(2, 12)
        samples[0, 0] = float("nan")
        with torch.autocast("cuda"):
            nn.CrossEntropyLoss()(model().cuda()(samples), torch.tensor([1, 2]))

    _, run = trace(tmp_path, loop)
    assert {(each.kind, each.judgement) for each in run.incidents()} == {
        ("input-nonfinite", "from-data")
    }
    assert run.problems() == []


def test_two_optimizers_count_their_own_attempts(tmp_path: Path) -> None:
    def loop() -> None:
        one, two = nn.Linear(3, 3), nn.Linear(3, 3)
        fast = torch.optim.SGD(one.parameters(), lr=0.1)
        slow = torch.optim.Adam(two.parameters())
        for number in range(6):
            one(torch.ones(1, 3)).sum().backward()
            fast.step()
            if number % 3 == 2:
                two(torch.ones(1, 3)).sum().backward()
                slow.step()

    _, run = trace(tmp_path, loop)
    assert [(each.index, each.type) for each in run.optimizers()] == [(0, "SGD"), (1, "Adam")]
    assert run.attempts() == [Attempts(0, 0, 5, True, None), Attempts(1, 0, 1, True, None)]
    assert [each.path for each in run.layers()] == ["", "two"]


def test_paths_are_those_of_named_modules(tmp_path: Path) -> None:
    import copy

    network = Overflowing()
    copied = copy.deepcopy(network)

    def loop() -> None:
        inner = Overflowing()
        inner.encoder(torch.ones(1, 12))  # a submodule called directly, before the whole
        nn.DataParallel(inner)(torch.ones(1, 12))
        copied(torch.ones(1, 12))

    _, run = trace(tmp_path, loop)
    paths = [each.path for each in run.layers()]
    expected = {name for name, _ in network.named_modules()}
    assert set(paths) >= expected
    assert {each.removeprefix("copied").removeprefix(".") for each in paths} == expected


def test_a_layer_called_twice_and_recomputed_layers_are_counted_once(tmp_path: Path) -> None:
    from torch.utils.checkpoint import checkpoint

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 4)
            self.saved = nn.Linear(4, 4)

        def forward(self, value: Any) -> Any:
            value = self.shared(self.shared(value))
            return checkpoint(self.saved, value, use_reentrant=False)

    network = Shared()

    def loop() -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            network(torch.ones(1, 4)).sum().backward()
            optimizer.step()

    _, run = trace(tmp_path, loop)
    calls = {each.path: each.calls_per_step for each in run.layers()}
    assert calls == {"": 1, "shared": 2, "saved": 1}


def test_compiled_code_stays_compiled_and_computes_the_same(tmp_path: Path) -> None:
    def loop() -> list[float]:
        torch._dynamo.reset()
        network = torch.compile(model(), backend="aot_eager")
        return train(network, device="cpu")

    plain = loop()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using `torch.compile")
        watched, run = trace(tmp_path, loop)
    assert watched == plain
    assert [each.path for each in run.layers()] == ["", "criterion"]
    assert run.meta["compiled"] is True


def test_torchscript_is_left_alone(tmp_path: Path) -> None:
    def loop() -> Any:
        @torch.jit.script
        def scripted(value: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(value + torch.zeros(3), label)

        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=torch.jit.TracerWarning)
            torch.jit.trace(model(), torch.ones(1, 12))
        return scripted(torch.zeros(1, 3), torch.tensor([1]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        result, _ = trace(tmp_path, loop)
    assert result.item() == pytest.approx(1.0986123)  # ln 3


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    from torch.nn.modules import module as modules
    from torch.optim import optimizer as optimizers

    owners = [
        torch,
        torch.cuda,
        torch.Tensor,
        nn.Module,
        nn.utils,
        torch.autograd,
        torch.optim.Optimizer,
        torch.amp.GradScaler,
        torch.autocast,
        torch.utils.data.DataLoader,
    ]
    hooks = [
        modules._global_forward_hooks,
        modules._global_forward_hooks_always_called,
        getattr(modules, "_global_forward_hooks_with_kwargs", {}),
        modules._global_forward_pre_hooks,
        modules._global_module_registration_hooks,
        sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks,
        sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks,
    ]
    assert optimizers is not None
    before = [dict(vars(each)) for each in owners]
    trace(tmp_path, lambda: train(model()))
    assert [dict(vars(each)) for each in owners] == before
    assert [len(each) for each in hooks] == [0] * 7
    with torch.autocast("cpu", dtype=torch.float16):
        assert nn.LayerNorm(4)(torch.ones(1, 4).half()).dtype is torch.float16


def test_a_failing_probe_does_not_reach_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(model(), device="cpu")

    def broken(*_: Any) -> None:
        raise RuntimeError("probe broke")

    path = tmp_path / "run.mpa"
    tracer = Tracer(path)
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    monkeypatch.setattr(tracer, "saw", broken)
    monkeypatch.setattr(tracer, "feed", broken)
    try:
        assert train(model(), device="cpu") == plain
    finally:
        uninstall()
        tracer.close(0)
    with Reader(path) as run:
        assert "forward hook: RuntimeError: probe broke" in run.meta["probe_errors"]


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


def test_casts_are_counted_by_layer(tmp_path: Path) -> None:
    def loop() -> None:
        network = model().to("cpu")
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, _ in batches(4):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                network(samples).float().sum().backward()
            optimizer.step()

    _, run = trace(tmp_path, loop)
    steps = run.meta["cast_steps"]
    found = {
        (each.layer, each.what): (each.count / steps, each.bytes / steps) for each in run.casts()
    }
    assert found == {
        ("0", "activation"): (1, 8 * 12 * 2),
        ("0", "parameter"): (2, (16 * 12 + 16) * 2),
        ("2", "parameter"): (2, (4 * 16 + 4) * 2),
    }
    assert {(each.source, each.target) for each in run.casts()} == {("float32", "bfloat16")}


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


def pages() -> list[Any]:
    """The rules of torch whose mistake a run sees, each with its page's example."""
    return [
        pytest.param(rule, title, id=f"{rule.name}-{title}")
        for rule in catalogue().values()
        if "torch" in rule.frameworks and "run" in rule.seen_by
        for title in ("Bad", "Good")
        if rule.example(title)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rule", "title"), pages())
def test_the_run_sees_what_the_page_marks(tmp_path: Path, rule: Any, title: str) -> None:
    text = rule.example(title, marked=True)
    script = tmp_path / "example.py"
    script.write_text(text)
    marked = [row for row, line in enumerate(text.splitlines(), 1) if "# error" in line]

    def loop() -> None:
        with suppress(RuntimeError, AssertionError):  # what torch says to some of them
            exec(compile(text, str(script), "exec"), {"__name__": "__main__"})

    _, run = trace(tmp_path, loop)
    found = [(each.rule, each.span.start.row) for each in run.problems()]
    assert found == [(rule.name, row) for row in marked]


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


def launch(script: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LAUNCH, str(script)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_calls_are_remapped_and_it_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CUDA_CALLS)
    done = launch(tmp_path / "calls.py", tmp_path)
    assert done.stdout == "cpu torch.float32 torch.Size([1, 3])\n", done.stderr
    assert done.stderr.count("cuda calls run on the CPU") == 1


def test_the_article_dies_at_its_second_iteration_and_the_rule_is_named(tmp_path: Path) -> None:
    script = ARTICLE / "run_pytorch.py"
    done = launch(script, tmp_path)
    assert done.returncode == 1
    _, _, tail = done.stderr.partition("Traceback (most recent call last):\n")
    assert re.search(r'File "[^"]*run_pytorch\.py", line \d+, in <module>\n    policy\.step', tail)
    assert "mpaudit/runtime" not in tail
    message = "RuntimeError: step() has already been called since the last update().\n"
    assert message in tail
    assert tail.index("mpaudit: MP104 missing-scaler-update explains this") > tail.index(message)
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as run:
        assert run.attempts() == [Attempts(0, 0, 0, True, 65536.0)]
        found = {each.rule: each for each in run.problems()}
        assert run.meta["exception"] == message.strip()
    line = script.read_text().splitlines()[found["missing-scaler-update"].span.start.row - 1]
    assert line.strip() == "policy.step(optimizer)"


def test_the_corrected_article_trains_to_its_end(tmp_path: Path) -> None:
    text = (ARTICLE / "run_pytorch.py").read_text()
    corrected = tmp_path / "corrected.py"
    corrected.write_text(
        text.replace("policy.step(optimizer)", "policy.step(optimizer)\n        policy.update()")
    )
    done = launch(corrected, tmp_path)
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.removeprefix("final loss "))
    assert 0 < loss < 0.1  # ln 10 = 2.3 before training
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as run:
        flows = run.dtypes()
        assert run.attempts() == [Attempts(0, 0, 159, True, 65536.0)]
        assert {each.type for each in run.optimizers()} == {"Adam"}
        assert "missing-scaler-update" not in {each.rule for each in run.problems()}
        assert "no-mixed-precision" not in {each.rule for each in run.problems()}
    for layer in ("0", "2"):
        assert flows[layer]["output"] == ["float16"]
        assert flows[layer]["parameter_grad"] == ["float32"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_nothing_waits_and_the_bits_are_the_same(tmp_path: Path) -> None:
    def loop() -> list[Any]:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        data = [(samples.cuda(), labels.cuda()) for samples, labels in batches()]
        losses = []
        torch.cuda.set_sync_debug_mode("error")
        try:
            for samples, labels in data:
                optimizer.zero_grad()
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = nn.functional.cross_entropy(network(samples), labels)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [each.item() for each in losses]

    plain = loop()
    path = tmp_path / "run.mpa"
    tracer = Tracer(path, machines())
    uninstall = torch_probe.install(tracer, "cuda")
    try:
        assert loop() == plain
        tracer.flush()
    finally:
        uninstall()
        tracer.close(0)
    with Reader(path) as run:
        assert run.meta["probe_errors"] == []
        assert run.dtypes()["0"]["output"] == ["bfloat16"]
        assert {each.calls for each in run.statistics() if each.phase == "forward"} == {6}
        assert all(each.amax for each in run.statistics())


def test_what_a_gpu_computes_of_a_tensor_is_what_the_cpu_finds() -> None:
    from mpaudit.runtime import torch_measure

    cases = [
        torch.tensor([1.0, -7.5, 3.0]),
        torch.tensor([1.0, float("inf"), -2.0, float("nan")]).half(),
        torch.tensor([float("-inf"), 4.0]).bfloat16(),
        torch.full((3,), float("nan")),
        torch.zeros(2, 3),
    ]
    for tensor in cases:
        row = torch.zeros(4, dtype=torch.float64)
        torch_measure._on_device(tensor, row)
        assert torch_measure._values(tensor.numel(), row.tolist()) == torch_measure._on_cpu(tensor)


SCRIPTS = [
    *(ROOT / "fixtures" / "clean").glob("*.py"),
    *(ROOT / "fixtures" / "scripts").glob("*.py"),
]
SEEN_BY_A_RUN = {
    "backward-in-autocast",
    "clip-before-unscale",
    "double-unscale",
    "missing-grad-scaler",
    "missing-scaler-update",
    "scaler-in-loop",
    "softmax-before-cross-entropy",
    "unscaled-backward",
    "unscaled-step",
    "update-before-step",
    "autocast-device-mismatch",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "script", [each for each in SCRIPTS if "torch" in each.read_text()], ids=str
)
def test_a_run_marks_no_line_that_the_fixture_does_not(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = script.read_text()
    if "tensorflow" in text or "spawn" in text or "init_process_group" in text:
        pytest.skip("not for one process with torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])

    def loop() -> None:
        with suppress(RuntimeError, AssertionError, SystemExit):
            exec(compile(text, str(script), "exec"), {"__name__": "__main__"})

    try:
        _, run = trace(tmp_path, loop)
    except ImportError as missing:
        pytest.skip(f"needs {missing.name}")
    lines = text.splitlines()
    for problem in run.problems():
        if problem.rule in SEEN_BY_A_RUN:
            assert f"[{problem.rule}]" in lines[problem.span.start.row - 1], problem


@pytest.mark.parametrize("name", ["pytorch", "tensorflow"])
def test_the_articles_code_is_unchanged_in_the_runnable_scripts(name: str) -> None:
    article = (ARTICLE / f"article_{name}.py").read_bytes()
    before, _, after = (ARTICLE / f"run_{name}.py").read_bytes().partition(article)
    assert before.count(b"\n") < 10
    assert after.strip().count(b"\n") == 0
    assert b"final loss" in after
