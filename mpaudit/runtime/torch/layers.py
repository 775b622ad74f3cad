"""Every module call of a run: dtypes in and out, numbers forward, gradients backward."""

from __future__ import annotations

import inspect
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.modules import module as modules

from mpaudit.event import Forward
from mpaudit.finding import Moment
from mpaudit.runtime.frame import user_frame, user_span
from mpaudit.runtime.headroom import Headroom
from mpaudit.runtime.origin import Gradient, Measured, Origins, Place, Values
from mpaudit.runtime.sampling import CALLS, sampled
from mpaudit.runtime.torch.casts import Casts
from mpaudit.runtime.torch.edge import parts
from mpaudit.runtime.torch.histogram import Histograms
from mpaudit.runtime.torch.loop import MADE_IN
from mpaudit.runtime.torch.measure import STAND_INS, measurable
from mpaudit.runtime.torch.names import WRAPPERS, Names, type_name
from mpaudit.runtime.torch.nested import floats
from mpaudit.runtime.torch.regions import dtype_name, made_here
from mpaudit.runtime.torch.watch import Known, Watch, unwatched

_CHECK_GRADIENTS = 50  # every so many steps the dtypes of parameter gradients are noted


@dataclass(slots=True)
class _Call:
    """A module call under way."""

    module: Any
    path: str
    step: int
    leaf: bool
    recomputed: bool


class _Thread(threading.local):
    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.measured = Known()  # tensor -> (its version, Measured)
        self.gradients = Known()  # output -> (its version, its Gradient)
        self.turn = 0
        self.passed: Any = None  # the module of an outermost call that is not looked at


