"""The torch probe against independent computations: plain runs, own hooks, torch's arithmetic."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import batches, model, trace, train  # noqa: E402

from mpaudit.protocols import machines  # noqa: E402
from mpaudit.runtime.record import Attempts  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_comes_back_to_a_wide_loss_is_the_scale_and_no_number_of_the_model(
    tmp_path: Path, dtype: Any
) -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, inputs: Any) -> tuple[Any, Any]:
            logits = self.inner(inputs)
            return logits, logits.float().square().mean().to(dtype)

    arrived = []

    def loop() -> None:
        network = WithLoss()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                logits, loss = network(torch.ones(2, 4))
            logits.register_hook(lambda grad: arrived.append(grad.abs().max().item()))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    _, run = trace(tmp_path, loop)
    backward = {
        each.dtype: each
        for each in run.statistics()
        if (each.layer, each.phase) == ("", "backward")
    }
    assert run.dtypes()[""]["output_grad"] == sorted({"float16", str(dtype).removeprefix("torch.")})
    if dtype is torch.float32:
        assert set(backward) == {"float16"}
        assert backward["float16"].amax == max(arrived)
    else:
        assert backward["float16"].amax == 2.0**15  # must fit into float16, and nearly does not
    counted = {each.dtype for each in run.histograms()[""] if each.what == "gradient"}
    assert counted == (
        {"float16"} if dtype is torch.float16 else set()
    )  # logits are counted as `inner`'s


def test_a_forced_overflow_is_exactly_one_skipped_step(tmp_path: Path) -> None:
    _, run = trace(tmp_path, lambda: train(model(), factor={3: 1e34}))  # times the scale: inf
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


@pytest.mark.parametrize("scaled", [True, False])
def test_what_overflows_in_micro_batches_that_are_left_over_is_never_applied(
    tmp_path: Path, scaled: bool
) -> None:
    """An epoch ends within an accumulation: what is the scaler's to judge is not judged."""

    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda", enabled=scaled)
        for number, (samples, labels) in enumerate(batches(5)):
            with torch.autocast("cuda"):
                loss = nn.functional.cross_entropy(network(samples.cuda()), labels.cuda()) / 2
            scaler.scale(loss * 1e12 if number == 4 else loss).backward()
            if number % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()

    _, run = trace(tmp_path, loop)
    assert [each.applied for each in run.attempts()] == [True]
    incidents = run.incidents()
    assert {each.rule for each in incidents} == {"gradient-overflow"}
    assert {each.judgement for each in incidents} == {"benign" if scaled else "defect"}
    assert all(each.message.endswith("; no step followed") == scaled for each in incidents)


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


def test_what_data_spoils_is_told_once_where_no_graph_says_what_was_computed(
    tmp_path: Path,
) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(4, 4, 1) for _ in range(3))

        def forward(self, image: Any) -> Any:
            left, right = self.first(image).chunk(2, 1)
            joined = self.second(torch.cat([right, left], 1))
            return self.third(joined + image)

    def loop() -> None:
        with torch.no_grad():
            Branches().eval()(torch.full((1, 4, 2, 2), float("nan")))  # as a profiler does

    _, run = trace(tmp_path, loop)
    told = [(each.layer, each.kind, each.judgement) for each in run.incidents()]
    assert told == [("first", "input-nonfinite", "from-data")]
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


class Detector(nn.Module):
    """Finds out shapes when it is built, by a call of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.forward(torch.zeros(1, 4))

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


@pytest.mark.parametrize("kept", [True, False])
def test_plain_paths_are_those_of_the_model_that_is_trained(tmp_path: Path, kept: bool) -> None:
    """As trainers of detectors do it: a model is built, and then the one that is trained."""
    seen: dict[str, float] = {}

    def loop() -> None:
        torch.manual_seed(0)
        first = Detector()
        first(torch.full((1, 4), 1e3))
        trained = Detector()
        first = first if kept else None  # type: ignore[assignment]
        for name, part in trained.named_children():
            part.register_forward_hook(lambda _, __, y, n=name: seen.update({n: y.abs().max()}))
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        trained(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        if first is not None:
            first(torch.full((1, 4), 1e3))

    _, run = trace(tmp_path, loop)
    names = ["", "body", "head"]
    others = ["first", "first.body", "first.head"] if kept else []
    assert [each.path for each in run.layers()] == names + others
    assert {each.calls for each in run.layers()} == {1}
    largest = {each.layer: each.amax for each in run.statistics() if each.phase == "forward"}
    assert {name: largest[name] for name in seen} == seen
    counted = run.histograms()
    assert counted.keys() == {*names, *others} - {"", "first"}  # what they hand on is counted once
    rows = [row for rows in counted.values() for row in rows if row.what == "activation"]
    assert {row.tensors for row in rows} == {1}


def test_a_model_keeps_its_paths_where_something_went_wrong_in_it(tmp_path: Path) -> None:
    def loop() -> None:
        first, trained = nn.Linear(4, 4), nn.Linear(4, 4)
        first(torch.full((1, 4), 3e38))
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        trained(torch.ones(1, 4)).sum().backward()
        optimizer.step()

    _, run = trace(tmp_path, loop)
    assert [each.layer for each in run.incidents()] == [""]
    assert [each.path for each in run.layers()] == ["", "trained"]


class Averaged(nn.Module):
    """As timm's ModelEmaV3: no wrapper, whatever it calls what it holds."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        import copy

        self.module = copy.deepcopy(network)

    def forward(self, x: Any) -> Any:
        return self.module(x)


