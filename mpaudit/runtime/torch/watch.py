"""What the parts of the torch probe share: tracer, names of objects, regions, the current step."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch

from mpaudit.event import Region
from mpaudit.finding import Span
from mpaudit.runtime.repetition import Stack
from mpaudit.runtime.sampling import Turns
from mpaudit.runtime.torch.guard import Guard, around
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.measure import Numbers
from mpaudit.runtime.torch.own import Own
from mpaudit.runtime.torch.patch import Patches
from mpaudit.runtime.torch.place import HOST, Places
from mpaudit.runtime.torch.ref import Refs
from mpaudit.runtime.tracer import Tracer

# They are taken out of torch once: what its modules hold has left the processor's caches at each step.
_Tensor = torch.Tensor
_compiler = torch.compiler
_flagged = hasattr(torch.compiler, "_is_compiling_flag")
_in_dynamo = torch.compiler.is_dynamo_compiling
_tracing = torch._C._get_tracing_state


def unwatched() -> bool:
    """Whether torch is compiling or tracing: a hook must not look at tensors then.

    It is `torch.compiler.is_compiling()`, with fewer functions, as all that is watched asks for it.
    """
    compiling = _compiler._is_compiling_flag if _flagged else _compiler.is_compiling()
    return _in_dynamo() or compiling or _tracing() is not None


_lanes = itertools.count()


class Entered(NamedTuple):
    """An entry of a region: its number, and where the user's code was."""

    number: int
    stack: Stack


