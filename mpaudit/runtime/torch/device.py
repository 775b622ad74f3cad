"""A script's cuda calls on a machine without CUDA: they run on the CPU, with CUDA's autocast.

`torch.device("cuda")` stays what it is, so that the script takes the same branches as on a GPU;
where a device is used (`.to`, `.cuda`, `device=`), the CPU takes its place. What the script asks of
the CPU itself is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils.checkpoint import DefaultDeviceType

from mpaudit.runtime.frame import asking
from mpaudit.runtime.torch.casts import Casts
from mpaudit.runtime.torch.cuda import Chosen, answer_as_gpus
from mpaudit.runtime.torch.device_class import number_gpus
from mpaudit.runtime.torch.emulation import Emulation
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.moves import Moves, torchs_own
from mpaudit.runtime.torch.place import HOST, Places, is_cuda, is_host
from mpaudit.runtime.torch.policy import CudaPolicy
from mpaudit.runtime.torch.products import products_with_a_dtype
from mpaudit.runtime.torch.sharded import shard_on_the_cpu
from mpaudit.runtime.torch.unwritten import as_found
from mpaudit.runtime.torch.watch import Watch, unwatched

_device = torch.device
_FACTORIES = """arange empty empty_strided eye full linspace logspace ones rand randint randn randperm
range tril_indices triu_indices zeros scalar_tensor normal frombuffer empty_permuted
empty_quantized sparse_coo_tensor sparse_csr_tensor sparse_csc_tensor sparse_bsr_tensor
sparse_bsc_tensor sparse_compressed_tensor bartlett_window blackman_window hamming_window hann_window
kaiser_window fft.fftfreq fft.rfftfreq nested.nested_tensor nested.as_nested_tensor"""
_LIKE = """as_tensor asarray empty_like full_like ones_like rand_like randint_like randn_like tensor
zeros_like"""
_UNWRITTEN = frozenset(
    ["empty", "empty_strided", "empty_permuted", "empty_like", "new_empty", "new_empty_strided"]
)
_METHODS = "new_empty new_full new_ones new_tensor new_zeros new_empty_strided"


class Remap:
    """Puts the CPU in the place of CUDA until the patches are undone."""

    def __init__(self, watch: Watch, casts: Casts, used: Callable[[], None]) -> None:
        self._watch = watch
        self._tell: Callable[[], None] | None = used  # told when the first cuda call is remapped
        policy, chosen = CudaPolicy(casts), Chosen()
        watch.patches.also(policy.deactivate)
        watch.patches.also(products_with_a_dtype())
        self._places = watch.places = Places(watch.patches, chosen)
        self._moves = Moves(watch, self._places, self._used)
        self._contexts = Known()  # those that make a GPU the default device -> its index
        self._factories()
        self._distributed()
        answer_as_gpus(watch.patches, chosen)
        number_gpus(watch.patches)
        Emulation(watch.patches, policy, self._used)

    def _used(self) -> None:
        if self._tell is not None:
            tell, self._tell = self._tell, None
            usual = DefaultDeviceType.get_device_type()
            DefaultDeviceType.set_device_type("cuda")  # whose regions a checkpoint restores
            self._watch.patches.also(lambda: DefaultDeviceType.set_device_type(usual))
            tell()

    def _made_on_cuda(self, device: Any) -> int:
        self._watch.cuda_made = True
        return self._moves.sent(device)

    def _made(
        self, original: Callable[..., Any], *args: Any, _like: bool = False, **kwargs: Any
    ) -> Any:
        """A tensor is made; one that is made `_like` another one, or of it, is where that is."""
        device: Any = kwargs.get("device")
        if type(device) is _device and device.type == "cpu" and torchs_own():
            kwargs.pop("pin_memory", None)
            return original(*args, **kwargs)
        given = args[0] if args else None
        place: int | None = None
        if device is not None and is_cuda(device):
            kwargs["device"] = torch.device("cpu")
            place = self._made_on_cuda(device)
        elif device is None and _like and isinstance(given, torch.Tensor):
            place = self._places.of(given)
        elif device is None or is_host(device):
            place = self._default_place() if device is None else HOST
            if place == HOST and torchs_own():  # the weights of a layer: a mark each costs memory
                place = None
        kwargs.pop("pin_memory", None)
        made = original(*args, **kwargs)
        if place is not None and isinstance(made, torch.Tensor) and not unwatched():
            if device is not None and original.__name__ in ("as_tensor", "asarray"):
                made = self._moves.held(given, made, place)
            self._places.put(made, place)
            if original.__name__ in _UNWRITTEN:
                self._watch.unwritten.set(made, (as_found(made),))
        return made

    def _default_place(self) -> int:
        """Where tensors are made when nobody says where."""
        if torch._C._len_torch_function_stack():
            for mode in reversed(_get_current_function_mode_stack()):
                if isinstance(mode, DeviceContext):
                    place: int | None = self._contexts.get(mode)
                    return HOST if place is None else place
        return HOST

    def _factories(self) -> None:
        _device_constructors()  # torch keeps the set of them: it must hold its own functions
        wrap = self._watch.patches.wrap
        like = partial(self._made, _like=True)
        for name in _FACTORIES.split():
            folder, _, short = name.rpartition(".")
            wrap(getattr(torch, folder) if folder else torch, short, self._made)
        for name in _LIKE.split():
            wrap(torch, name, like)
        for name in _METHODS.split():
            wrap(torch.Tensor, name, like)
        wrap(torch, "load", self._load)
        wrap(torch, "get_default_device", self._default)
        wrap(DeviceContext, "__init__", self._context)

    def _load(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        where = args[1] if len(args) > 1 else kwargs.get("map_location")
        if where is None or is_cuda(where):
            args, kwargs["map_location"] = args[:1], torch.device("cpu")
        loaded = original(*args, **kwargs)
        with self._watch.guard("torch.load"):
            if is_cuda(where):
                place = self._moves.sent(where)
            elif is_host(where):
                place = HOST
            else:
                return loaded
            for tensor in _within(loaded):
                self._places.put(tensor, place)
        return loaded

    def _default(self, original: Callable[..., Any]) -> Any:
        place = HOST if asking().startswith("torch.") else self._default_place()
        return original() if place == HOST else torch.device("cuda", place)

    def _context(self, original: Callable[..., Any], context: Any, device: Any) -> Any:
        if is_cuda(device):
            self._contexts.set(context, self._made_on_cuda(device))
            device = torch.device("cpu")
        return original(context, device)

    def _distributed(self) -> None:
        """Process groups: gloo in the place of nccl, and no device for DistributedDataParallel."""
        if not torch.distributed.is_available():
            return

        def start(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            args = tuple("gloo" if each == "nccl" else each for each in args)
            if kwargs.get("backend") in ("nccl", "cpu:gloo,cuda:nccl"):
                kwargs["backend"] = "gloo"
            kwargs.pop("device_id", None)
            return original(*args, **kwargs)

        def parallel(original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> None:
            kwargs.update(device_ids=None, output_device=None)
            original(owner, *args[:1], **kwargs)

        wrap = self._watch.patches.wrap
        wrap(torch.nn.DataParallel, "forward", _whole)
        wrap(torch.distributed, "init_process_group", start)
        wrap(torch.nn.parallel.DistributedDataParallel, "__init__", parallel)
        shard_on_the_cpu(self._watch.patches, self._moves.sent)


def _whole(_: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
    """`DataParallel.forward` where nothing is parallel."""
    return owner.module(*args, **kwargs)


def _within(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what was loaded from a file."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _within(each)
