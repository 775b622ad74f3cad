"""Every module call of a run: dtypes in and out, numbers forward, gradients backward."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from msgspec import Struct
from torch.nn.modules import module as modules

from mpaudit.event import Forward
from mpaudit.finding import Moment
from mpaudit.runtime.account import Account, Accounts
from mpaudit.runtime.frame import user_frame, user_span
from mpaudit.runtime.measured import Measured, Place, Values
from mpaudit.runtime.origin import Origins
from mpaudit.runtime.sampling import CALLS, sampled
from mpaudit.runtime.torch.casts import Casts
from mpaudit.runtime.torch.glance import Glance, Glances
from mpaudit.runtime.torch.gradients import Gradients
from mpaudit.runtime.torch.histogram import Histograms
from mpaudit.runtime.torch.measure import STAND_INS, measurable
from mpaudit.runtime.torch.names import Names, is_layer
from mpaudit.runtime.torch.nested import floats, given
from mpaudit.runtime.torch.output import Outputs
from mpaudit.runtime.torch.reading import Readings
from mpaudit.runtime.torch.regions import dtype_name, mark
from mpaudit.runtime.torch.unwritten import unwritten
from mpaudit.runtime.torch.watch import Watch, unwatched


class _Call(Struct):
    """A module call under way."""

    module: Any
    account: Account
    step: int
    leaf: bool
    recomputed: bool


class _Thread(threading.local):
    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.turn = 0
        self.passed: Any = None  # the module of an outermost call that is not looked at
        self.glance: Glance | None = None  # at what it gives out


class Layers:
    """Hooks on every module of the process, before the user has built any.

    In steps whose turn it is they look at all that flows. In others, on a CPU, where a number costs
    no wait, they read what layers give out, and nothing else: that is where it would begin to go wrong.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.names = Names(watch)
        self.built_before = self.names.built_before
        self._thread = _Thread()
        self._guard = watch.guard("forward hook")
        self._accounts = Accounts(watch.tracer)
        self._origins = Origins(watch.tracer)
        self._readings = Readings(watch)
        self._outputs = Outputs(watch, self.names, self._accounts, self._origins)
        self._glances = Glances(watch, self.names, self._accounts, self._outputs, self._readings)
        self.casts = Casts(watch, self._current)
        self._histograms = Histograms(watch)
        found = self._origins, self._accounts, self._histograms
        self._gradients = Gradients(watch, self.names, *found)
        self._trains = False  # an optimizer was made
        watch.optimizer_made = self._optimizer_made
        watch.after_step = self._settled
        watch.loss = self._origins.loss
        watch.patches.also(lambda: self._origins.over(watch.scaled))
        watch.region_entered = self._region_entered
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

    def _optimizer_made(self, optimizer: Any) -> None:
        """Name the layers after the model that is trained, where only others were called before.

        What those were called for then, as to find out shapes, is forgotten.
        """
        first, self._trains = not self._trains, True
        if first and self._watch.tracer.fact("losses") is None and not self._thread.calls:
            parameters = [parameter for parameter, _ in self._watch.own.pairs(optimizer)]
            root = self.names.trained(parameters)
            if root is not None and self._watch.tracer.forget():
                self.names.begin(root)

    def _settled(self, *attempt: Any) -> list[str]:
        """An attempt ended; returns the layers in which numbers went wrong."""
        self.casts.over()
        return self._origins.settled(*attempt)

    def _current(self) -> tuple[str, int] | None:
        """Path and step of the innermost layer that is being called to train, the first time."""
        call = self._thread.calls[-1] if self._thread.calls else None
        if call is None or call.recomputed:
            return None
        training = torch.is_grad_enabled() or call.module.training
        return (call.account.path, call.step) if training else None

    def _enter(self, module: Any, args: Any) -> None:
        if unwatched() or self._thread.passed is not None:
            return
        compiled = type(module).__name__ == "OptimizedModule" and not self._watch.eager
        for each in args:
            if isinstance(each, STAND_INS):
                return
        if self._watch.own.pretends(args) or not is_layer(module, compiled=compiled):
            return
        with self._guard:
            calls, thread, path = self._thread.calls, self._thread, ""
            account = self.names.part(module).account
            if calls:
                step, recomputed = calls[-1].step, calls[-1].recomputed
                if account is None:
                    path = self.names.path(module, calls[0].module, "")
            else:
                frame = user_frame()
                spelled = self._watch.ref(module, frame).text
                step = self._watch.step(module)
                recomputed = torch._C._current_graph_task_id() != -1
                if not recomputed:
                    self._feed_forward(module, step)
                named = module._orig_mod if compiled else module
                path = self.names.path(named, named, spelled)
                thread.turn += 1
                if self._unwritten(args):
                    thread.passed = module
                    return
                if not self._watch.turns.due(step):
                    thread.passed = module
                    if self._watch.glances and not recomputed:
                        thread.glance = Glance(module, step, thread.turn)
                    return
                if not recomputed:
                    self.casts.begin(step)
            if compiled:
                self._watch.tracer.note("compiled", True)
            if account is None:
                account = self._accounts.of(path, self._watch.own.parameters(module))
            if calls and self._watch.own.path(module) is not None:
                around = [each.account.path for each in calls]
                self._origins.called_in(account.path, around)
            leaf = not self._watch.own.contains(module)
            calls.append(_Call(module, account, step, leaf, recomputed))
            self._outputs.known(module, account)

    def _unwritten(self, args: Any) -> bool:
        """Whether a model is called, only to be warmed up, with memory that nobody has written to.

        Once for each tensor: it may be written in ways that nobody sees, as through NumPy.
        """
        if torch.is_grad_enabled():
            return False
        found = [each for each in args if isinstance(each, torch.Tensor)]
        kept = [self._watch.unwritten.drop(each) for each in found]
        pairs = zip(found, kept, strict=True)
        return any(held is not None and unwritten(each, held[0]) for each, held in pairs)

    def _region_entered(self) -> None:
        """A model enters a region itself, as one that a library has prepared does."""
        calls = self._thread.calls
        if calls and not calls[0].recomputed:
            self.casts.begin(calls[0].step)

    def _feed_forward(self, module: Any, step: int) -> None:
        parameter = next(iter(self._watch.own.within(module)), None)
        if parameter is not None:
            event = Forward(
                at=user_span(),
                model=self._watch.ref(module),
                model_made=None,
                model_device=self._watch.model_device(parameter),
                region=self._watch.region,
            )
            self._watch.tracer.feed(event, Moment(step), threaded=True)

    def _leave(self, module: Any, args: Any, *rest: Any) -> None:
        if unwatched():
            return
        thread = self._thread
        result = rest[-1] if rest else None
        kwargs = rest[0] if len(rest) == 2 else None
        if thread.passed is not None:
            if thread.glance is not None and result is not None:
                with self._guard:
                    self._glances.look(thread.glance, module, (args, kwargs), result)
            elif thread.passed is module and result is not None:
                with self._guard:
                    for tensor in floats(result):
                        mark(self._watch, tensor)
            else:
                self._watch.tracer.spent += self._watch.around
            if thread.passed is module:
                thread.passed = thread.glance = None
            return
        calls = thread.calls
        if not (calls and calls[-1].module is module):
            if not any(call.module is module for call in calls):
                return
            while calls[-1].module is not module:  # left by an exception
                calls.pop()
        call = calls.pop()
        if not calls:
            self.casts.end()
        if result is not None:
            with self._guard:
                self._look(call, given(args, kwargs), floats(result))
                if not calls:
                    self._watch.tracer.flush_if_due()

    def _look(self, call: _Call, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        account, graph = call.account, torch.is_grad_enabled()
        number = 0
        if not call.recomputed:
            training = graph or call.module.training
            number = self._watch.tracer.called(account.path, call.step, training=training)
            with self._accounts.lock:
                for tensor in inputs:
                    account.took(dtype_name(tensor.dtype))
            if graph and number == 0 and sampled(call.step):
                for weight in self._watch.own.parameters(call.module).values():
                    if weight is not None:
                        self._histograms.add(account.path, "weight", call.step, weight)
        before = self._gradients.known(inputs)
        made, turn = [], 0 if call.recomputed else self._thread.turn
        for tensor in outputs:
            place = self._outputs.place(account, call.step, number, turn, tensor)
            if not call.recomputed:
                self._outputs.came(account, place)
                self._measure(call, place, tensor, inputs)
            if tensor.grad_fn is not None:
                made.append(self._gradients.expect(account, place, tensor, leaf=call.leaf))
        if call.leaf:
            self._gradients.consumed(before, made)
            if made and before:
                self._gradients.interrogate(account.path, made, inputs, outputs)

    def _measure(
        self, call: _Call, place: Place, tensor: torch.Tensor, inputs: list[torch.Tensor]
    ) -> None:
        if not measurable(tensor):
            return
        sources: list[Measured | None] | None = None  # on the CPU they are read when they matter
        for each in inputs:
            if each is tensor:  # changed in place: what it was is the input
                sources = [self._readings.before(each) for each in inputs]
                break
        if sources is None and not self._watch.numbers.at_once(tensor):
            sources = [self._readings.now(each) for each in inputs]
        unread = inputs if sources is None else ()  # what waits for a device keeps no tensor alive
        training = torch.is_grad_enabled()
        account, module = call.account, call.module if sources is None else None
        outermost = not self._thread.calls

        def receive(values: Values) -> None:
            self._outputs.gave(account, place, values, training=training)
            if values.inf or values.nan:
                found = sources or [self._readings.now(each) for each in unread]
                self._outputs.went_bad(place, values, found, module, outermost=outermost)

        before = self._readings.known(tensor)  # by an inner layer, which counts it
        measured = self._readings.of_output(call.module, inputs, tensor, before)
        measured.computed = measured.made = True
        measured.then(receive)
        fresh = before is None or before[1] is not measured
        if training and fresh and place.call < CALLS and sampled(place.step):
            self._histograms.add(place.path, "activation", place.step, tensor)


def _users_hooks() -> bool:
    """Whether there are global hooks besides ours: of those alone torch.compile need not warn."""
    ours = modules._global_forward_pre_hooks, modules._global_forward_hooks
    others = modules._global_backward_pre_hooks, modules._global_backward_hooks
    return any(len(hooks) > 1 for hooks in ours) or any(others)
