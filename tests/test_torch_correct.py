"""Loops that are right, in forms that look like a mistake to who sees the order of calls alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import batches, model, trace  # noqa: E402

cross_entropy = nn.functional.cross_entropy
Rules = list[str]


def found(folder: Path, loop: Callable[[], Any]) -> Rules:
    """The rules of what a run of a loop finds; the probe itself must not fail."""
    _, run = trace(folder, loop)
    assert run.meta["probe_errors"] == []
    return [each.rule for each in run.problems()]


def part(network: Any, samples: Any, labels: Any) -> None:
    cross_entropy(network(samples), labels).backward()


@pytest.mark.parametrize("how", ["loop", "helper", "while", "comprehension"])
def test_a_region_around_micro_batches_may_hold_one(tmp_path: Path, how: str) -> None:
    def loop() -> None:
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, labels in batches(3):
            optimizer.zero_grad()
            chunks = list(zip(samples.split(1000), labels.split(1000), strict=True))
            assert len(chunks) == 1
            with torch.autocast("cpu", dtype=torch.bfloat16):
                if how == "loop":
                    for chunk in chunks:
                        cross_entropy(network(chunk[0]), chunk[1]).backward()
                elif how == "helper":
                    for chunk in chunks:
                        part(network, *chunk)
                elif how == "while":
                    while chunks:
                        part(network, *chunks.pop())
                else:
                    [part(network, *chunk) for chunk in chunks]
            optimizer.step()

    assert found(tmp_path, loop) == []


@pytest.mark.parametrize("how", ["with", "helper", "handled", "decorated"])
def test_a_backward_pass_in_the_region_of_its_batch_stands_too_far_in(
    tmp_path: Path, how: str
) -> None:
    def loop() -> None:
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

        @torch.autocast("cpu", dtype=torch.bfloat16)
        def decorated(samples: Any, labels: Any) -> None:
            part(network, samples, labels)

        for samples, labels in batches(3):
            optimizer.zero_grad()
            if how == "decorated":
                decorated(samples, labels)
            else:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    if how == "with":
                        loss = cross_entropy(network(samples), labels)
                        for _ in range(2):
                            loss.item()
                        loss.backward()
                    elif how == "helper":
                        part(network, samples, labels)
                    else:
                        try:
                            part(network, samples, labels)
                        except RuntimeError:
                            continue
            optimizer.step()

    assert found(tmp_path, loop) == ["backward-in-autocast"]


def scaled_loop(body: Callable[..., None], count: int = 3) -> Callable[[], None]:
    """A loop with a scaler, whose `body` does what comes after the loss."""

    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for samples, labels in batches(count):
            optimizer.zero_grad()
            scale = scaler.get_scale()
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            body(network, optimizer, scaler, loss, scale)

    return loop


def by_hand(network: Any, optimizer: Any, scaler: Any, loss: Any, scale: float) -> None:
    scaler.scale(loss).backward()
    for each in network.parameters():
        each.grad.data.div_(scale)
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    scaler.update(scale)


def scaled_limit(network: Any, optimizer: Any, scaler: Any, loss: Any, scale: float) -> None:
    scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(network.parameters(), scale)
    scaler.step(optimizer)
    scaler.update()


def merged(network: Any, optimizer: Any, scaler: Any, loss: Any, _: float) -> None:
    grads = []
    for part in (loss, loss * loss):
        optimizer.zero_grad()
        scaler.scale(part).backward(retain_graph=True)
        grads.append([each.grad for each in network.parameters()])
    optimizer.zero_grad()
    for each, one, other in zip(network.parameters(), *grads, strict=True):
        each.grad = one + other
    scaler.step(optimizer)
    scaler.update()


def adversary(_: Any, optimizer: Any, scaler: Any, loss: Any, __: float) -> None:
    change = torch.zeros(16, 12, requires_grad=True)
    scaler.scale(loss + change.sum()).backward()
    nn.utils.clip_grad_norm_([change], 0.1)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("body", [by_hand, scaled_limit, merged, adversary])
def test_what_a_script_does_to_gradients_by_itself(tmp_path: Path, body: Any) -> None:
    assert found(tmp_path, scaled_loop(body)) == []


def test_an_optimizer_whose_gradients_the_script_makes(tmp_path: Path) -> None:
    """The multiplier of a constraint, stepped between the scaled backward pass and its step."""
    multiplier = nn.Parameter(torch.zeros(1))
    dual = torch.optim.SGD([multiplier], lr=0.1, maximize=True)

    def body(_: Any, optimizer: Any, scaler: Any, loss: Any, __: float) -> None:
        scaler.scale(loss).backward()
        multiplier.grad = loss.detach().reshape(1)
        dual.step()
        scaler.step(optimizer)
        scaler.update()

    assert found(tmp_path, scaled_loop(body)) == []


def test_a_step_on_scaled_gradients_is_still_one(tmp_path: Path) -> None:
    def body(network: Any, optimizer: Any, scaler: Any, loss: Any, _: float) -> None:
        scaler.scale(loss).backward()
        optimizer.step()

    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for samples, labels in batches(3):
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            body(network, optimizer, scaler, loss, 0.0)

    assert found(tmp_path, loop) == ["unscaled-step"]


class Scaled(torch.autograd.Function):
    """Multiplies the gradient that comes back by 1024."""

    @staticmethod
    def forward(_: Any, number: Any) -> Any:  # type: ignore[override]
        return number.clone()

    @staticmethod
    def backward(_: Any, gradient: Any) -> Any:  # type: ignore[override]
        return gradient * 1024


def hooked(loss: Any) -> None:
    loss.register_hook(lambda gradient: gradient * 1024)
    loss.backward()


STATIC = {
    "multiplied": lambda loss: (loss * 1024 / 2).backward(),
    "in float64": lambda loss: (loss.double() * 1024).float().backward(),
    "given": lambda loss: loss.backward(torch.tensor(1024.0)),
    "all given": lambda loss: torch.autograd.backward([loss], [torch.tensor(1024.0)]),
    "all named": lambda loss: torch.autograd.backward(
        tensors=[loss], grad_tensors=[torch.tensor(1024.0)]
    ),
    "hooked": hooked,
    "a function": lambda loss: Scaled.apply(loss).backward(),
}


def static_loop(backward: Callable[[Any], None]) -> Callable[[], None]:
    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, labels in batches(2):
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            backward(loss)
            for each in network.parameters():
                each.grad.div_(1024)
            optimizer.step()

    return loop


@pytest.mark.parametrize("how", STATIC)
def test_a_loss_that_is_multiplied_by_a_constant_is_scaled(tmp_path: Path, how: str) -> None:
    assert found(tmp_path, static_loop(STATIC[how])) == []


def test_a_loss_that_is_only_divided_is_not_scaled(tmp_path: Path) -> None:
    loop = static_loop(lambda loss: (loss / 2).backward())
    assert found(tmp_path, loop) == ["missing-grad-scaler"]


def test_a_script_of_two_optimizers_that_is_tried_for_a_step_trains(tmp_path: Path) -> None:
    def loop() -> None:
        network = model().cuda()
        optimizers = [
            torch.optim.SGD(each.parameters(), lr=0.1) for each in (network[0], network[2])
        ]
        for samples, labels in batches(1):
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            loss.backward()
            for each in optimizers:
                each.step()

    assert found(tmp_path, loop) == ["missing-grad-scaler"]


def test_optimizers_made_one_after_another_for_a_step_measure(tmp_path: Path) -> None:
    def loop() -> None:
        for samples, labels in batches(2):
            network = model().cuda()
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            loss.backward()
            optimizer.step()

    assert found(tmp_path, loop) == []


def test_a_scaler_that_the_script_switches_off_is_not_missed(tmp_path: Path) -> None:
    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda", enabled=False)
        for samples, labels in batches(2):
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    assert found(tmp_path, loop) == []


def test_a_copy_of_a_model_is_where_the_model_is(tmp_path: Path) -> None:
    """Averages of weights are such copies, and torch's own wrap them in a module of theirs."""

    def loop() -> None:
        network = model().cuda()
        average = torch.optim.swa_utils.AveragedModel(network)
        for each in (copy.deepcopy(network), average, nn.Sequential(network)):
            with torch.no_grad(), torch.autocast("cuda"):
                each(torch.randn(2, 12).cuda())

    assert found(tmp_path, loop) == []