class Layers:
    """Hooks on every module of the process, before the user has built any."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.names = Names(watch)
        self.built_before = self.names.built_before
        self._thread = _Thread()
        self._parameters = Known()  # module -> dtypes noted of its own parameters and buffers
        self._paths = Known()  # parameter -> layer, and its name there
        self._sharing = Known()  # parameter -> all layers that have it
        self._dtypes: dict[str, str] = {}  # of the last output of a layer
        self._origins = Origins(watch.tracer)
        self._headroom = Headroom(watch.tracer.known)
        watch.tracer.judging.append(self._headroom.problems)
        watch.tracer.draining.append(self._hand_over)
        watch.patches.also(lambda: self._hand_over(last=True))
        self.casts = Casts(watch, self._current)
        self._histograms = Histograms(watch)
        watch.before_step = self._check_gradients
        watch.after_step = self._origins.settled
        watch.region_entered = self._region_entered
        watch.skipped = self._skipped
        watch.patches.set(modules, "_has_any_global_hook", _users_hooks)
        before = modules.register_module_forward_pre_hook(self._enter)
        register = modules.register_module_forward_hook
        options = {"always_call": True, "with_kwargs": True}  # the second from torch 2.5 on
        known = inspect.signature(register).parameters
        after = register(self._leave, **{name: options[name] for name in options if name in known})
        with_kwargs = getattr(modules, "_global_forward_hooks_with_kwargs", {})
        watch.patches.also(before.remove)
        watch.patches.also(lambda: with_kwargs.pop(after.id, None))  # torch's own remove forgets it
        watch.patches.also(after.remove)

    def _hand_over(self, *, last: bool = False) -> None:
        for course in self._headroom.courses(last=last):
            self._watch.tracer.peaks(course)

    def _current(self) -> tuple[str, int] | None:
        """Path and step of the innermost layer that is being called to train, the first time."""
        call = self._thread.calls[-1] if self._thread.calls else None
        if call is None or call.recomputed:
            return None
        return (call.path, call.step) if torch.is_grad_enabled() or call.module.training else None

    def _enter(self, module: Any, args: Any) -> None:
        if self._thread.passed is not None or unwatched():
            return
        compiled = type(module).__name__ == "OptimizedModule" and not self._watch.eager
        stands_in = any(isinstance(each, STAND_INS) for each in args)
        if stands_in or isinstance(module, torch.fx.GraphModule):
            return
        if type(module).__name__ in WRAPPERS and not compiled:
            return
        with self._watch.guard("forward hook"):
            calls = self._thread.calls
            if calls:
                outer = calls[-1]
                step, recomputed, spelled = outer.step, outer.recomputed, ""
                path = self.names.path(module, calls[0].module, spelled)
            else:
                frame = user_frame()
                spelled = self._watch.ref(module, frame).text
                step = self._watch.step(module.parameters())
                recomputed = torch._C._current_graph_task_id() != -1
                if not self._watch.turns.due(step):
                    self._thread.passed = module
                    if not recomputed:
                        self._feed_forward(module, step)
                    return
                named = module._orig_mod if compiled else module
                path = self.names.path(named, named, spelled)
                self._thread.turn += 1
                if not recomputed:
                    self._feed_forward(module, step)
                    self.casts.begin(step)
            if compiled:
                self._watch.tracer.note("compiled", True)
            calls.append(_Call(module, path, step, not module._modules, recomputed))
            self._note(module, path)

    def _region_entered(self) -> None:
        """A model enters a region itself, as one that a library has prepared does."""
        calls = self._thread.calls
        if calls and not calls[0].recomputed:
            self.casts.begin(calls[0].step)

    def _feed_forward(self, module: Any, step: int) -> None:
        parameter = next(module.parameters(), None)
        if parameter is not None:
            event = Forward(
                at=user_span(),
                moment=Moment(step=step),
                model=self._watch.ref(module),
                model_made=None,
                model_device=self._watch.model_device(module, parameter),
                region=self._watch.region,
            )
            self._watch.tracer.feed(event)

    def _note(self, module: Any, path: str) -> None:
        """Make the layer known, and the dtypes of its own parameters and buffers."""
        tracer = self._watch.tracer
        own = [*module._parameters.values(), *module._buffers.values()]
        dtypes = tuple([each.dtype for each in own if each is not None])
        if self._parameters.get(module) == dtypes:
            return
        span = user_span()
        tracer.layer(path, type_name(module), filename=span.filename, row=span.start.row)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._paths.setdefault(parameter, (path, name))
                self._sharing.setdefault(parameter, set()).add(path)
                if parameter.is_floating_point():
                    tracer.saw(path, "parameter", dtype_name(parameter.dtype))
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_floating_point():
                tracer.saw(path, "buffer", dtype_name(buffer.dtype))
        self._parameters.set(module, dtypes)

    def _leave(self, module: Any, args: Any, *rest: Any) -> None:
        if unwatched():
            return
        if self._thread.passed is not None:
            if self._thread.passed is module:
                self._thread.passed = None
            return
        calls = self._thread.calls
        if not any(call.module is module for call in calls):
            return
        while calls[-1].module is not module:  # left by an exception
            calls.pop()
        call = calls.pop()
        if not calls:
            self.casts.end()
        kwargs = rest[0] if len(rest) == 2 else {}
        if rest and rest[-1] is not None:
            with self._watch.guard("forward hook"):
                self._look(call, list(floats((args, kwargs))), list(floats(rest[-1])))
                if not calls:
                    self._watch.tracer.flush_if_due()

    def _look(self, call: _Call, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        tracer, graph = self._watch.tracer, torch.is_grad_enabled()
        number = 0
        if not call.recomputed:
            training = graph or call.module.training
            number = tracer.called(call.path, call.step, training=training)
            for tensor in inputs:
                tracer.saw(call.path, "input", dtype_name(tensor.dtype))
            if graph and number == 0 and sampled(call.step):
                for weight in call.module._parameters.values():
                    if weight is not None:
                        self._histograms.add(call.path, "weight", call.step, weight)
        before = [known[1] for known in map(self._thread.gradients.get, inputs) if known]
        made: list[Gradient] = []
        for tensor in outputs:
            place = Place(
                call.path,
                call.step,
                number,
                self._thread.turn,
                dtype_name(tensor.dtype),
                bool(call.module._parameters),
            )
            if not call.recomputed:
                tracer.saw(call.path, "output", place.dtype)
                self._dtypes[call.path] = place.dtype
                self._measure(place, tensor, inputs)
            if tensor.grad_fn is not None:
                made.append(self._await_gradient(place, tensor, call.leaf))
        if call.leaf:
            for gradient in before:
                gradient.consumers.extend(each for each in made if each is not gradient)
            if self._origins.suspected.get(call.path) and made and before:
                self._origins.suspected[call.path] -= 1
                self._interrogate(call.path, made, inputs, outputs)

    def _interrogate(
        self,
        path: str,
        made: list[Gradient],
        inputs: list[torch.Tensor],
        outputs: list[torch.Tensor],
    ) -> None:
        """Look at what this call gives back to its inputs: it is suspected of making it bad."""

        def judge(values: Values) -> None:
            arrived = [each.measured.values for each in made]
            if not values.finite and all(each is not None and each.finite for each in arrived):
                self._origins.proved(path)

        def measure(part: torch.Tensor) -> None:
            with self._watch.guard("gradient hook"):
                self._watch.numbers.measure(part, judge)

        parts(outputs, inputs, measure)

    def _measure(self, place: Place, tensor: torch.Tensor, inputs: list[torch.Tensor]) -> None:
        if not measurable(tensor):
            return
        sources: list[Measured | None] | None = None  # on the CPU they are read when they matter
        if any(each is tensor for each in inputs):  # changed in place: what it was is the input
            sources = [self._numbers(each, now=False) for each in inputs]
        elif not self._watch.numbers.at_once(tensor):
            sources = [self._numbers(each) for each in inputs]
        unread = inputs if sources is None else ()  # what waits for a device keeps no tensor alive

        training = torch.is_grad_enabled()

        def receive(values: Values) -> None:
            self._watch.tracer.measured(place.statistics("forward", values, place.dtype))
            if training and place.dtype == "float16":
                self._headroom.add(place.path, place.step, values.amax, finite=values.finite)
            if not values.finite:
                self._watch.turns.alarm()
                found = sources or [self._numbers(each) for each in unread]
                self._origins.output(place, values, [each for each in found if each is not None])

        before = self._thread.measured.get(tensor)  # by an inner layer, which counts it
        measured = self._numbers(tensor)
        if measured is not None:
            measured.computed = True
            measured.then(receive)
        fresh = before is None or before[1] is not measured
        if training and fresh and _counted(place):
            self._histograms.add(place.path, "activation", place.step, tensor)

    def _numbers(self, tensor: torch.Tensor, *, now: bool = True) -> Measured | None:
        """The numbers of a tensor; `now` as it is, else as it was when it was last looked at."""
        known = self._thread.measured.get(tensor)
        version = None if tensor.is_inference() else tensor._version
        if known is not None and (not now or known[0] == version):
            return known[1]  # type: ignore[no-any-return]
        if not now or not measurable(tensor):
            return None
        measured = Measured(computed=tensor.grad_fn is not None)
        self._thread.measured.set(tensor, (version, measured))
        self._watch.numbers.measure(tensor, measured.arrive)
        return measured

    def _await_gradient(self, place: Place, tensor: torch.Tensor, leaf: bool) -> Gradient:
        if tensor.grad_fn is not None and (made := made_here(self._watch)) is not None:
            tensor.grad_fn.metadata.setdefault(MADE_IN, made)
        version, known = self._thread.gradients.get(tensor) or (None, None)
        if known is None or (leaf and version != tensor._version):  # changed in place: another one
            gradient = Gradient(place)
            self._thread.gradients.set(tensor, (tensor._version, gradient))
            tensor.register_hook(lambda grad: self._gradient_arrived(gradient, grad))
            known = gradient
        self._also(known, place)
        return known

    def _also(self, gradient: Gradient, place: Place) -> None:
        """What arrives as `gradient` is the gradient of this layer's output too."""

        def receive(values: Values) -> None:
            dtype = gradient.dtype or place.dtype
            self._watch.tracer.saw(place.path, "output_grad", dtype)
            self._watch.tracer.measured(place.statistics("backward", values, dtype))

        gradient.measured.then(receive)

    def _gradient_arrived(self, gradient: Gradient, grad: Any) -> None:
        with self._watch.guard("gradient hook"):
            gradient.dtype = dtype_name(grad.dtype)
            if measurable(grad):

                def receive(values: Values) -> None:
                    gradient.measured.arrive(values)
                    if not values.finite:
                        self._origins.gradient(gradient, values)

                self._watch.numbers.measure(grad, receive)
                if _counted(gradient.place):
                    place = gradient.place
                    self._histograms.add(place.path, "gradient", place.step, grad)

    def _check_gradients(self, optimizer: Any) -> None:
        """Note the dtypes of the gradients an optimizer is about to apply."""
        index = self._watch.index(optimizer)
        step = self._watch.tracer.step(index)
        look, count = step <= 2 or not step % _CHECK_GRADIENTS, sampled(step)
        if not (look or count):
            return
        unscaled = getattr(optimizer, "grad_scale", None) is None  # a fused one does it itself
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                known, grad = self._paths.get(parameter), parameter.grad
                if grad is None or known is None:
                    continue
                if look:
                    for path in self._sharing.get(parameter):
                        self._watch.tracer.saw(path, "parameter_grad", dtype_name(grad.dtype))
                if count:
                    self._histograms.add(known[0], "weight_gradient", step, grad, unscaled=unscaled)

    def _skipped(self, optimizer: Any, step: int) -> None:
        """A step was skipped: if no layer passed bad gradients on, find whose own overflowed."""
        if self._origins.known(step):
            return
        bad: list[tuple[Place, str, Values]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                known, gradient = self._paths.get(parameter), parameter.grad
                if known is None or gradient is None or not measurable(gradient):
                    continue
                place = Place(known[0], step, 0, 0, self._dtypes.get(known[0], "float32"), True)
                self._watch.numbers.measure(gradient, partial(_blame, bad, place, known[1]))
        if not self._watch.turns.looked(step):
            together = sum(len(group["params"]) for group in optimizer.param_groups)
            self._origins.parameters(bad, together)
            return
        for place, name, values in bad:
            self._origins.weights(place, values, name)


def _counted(place: Place) -> bool:
    """Whether the numbers of a call are counted by power of two."""
    return place.call < CALLS and sampled(place.step)


def _blame(bad: list[tuple[Place, str, Values]], place: Place, name: str, values: Values) -> None:
    if not values.finite:
        bad.append((place, name, values))


def _users_hooks() -> bool:
    """Whether there are global hooks besides ours: of those alone torch.compile need not warn."""
    ours = modules._global_forward_pre_hooks, modules._global_forward_hooks
    others = modules._global_backward_pre_hooks, modules._global_backward_hooks
    return any(len(hooks) > 1 for hooks in ours) or any(others)