def test_a_copy_is_named_as_whoever_holds_it_says(tmp_path: Path) -> None:
    def loop() -> None:
        network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        network(torch.ones(2, 4))
        averaged = Averaged(network)
        averaged(torch.ones(2, 4))
        nn.DataParallel(Averaged(network))(torch.ones(2, 4))

    _, run = trace(tmp_path, loop)
    assert [each.path for each in run.layers()] == [
        *("", "0", "1"),
        *("averaged", "averaged.module", "averaged.module.0", "averaged.module.1"),
        *("Averaged", "Averaged.module", "Averaged.module.0", "Averaged.module.1"),
    ]


def test_a_layer_that_is_put_into_a_copy_has_its_path_there(tmp_path: Path) -> None:
    import copy

    def loop() -> None:
        network = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.ReLU())
        network(torch.ones(2, 4))
        fused = copy.deepcopy(network)
        block = nn.Sequential(nn.Linear(4, 4))
        fused[0][0] = nn.Linear(
            4, 4
        )  # torch tells that this block holds it, but not who holds the block
        fused.append(block)
        fused(torch.ones(2, 4))

    _, run = trace(tmp_path, loop)
    assert [each.path for each in run.layers()] == [
        *("", "0", "0.0", "0.1", "1"),
        *("fused", "fused.0", "fused.0.0", "fused.0.1", "fused.1", "fused.2", "fused.2.0"),
    ]


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

    def broken(*_: Any, **__: Any) -> None:
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


def test_a_layer_may_give_numbers_of_8_bits(tmp_path: Path) -> None:
    class Quantised(nn.Module):
        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return samples.to(torch.float8_e4m3fn)

    def loop() -> None:
        network = nn.Linear(4, 4)
        quantised = Quantised()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            out = network(torch.ones(2, 4))
            quantised(out.detach())
            out.sum().backward()
            optimizer.step()

    _, run = trace(tmp_path, loop)
    assert run.meta["probe_errors"] == []
    assert {"float8_e4m3fn"} in [set(each.get("output", ())) for each in run.dtypes().values()]


def test_what_torch_computes_of_a_tensor_on_a_gpu_is_what_the_cpu_finds() -> None:
    from mpaudit.runtime.measured import of_range
    from mpaudit.runtime.torch.on_cpu import on_cpu
    from mpaudit.runtime.torch.on_cuda import least_and_largest

    inf = float("inf")
    cases = [
        torch.tensor([1.0, -7.5, 3.0]),
        torch.tensor([1.0, inf, -2.0, float("nan")]).half(),
        torch.tensor([-inf, 4.0]).bfloat16(),
        torch.tensor([-inf, 4.0, inf]),
        torch.full((3,), -inf),
        torch.full((3,), float("nan")),
        torch.zeros(2, 3),
        torch.arange(12.0).view(3, 4).t(),
    ]
    for tensor in cases:
        low, high = least_and_largest(tensor).tolist()
        found, expected = of_range(tensor.numel(), low, high), on_cpu(tensor)
        assert (found.finite, found.only_minus) == (expected.finite, expected.only_minus)
        assert found.top == expected.top
        if expected.finite:
            assert found == expected


@pytest.mark.parametrize(("limit", "found"), [(1.0, ["clip-before-unscale"]), (float("inf"), [])])
def test_a_limit_of_infinity_asks_for_the_norm_and_clips_nothing(
    tmp_path: Path, limit: float, found: list[str]
) -> None:
    def loop() -> None:
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        for samples, labels in batches(2):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = nn.functional.cross_entropy(network(samples), labels)
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(network.parameters(), limit)
            scaler.step(optimizer)
            scaler.update()

    _, run = trace(tmp_path, loop)
    assert [each.rule for each in run.problems()] == found


def test_the_largest_of_negative_zeros_is_zero(tmp_path: Path) -> None:
    def loop() -> None:
        network = torch.nn.Linear(12, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, _ in batches(2):  # one class: it is always right, the gradients are zero
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(samples), torch.ones(8, 1))
            (-loss).backward()
            optimizer.step()

    _, run = trace(tmp_path, loop)
    back = [each for each in run.statistics() if each.phase == "backward"]
    assert [str(each.amax) for each in back] == ["0.0"]
