"""What a rehearsal of a torch script records: losses, gradients and outputs, as small sketches.

A sketch is a tensor's sum over a few buckets with signs drawn once: the distance of two sketches is,
but for about a fifth, that of the two tensors, and a process can hand it to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import _disable_current_modes

from mpaudit.runtime.frame import user_frame, user_span
from mpaudit.runtime.rehearsal import Loss, Output, Plan, Record, Sketch, Step, leave
from mpaudit.runtime.torch.float32 import DIGITS, LOW, Float32, SameNoise
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.names import Names
from mpaudit.runtime.torch.watch import Watch

BUCKETS = 16
_OUTPUTS = 20_000  # calls whose outputs are kept


class Recorder:
    """Puts a torch process into the arithmetic of its plan, and records what is compared."""

    def __init__(self, plan: Plan, watch: Watch) -> None:
        self._plan = plan
        self._watch = watch
        self._names = Names(watch)
        self._record = Record(framework="torch")
        self._optimizers = Known()
        self._scaled = Known()  # loss -> the scale that it was multiplied by
        self._attempts: list[int] = []
        self._signs: dict[int, torch.Tensor] = {}
        self._stepping: Any = None  # the optimizer whose step is under way
        self._calls: list[Any] = []
        patches = watch.patches
        scaler = torch.amp.grad_scaler.GradScaler
        patches.wrap(scaler, "scale", self._scale)
        patches.wrap(scaler, "step", self._scaler_step)
        patches.wrap(torch.autograd, "backward", self._backward)
        patches.wrap(torch, "set_default_dtype", self._default_dtype)
        patches.also(register_optimizer_step_pre_hook(self._before_step).remove)
        patches.also(register_optimizer_step_post_hook(self._after_step).remove)
        patches.also(modules.register_module_forward_pre_hook(self._enter).remove)
        patches.also(modules.register_module_forward_hook(self._leave).remove)
        patches.also(self.write)
        mode = {"plain": SameNoise, "float32": Float32}.get(plan.kind, self._rounded)()
        mode.__enter__()
        patches.also(lambda: mode.__exit__(None, None, None))

    def _rounded(self) -> Float32:
        return Float32(self._plan.digits)

    def write(self) -> None:
        """Write what was recorded; the script came to its own end."""
        self._record.dtypes = sorted(set(DIGITS) & self._watch.tracer.dtypes)
        self._record.write(self._plan.record)

    def _default_dtype(self, original: Callable[..., Any], dtype: Any) -> None:
        low = dtype in LOW and self._plan.kind != "plain"
        original(torch.float32 if low else dtype)

    def _sketch(self, tensor: torch.Tensor) -> Sketch:
        """BUCKETS numbers, or the elements themselves where there are no more of them."""
        with _disable_current_modes(), torch.no_grad():
            flat = tensor.detach()
            flat = flat.to_dense() if flat.layout is not torch.strided else flat
            flat = flat.reshape(-1).to(torch.float32)
            if flat.numel() > BUCKETS:
                short = -flat.numel() % BUCKETS
                signs = self._signs.get(flat.numel())
                if signs is None or signs.device != flat.device:
                    generator = torch.Generator().manual_seed(flat.numel())
                    drawn = torch.randint(0, 2, flat.shape, generator=generator, dtype=torch.int8)
                    signs = self._signs[flat.numel()] = (drawn * 2 - 1).to(flat.device)
                flat = torch.nn.functional.pad(flat * signs, (0, short)).view(-1, BUCKETS).sum(0)
            return [float(each) for each in flat.tolist()]

    def _backward(
        self, original: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any
    ) -> Any:
        place = self._record.place(user_span())
        losses = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        for loss in losses:
            if loss.numel() == 1:
                step = self._attempts[0] if self._attempts else 0
                value = float(loss.detach().item()) / (self._scaled.get(loss) or 1.0)
                self._record.losses.append(Loss(place, step, value))
        return original(tensors, *args, **kwargs)

    def _scale(self, original: Callable[..., Any], scaler: Any, outputs: Any) -> Any:
        result = original(scaler, outputs)
        if scaler._enabled and isinstance(result, torch.Tensor):
            self._scaled.set(result, float(scaler._scale.item()))
        return result

    def _enter(self, module: Any, args: Any) -> None:
        self._calls.append(module)
        parameters = list(module.parameters()) if not self._record.start else []
        if not parameters:
            return
        digest = hashlib.sha256(torch.random.get_rng_state().numpy().tobytes()).hexdigest()
        inputs = [each for each in args if isinstance(each, torch.Tensor)]
        self._record.start = {
            "parameters": [self._sketch(each) for each in parameters],
            "inputs": [self._sketch(each) for each in inputs],
            "random": digest,
        }

    def _leave(self, module: Any, _: Any, output: Any) -> None:
        outermost = self._calls[0] if self._calls else module
        while self._calls and self._calls.pop() is not module:  # left by an exception
            pass
        if module._modules or not torch.is_grad_enabled() or len(self._record.outputs) > _OUTPUTS:
            return
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            step = self._attempts[0] if self._attempts else 0
            spelled = self._watch.ref(outermost, user_frame()).text
            path = self._names.path(module, outermost, spelled)
            self._record.outputs.append(Output(path, step, self._sketch(output)))

    def _index(self, optimizer: Any) -> int:
        index: int | None = self._optimizers.get(optimizer)
        if index is None:
            index = len(self._attempts)
            self._optimizers.set(optimizer, index)
            self._attempts.append(0)
        return index

    def _scaler_step(
        self, original: Callable[..., Any], scaler: Any, optimizer: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not scaler._enabled:
            return original(scaler, optimizer, *args, **kwargs)
        index = self._index(optimizer)
        number = self._attempts[index]
        if number in self._plan.skips.get(str(index), ()):
            result = None
            self._skip(scaler, optimizer)
        else:
            result = original(scaler, optimizer, *args, **kwargs)
        if self._attempts[index] == number:  # the optimizer's own step was not reached
            self._attempted(optimizer, applied=False)
            self._stop_if_due()
        return result

    def _skip(self, scaler: Any, optimizer: Any) -> None:
        """Skip a step as a scaler does that has found an inf."""
        state = scaler._per_optimizer_states[id(optimizer)]
        if state["stage"] is torch.amp.grad_scaler.OptState.READY:
            scaler.unscale_(optimizer)
        for found in state["found_inf_per_device"].values():
            found.fill_(1.0)
        state["stage"] = torch.amp.grad_scaler.OptState.STEPPED

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if self._stepping is None:
            self._stepping = optimizer
            found = getattr(optimizer, "found_inf", None)  # a fused optimizer skips by itself
            self._attempted(optimizer, applied=found is None or not found.item())

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if self._stepping is optimizer:
            self._stepping = None
            self._stop_if_due()

    def _attempted(self, optimizer: Any, *, applied: bool) -> None:
        index = self._index(optimizer)
        gradients = [self._gradient(each) for each in _parameters(optimizer)] if applied else []
        place = self._record.place(user_span())
        self._record.steps.append(Step(index, self._attempts[index], applied, place, gradients))
        self._attempts[index] += 1

    def _gradient(self, parameter: Any) -> Sketch | None:
        return None if parameter.grad is None else self._sketch(parameter.grad)

    def _stop_if_due(self) -> None:
        if max(self._attempts) >= self._plan.steps:
            self._record.dtypes = sorted(set(DIGITS) & self._watch.tracer.dtypes)
            leave(self._record, self._plan)


def _parameters(optimizer: Any) -> Iterable[Any]:
    return (each for group in optimizer.param_groups for each in group["params"])