class Thread(threading.local):
    """What is under way in one thread."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.entered: list[Entered | None] = []  # of these; None where a library's code enters
        self.entries = 0  # how often an outermost region was entered
        self.stepping = 0  # inside scaler.step
        self.edited = True  # as that began, the gradients were others than torch left
        self.unscaled: Any = (
            None  # an optimizer whose gradients it has divided, which is not noted yet
        )
        self.inside: list[str] = []  # of other methods of a scaler
        self.backward = 0  # inside backward()
        self.derived = (
            False  # a scaled number was derived by autograd.grad() since the last backward()
        )
        self.lane = next(_lanes)
        self.optimizer: list[int] = []  # optimizers whose step() is under way, by id


class Watch:
    """The state of the torch probe in this process."""

    _running: ClassVar[Watch | None] = None

    @classmethod
    def of(cls, tracer: Tracer) -> Watch | None:
        """What watches torch for `tracer`, None if nothing does."""
        found = cls._running
        return found if found is not None and found.tracer is tracer else None

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.framework = "torch"
        """What the modules and optimizers that are watched are of: Keras may run on torch."""
        self.around = around(tracer)
        """Seconds that it costs, at most, to call a hook at all, which no guard can time."""
        self.patches = Patches()
        self.thread = Thread()
        self.ref = Refs(tracer.lock).ref
        """How events name an object, spelled as in a frame."""
        self.numbers = Numbers(tracer.failed)
        self.own = Own()
        self.places: Places | None = None  # where the CPU stands in for GPUs
        self.unwritten = Known()  # there too: tensors that are made of memory as it is
        self.compiles = False  # torch.compile was called
        self.on_compile: list[Callable[[], object]] = []
        """Called once, before the first torch.compile."""
        self.eager = False  # nothing that is compiled from here on runs as compiled code
        self.cuda_made = False  # a remapped call made tensors on cuda: who is on it is not known
        self.scaled = False  # a scaler has multiplied a loss
        self.marks = True  # it is noted in the graph where outputs of layers were made
        self.sent_by: str | None = None  # the hook by which ranks exchange their gradients
        self.scalers = Known()  # live scaler -> where it was made
        self.optimizers = Known()  # optimizer -> its index and how many parameters it has
        self.restored = Known()  # parameters that were copied or loaded
        self.before_step: Callable[[Any, bool], None] = lambda *_: None
        """Called with an optimizer right before it steps, and whether its gradients are without the
        loss scale by then."""
        self.after_step: Callable[[int, int, bool | None, bool, bool], list[str]] = lambda *_: []
        """Called with an optimizer's index and an attempt when it is known whether it was applied, and
        whether losses are scaled, and by a scaler that looked at these gradients; returns the layers in
        which numbers went wrong."""
        self.optimizer_made: Callable[[Any], None] = lambda _: None
        """Called with an optimizer when the script has made it."""
        self.region_entered: Callable[[], None] = lambda: None
        """Called when an autocast region that is switched on was entered."""
        self.skipped: Callable[[Any, int], None] = lambda *_: None
        """Called before that on the CPU, with the optimizer and the attempt that was skipped."""
        self.loss: Callable[[int, Span, float, str, bool], None] = lambda *_: None
        """Called with a step, the place, value and dtype of a loss that is not finite by itself, and
        whether a scaler multiplies it."""
        self.attempted: Callable[[Any, int, bool | None], None] = lambda *_: None
        """Called before that with an optimizer and an attempt through a scaler, and whether it was
        applied, which on a GPU is not known yet."""
        self.backward: Callable[[Sequence[Any]], None] = lambda _: None
        """Called with the losses that a backward pass begins at."""
        self.scaled_loss: Callable[[Any, Any], None] = lambda *_: None
        """To be called with a loss and what it is scaled to."""
        self.ended: Callable[[], None] = lambda: None
        """To be called after an attempt that torch's own optimizers do not make."""
        self.turns = Turns()
        self.glances = False  # outputs of layers are read in the steps between, too
        self._models = (
            Known()
        )  # outermost module -> as of `_changes`, index of its optimizer or None
        self._changes = 0  # how often optimizers have come or got other parameters
        self._last_index: int | None = None  # of the optimizer of the model that was called last
        self._guards: dict[str, Guard] = {}
        tracer.draining.append(self._drain)
        Watch._running = self

    def _drain(self) -> None:
        with self.guard("reading numbers"):
            self.numbers.drain()

    def guard(self, where: str) -> Guard:
        """A block in which the probe may fail without harm."""
        found = self._guards.get(where)
        if found is None:
            found = self._guards[where] = Guard(self.tracer, where, self.around)
        return found

    @property
    def region(self) -> Region | None:
        """The innermost autocast region of this thread, None outside all or in a disabled one."""
        regions = self.thread.regions
        return regions[-1] if regions and regions[-1].enabled else None

    def index(self, optimizer: Any) -> int:
        """The index of an optimizer; its first use makes it known, with its parameters."""
        index, known = self.optimizers.get(optimizer) or (None, 0)
        if index is None:
            self.tracer.claims.used(self.framework)
            index = self.tracer.optimizer(type(optimizer).__name__)
        count = self.own.count(optimizer)
        if count != known:
            self.optimizers.set(optimizer, (index, count))
            self._changes += 1
        return int(index)

    def settled(self, index: int, step: int, applied: bool | None, scale: float | None) -> None:
        """An attempt's end is known."""
        self.tracer.settled(index, step, applied, scale)
        checked = scale is not None
        began = self.after_step(index, step, applied, checked or self.scaled, checked)
        if applied is False:
            self.turns.alarm()
            self.tracer.culprits(index, step, began)

    def model_device(self, parameter: Any) -> str | None:
        """The type of the device a parameter is on as the script sees it (a remapped one is cuda)."""
        if self.places is None:
            return str(parameter.device.type)
        if not isinstance(parameter, torch.nn.Parameter):
            return None  # put in its place for one call
        place = self.places.of(parameter)
        if place is None or place == HOST:
            return None if self.cuda_made or self.restored.get(parameter) else "cpu"
        return "cuda"

    def step(self, model: Any) -> int:
        """The attempt that work on a model belongs to: that of the optimizer of its parameters.

        A model that no optimizer trains works for the one that was called last, or the first optimizer.
        """
        changes, index = self._models.get(model) or (None, None)
        if changes != self._changes:
            index = self._owner(model)
            self._models.set(model, (self._changes, index))
        if index is not None:
            self._last_index = index
        return self.tracer.step(self._last_index)

    def lost(self, at: Span, value: float, dtype: str, scaled: bool) -> None:
        """A loss is not finite, whatever a scaler makes of it."""
        self.loss(self.tracer.step(self._last_index), at, value, dtype, scaled)

    def _owner(self, model: Any) -> int | None:
        """The index of the first optimizer that has the first parameter which any one has."""
        owners: dict[int, int] = {}
        for optimizer in self.optimizers.things():
            index, _ = self.optimizers.get(optimizer)
            for parameter, _ in self.own.pairs(optimizer):
                owners.setdefault(id(parameter), index)
        found = (owners.get(id(parameter)) for parameter in self.own.within(model))
        return next((index for index in found if index is not None), None)
