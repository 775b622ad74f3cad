"""Which module is which layer: paths as in `named_modules()` of the whole model the user built."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from msgspec import Struct

from mpaudit.runtime.account import Account
from mpaudit.runtime.frame import user_frame
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.watch import Watch

WRAPPERS = frozenset(
    {
        "DataParallel",
        "DistributedDataParallel",
        "FullyShardedDataParallel",
        "CheckpointWrapper",
        "OptimizedModule",
    }
)
"""Modules around a model or layer that are no part of its paths, and are not layers themselves."""
_PARTS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def type_name(module: Any) -> str:
    """The name of a module's class; `fully_shard` puts one of its own in the place of the user's."""
    bases = type(module).__bases__
    sharded = len(bases) == 2 and bases[0].__name__ == "FSDPModule"
    return str((bases[1] if sharded else type(module)).__name__)


def is_layer(module: Any, *, compiled: bool) -> bool:
    """Whether a module is called as a layer of the model: no wrapper around one, no traced graph."""
    wraps = type(module).__name__ in WRAPPERS and not compiled
    return not wraps and not isinstance(module, torch.fx.GraphModule)


def _joined(*paths: str) -> str:
    return ".".join(filter(None, paths))


def _named(outermost: Any, path: str) -> Iterator[str]:
    """The parts of a path, those aside by which wrappers hold what they are around."""
    holder = outermost
    for part in filter(None, path.split(".")):
        if part not in _PARTS or type(holder).__name__ not in WRAPPERS:
            yield part
        holder = holder._modules[part]


class Part(Struct):
    """What is known of one module: there is one for every module of a model, and nothing beside it.

    `holders` are weak references to the modules that hold it, each with its name there. `account`
    and `dtypes`, those of its own parameters and buffers, are there once it was looked at. `normalised`
    says that its output went into a normalisation as it was, False that it once did not after that.
    """

    holders: tuple[tuple[weakref.ref[Any], str], ...] = ()
    path: str | None = None
    account: Account | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    normalised: bool | None = None


class Names:
    """Finds a module's path by climbing to the module that holds it.

    Who holds whom is told by torch while the model is built; a module that was copied or unpickled
    is found by looking through the outermost module that was called. The first model that holds
    parameters has plain paths; what the user keeps beside it (a criterion, a second model) is known
    by its name.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._parts = Known()  # module -> its Part
        self._roots: list[tuple[weakref.ref[Any], str]] = []
        watch.patches.also(
            torch.nn.modules.module.register_module_module_registration_hook(self._held).remove
        )

    def part(self, module: Any) -> Part:
        """What is known of a module."""
        found: Part | None = self._parts.get(module)
        if found is None:
            found = Part()
            self._parts.set(module, found)
        return found

    def accounts(self) -> Iterator[tuple[Any, Account]]:
        """The modules that live and have an account, in the order in which they became known."""
        for module in self._parts.things():
            if (account := self.part(module).account) is not None:
                yield module, account

    def built_before(self, holder: Any) -> None:
        """Know what a module holds that was there when the watch began."""
        for name, module in list(vars(holder).get("_modules", {}).items()):
            self._held(holder, name, module)

    def _held(self, holder: Any, name: str, module: Any) -> None:
        if isinstance(module, torch.nn.Module):
            with self._watch.guard("module registration"):
                part = self.part(module)
                part.holders = (*part.holders, (weakref.ref(holder), name))

    def trained(self, parameters: Sequence[Any]) -> Any:
        """The model that has these parameters, where another one that has none has the plain paths."""
        ours = set(map(id, parameters))
        plain = [reference() for reference, prefix in self._roots if not prefix]
        if not plain or any(id(p) in ours for root in plain if root for p in root.parameters()):
            return None
        for module in self._parts.things():
            if any(id(each) in ours for each in module._parameters.values()):
                return self._climb(module)[0]
        return None

    def begin(self, root: Any) -> None:
        """Find all paths anew; those of `root` are plain."""
        self._roots = [(weakref.ref(root), "")]
        for module in self._parts.things():
            part = self.part(module)
            part.path = part.account = part.dtypes = None

    def path(self, module: Any, outermost: Any, spelled: str) -> str:
        """The path of `module`, called within `outermost`; `spelled` is the user's name for it."""
        part = self.part(module)
        if part.path is None:
            part.path = self._watch.own.path(module)
        if part.path is None:
            root, path = self._climb(module)
            if (around := self._watch.own.path(root)) is not None:  # one of torch in one of Keras
                part.path = f"{around}/{path}"
                return part.path
            top, above = self._climb(outermost)
            if root is not top and (inside := self._look_through(outermost, root, module)):
                root, path = top, _joined(above, inside, path)
            if root is not outermost:  # it is called in parts, maybe by itself
                spelled = self._watch.ref(root, user_frame()).text
            part.path = _joined(self._prefix(root, spelled), path)
        return part.path

    def others(self, module: Any, path: str) -> list[str]:
        """The other paths of a module that has this one: several modules may hold one activation."""
        found = []
        roots = {id(root): prefix for reference, prefix in self._roots if (root := reference())}
        for reference, name in self.part(module).holders:
            holder = reference()
            if holder is None or holder._modules.get(name) is not module:
                continue
            root, above = self._climb(holder)
            if id(root) in roots and type(holder).__name__ not in WRAPPERS:
                found.append(_joined(roots[id(root)], above, name))
        return [each for each in dict.fromkeys(found) if each != path]

    def _climb(self, module: Any) -> tuple[Any, str]:
        """The outermost module that holds `module`, wrappers aside, and the path from there."""
        names: list[str] = []
        seen = {id(module)}
        root = module
        while True:
            for reference, name in self.part(module).holders:
                holder = reference()
                if holder is None or id(holder) in seen or holder._modules.get(name) is not module:
                    continue
                seen.add(id(holder))
                module = holder
                if self._watch.own.path(holder) is not None:
                    return holder, ".".join(reversed([*names, name]))
                if type(holder).__name__ not in WRAPPERS:
                    names.append(name)
                    root = holder
                break
            else:
                return root, ".".join(reversed(names))

    def _look_through(self, outermost: Any, root: Any, module: Any) -> str:
        """Where in `outermost` the `root` is, if it is there, that nobody is known to hold."""
        for path, found in outermost.named_modules():
            if found is root:
                return ".".join(_named(outermost, path))
        return type(module).__name__ if root is module else ""

    def _prefix(self, root: Any, spelled: str) -> str:
        for reference, prefix in self._roots:
            if reference() is root:
                return prefix
        has_parameters = next(root.parameters(), None) is not None
        first = has_parameters and all(prefix for _, prefix in self._roots)
        prefix = "" if first else self._free(spelled or type(root).__name__)
        self._roots.append((weakref.ref(root), prefix))
        return prefix

    def _free(self, name: str) -> str:
        taken = {prefix for reference, prefix in self._roots if reference() is not None}
        number = 2
        free = name
        while free in taken:
            free = f"{name}{number}"
            number += 1
        return free