def test_weights_that_are_put_in_their_place_for_a_call(tmp_path: Path) -> None:
    def loop() -> None:
        network = model().cuda()
        changed = {name: each * 2 for name, each in network.named_parameters()}
        with torch.autocast("cuda"):
            torch.func.functional_call(network, changed, torch.randn(2, 12).cuda())

    assert found(tmp_path, loop) == []


def test_weights_are_cast_once_in_a_region_without_gradients(tmp_path: Path) -> None:
    """As often as torch itself casts them on the CPU, whose casts a mode of the test's own counts."""

    def loop(device: str, dtype: Any) -> None:
        network = model().to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, labels in batches(2):
            with torch.no_grad(), torch.autocast(device, dtype=dtype):
                for each in samples.to(device).split(2):
                    network(each)
            optimizer.zero_grad()
            cross_entropy(network(samples.to(device)), labels.to(device)).backward()
            optimizer.step()

    counted = []
    for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float16)):
        folder = tmp_path / device
        folder.mkdir()
        _, run = trace(folder, lambda device=device, dtype=dtype: loop(device, dtype))
        assert [each.rule for each in run.problems()] == []
        casts = run.casts()
        counted.append({each.layer: each.count for each in casts if each.what == "parameter"})
    assert counted[0] == counted[1] != {}


