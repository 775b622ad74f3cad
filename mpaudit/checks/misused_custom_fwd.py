"""MP214: `custom_fwd` and `custom_bwd` that are called wrongly, stand alone, or cannot work."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.checks.autocast_call import only_device
from mpaudit.finding import Problem, Related
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.names import Names
from mpaudit.source.text.place import root_of
from mpaudit.source.trait.autograd_function import AutogradFunction, Guard, Method, functions
from mpaudit.source.trait.compat import guarded

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_RULE = "misused-custom-fwd"

Found = tuple[Problem, Fix | None]


def check(module: Module) -> Iterator[Found]:
    """Yield the guards of autograd functions that do not guard."""
    if "custom_fwd" not in module.text and "custom_bwd" not in module.text:
        return
    for function in functions(module):
        guards = [m.guard for m in function.methods.values() if m.guard is not None]
        if any(guarded(each.node, module) for each in guards):
            continue
        lacking = [each for each in guards if _lacks_device(each)]
        for guard in lacking:
            yield _without_device(module, guard, guards)
        if not lacking:
            yield from _pair(module, function)


def _lacks_device(guard: Guard) -> bool:
    return not guard.legacy and not guard.open and guard.argument("device_type") is None


def _without_device(module: Module, guard: Guard, guards: list[Guard]) -> Found:
    short = guard.name.rpartition(".")[2]
    devices = {each.device for each in guards} - {None}
    device = devices.pop() if len(devices) == 1 else only_device(module)
    fix = None
    if device is not None and (guard.call is None or not guard.call.args):
        argument = f"device_type={module.quote}{device}{module.quote}"
        _, end = module.range(guard.node)
        if guard.call is None:
            edit = Edit(end, end, f"({argument})")
        else:
            at = module.text.index("(", module.range(guard.call.func)[1]) + 1
            edit = Edit(at, at, argument + (", " if guard.call.keywords else ""))
        fix = Fix("Name the device", (edit,), Safety.SAFE)
    message = f"`{short}` of torch.amp is not told which device it is for"
    consequence = (
        f"it raises \"{short}() missing 1 required keyword-only argument: 'device_type'\" when the "
        "class is defined; only that of torch.cuda.amp knows its device"
    )
    return _problem(module, guard.node, message, consequence), fix


def _pair(module: Module, function: AutogradFunction) -> Iterator[Found]:
    forward, backward = function.methods.get("forward"), function.methods.get("backward")
    if forward is None or backward is None or forward.unknown or backward.unknown:
        return
    ahead, back = forward.guard, backward.guard
    name = function.node.name
    setup = function.methods.get("setup_context")
    if setup is not None and (ahead or back):
        guard = ahead or back
        assert guard is not None
        yield (
            _problem(
                module,
                guard.node,
                f"`{name}` has a `setup_context`, which `custom_fwd` and `custom_bwd` do not know",
                "it raises \"object has no attribute '_fwd_used_autocast'\" in the backward pass: the "
                "forward pass is not given the context where the two keep their state",
                (Related(module.span(setup.node), "the context is set up here"),),
            ),
            None,
        )
    elif ahead is not None and back is None and ahead.argument("cast_inputs") is None:
        message = f"`custom_fwd` alone does nothing: `{name}.backward` has no `custom_bwd`"
        consequence = (
            "the backward pass runs without autocast and mixes the half-precision gradient with "
            "float32 inputs"
        )
        yield _lonely(module, ahead, backward, message, consequence)
    elif back is not None and ahead is None:
        message = f"`custom_bwd` without `custom_fwd` on `{name}.forward`"
        consequence = (
            "it raises \"object has no attribute '_fwd_used_autocast'\" in the backward pass"
        )
        yield _lonely(module, back, forward, message, consequence)
    elif ahead is not None and back is not None:
        devices = (ahead.device, back.device)
        if None not in devices and devices[0] != devices[1]:
            message = (
                f"`custom_fwd` of `{name}` is for {devices[0]}, its `custom_bwd` for {devices[1]}"
            )
            consequence = "the backward pass does not run in the state that the forward pass had"
            related = (Related(module.span(ahead.node), "the forward pass is guarded here"),)
            yield _problem(module, back.node, message, consequence, related), None


def _lonely(module: Module, guard: Guard, partner: Method, message: str, consequence: str) -> Found:
    related = (Related(module.span(partner.node), f"`{partner.node.name}` is not guarded"),)
    problem = _problem(module, guard.node, message, consequence, related)
    return problem, _partner(module, guard, partner)


def _partner(module: Module, guard: Guard, partner: Method) -> Fix | None:
    """The same decorator on the other method; what it is given beside the device stays behind."""
    old, new = ("custom_fwd", "custom_bwd")
    if guard.name.endswith(new):
        old, new = new, old
    node = guard.call.func if guard.call is not None else guard.node
    if not isinstance(node, (ast.Name, ast.Attribute)) or guard.open:
        return None
    edits: list[Edit] = []
    if isinstance(node, ast.Attribute):
        spelled = module.source(node.value) + "." + new
    else:
        library = guard.name.rpartition(".")[0]
        known = Names.of(module).spelling(f"{library}.{new}", root_of(node))
        if known is None:
            edits = _imported(module, node, new)
            if not edits:
                return None
        spelled = known or new
    device = guard.argument("device_type")
    if device is not None:
        spelled += f"(device_type={module.source(device)})"
    line = partner.node.lineno
    start, _ = module.line_range(line)
    indent = module.line(line)[: len(module.line(line)) - len(module.line(line).lstrip())]
    edits.append(Edit(start, start, f"{indent}@{spelled}{module.newline}"))
    return Fix(f"Guard `{partner.node.name}` as well", tuple(edits), Safety.SAFE)


def _imported(module: Module, node: ast.Name, new: str) -> list[Edit]:
    """The import of the partner beside that of the one there is."""
    for binding in Names.of(module).bindings(node):
        alias = binding.node
        if isinstance(alias, ast.alias) and alias.asname is None:
            if isinstance(module.parents[alias], ast.ImportFrom):
                start, end = module.range(alias)
                if new < alias.name:
                    return [Edit(start, start, f"{new}, ")]
                return [Edit(end, end, f", {new}")]
    return []


def _problem(
    module: Module,
    node: ast.AST,
    message: str,
    consequence: str,
    related: tuple[Related, ...] = (),
) -> Problem:
    return Problem(_RULE, module.span(node), message, consequence, related)