def test_a_model_that_was_never_moved_is_on_the_cpu(tmp_path: Path) -> None:
    def loop() -> None:
        with torch.no_grad(), torch.autocast("cuda"):
            nn.Sequential(model())(torch.randn(2, 12))

    assert "autocast-device-mismatch" in found(tmp_path, loop)


def test_a_penalty_of_scaled_gradients_calibrates_the_scale(tmp_path: Path) -> None:
    """As torch's examples have it: where the scale is too large the penalty is not finite."""

    def loop() -> list[float]:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)
        scales = []
        for samples, labels in batches(12):
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = cross_entropy(network(samples.cuda()), labels.cuda())
            parameters = list(network.parameters())
            scaled = torch.autograd.grad(scaler.scale(loss), parameters, create_graph=True)
            factor = 1.0 / scaler.get_scale()
            with torch.autocast("cuda"):
                norm = sum((each * factor).square().sum() for each in scaled).sqrt()
                loss = loss + norm
            scaler.scale(loss).backward()
            scales.append(scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
        return scales

    scales, run = trace(tmp_path, loop)
    assert scales[0] > scales[-1] == scales[-2], "it did not settle"
    assert [each.rule for each in run.problems()] == []


@pytest.mark.parametrize(("factor", "rules"), [(1.0, []), (60000.0, ["activation-overflow"])])
def test_a_layer_with_weights_may_mask_its_output(
    tmp_path: Path, factor: float, rules: Rules
) -> None:
    class Router(nn.Linear):
        def forward(self, samples: Any) -> Any:
            scores = super().forward(samples)
            return scores.masked_fill(scores < scores.max(-1, keepdim=True).values, -torch.inf)

    def loop() -> None:
        torch.manual_seed(0)
        router = Router(12, 4).cuda()
        with torch.no_grad():
            router.bias[0] = factor
        for samples, _ in batches(2):
            with torch.autocast("cuda"):
                router(samples.cuda())

    assert found(tmp_path, loop) == rules


def fit(network: Any, optimizer: Any) -> None:
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    for samples, labels in batches(2):
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = cross_entropy(network(samples.cuda()), labels.cuda())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def test_two_stages_have_a_scaler_each(tmp_path: Path) -> None:
    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network[0].requires_grad_(requires_grad=False)
        fit(network, optimizer)
        network[0].requires_grad_(requires_grad=True)
        fit(network, optimizer)

    assert found(tmp_path, loop) == []


def test_a_scaler_for_each_epoch_is_too_many(tmp_path: Path) -> None:
    def loop() -> None:
        network = model().cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            fit(network, optimizer)

    assert found(tmp_path, loop) == ["scaler-in-loop"]


def test_threads_that_train_side_by_side(tmp_path: Path) -> None:
    """One scales its losses, the other does not and steps between backward and step of the first."""
    turn = threading.Barrier(2, timeout=60)

    def scaled() -> None:
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for number, (samples, labels) in enumerate(batches(3)):
            turn.wait()
            if number:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
            scaler.scale(cross_entropy(network(samples), labels)).backward()
            turn.wait()
            turn.wait()

    def plain() -> None:
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for samples, labels in batches(3):
            optimizer.zero_grad()
            cross_entropy(network(samples), labels).backward()
            turn.wait()
            turn.wait()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            turn.wait()

    def loop() -> None:
        threads = [threading.Thread(target=each) for each in (scaled, plain)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    rules = [each for each in found(tmp_path, loop) if each != "no-mixed-precision"]
    assert rules == []


def test_a_thread_may_step_for_another(tmp_path: Path) -> None:
    def body(_: Any, optimizer: Any, scaler: Any, loss: Any, __: float) -> None:
        scaler.scale(loss).backward()

        def finish() -> None:
            scaler.step(optimizer)
            scaler.update()

        thread = threading.Thread(target=finish)
        thread.start()
        thread.join()

    assert found(tmp_path, scaled_loop(body)) == []
