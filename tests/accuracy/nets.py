"""Networks and optimizers of a script, as far as their construction is plain: for operators on values."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .roles import Program
from .script import Script, assignments

MOVES = ("to", "cuda", "train", "float", "requires_grad_")
WRAPS = frozenset(
    [
        "torch.compile",
        "torch.nn.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
    ]
)
HALF_LAYERS = tuple(f"torch.nn.{name}" for name in ("Linear", "Conv1d", "Conv2d", "Conv3d"))


def optimizer_call(program: Program, script: Script, optimizer: ast.expr | None) -> ast.Call | None:
    """The only construction of an optimizer of torch.optim that a name or attribute can hold."""
    slot = program.slot(script, optimizer) if optimizer is not None else None
    if slot is None:
        return None
    names = frozenset(
        script.qualified(call.func)
        for script in program.scripts
        for call in script.calls()
        if script.qualified(call.func).startswith("torch.optim.")
        and "lr_scheduler" not in script.qualified(call.func)
    )
    made = program.holders(names).get(slot, frozenset())
    return next(iter(made)) if len(made) == 1 else None


def parameters_of(program: Program, script: Script, optimizer: ast.expr | None) -> str | None:
    """The text of the model whose parameters an optimizer has, where it can be named at the step."""
    call = optimizer_call(program, script, optimizer)
    if call is None or not call.args:
        return None
    first = call.args[0]
    if not (isinstance(first, ast.Call) and getattr(first.func, "attr", "") == "parameters"):
        return None
    model = first.func.value
    if not isinstance(model, ast.Name | ast.Attribute):
        return None
    text = ast.unparse(model)
    owner = next((s for s in program.scripts if call in set(ast.walk(s.tree))), None)
    if owner is not script:
        return None
    if text.startswith("self."):
        same = script.class_of(call) is script.class_of(optimizer)
        return text if same else None
    here, there = script.function(optimizer), script.function(call)
    if here is there:
        return text
    # A module's name is known everywhere; a parameter of the same name would be another one.
    if there is None and isinstance(model, ast.Name) and here is not None:
        return text if _global(script, here, text) else None
    if here is not None:
        # A training function gets the model under some name: the parameter of the same name.
        names = [a.arg for a in here.args.args]
        return text if text in names else None
    return None


def _global(script: Script, function: ast.AST, name: str) -> bool:
    return not any(
        (isinstance(n, ast.arg) and n.arg == name)
        or (isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store))
        for n in ast.walk(function)
    )


def nets(program: Program) -> Iterator[tuple[Script, ast.expr, ast.Call]]:
    """(script, target, Sequential(...)) of the networks that are assigned to a name or attribute."""
    for script in program.scripts:
        for target, value in assignments(script.tree):
            call = stripped(script, value)
            if call is not None and isinstance(target, ast.Name | ast.Attribute):
                yield script, target, call


def stripped(script: Script, value: ast.expr) -> ast.Call | None:
    """The Sequential inside `.to(...)`, `.cuda()` and wrappers."""
    while isinstance(value, ast.Call):
        name = script.qualified(value.func)
        if name == "torch.nn.Sequential":
            return value
        if name in WRAPS and value.args:
            value = value.args[0]
        elif isinstance(value.func, ast.Attribute) and value.func.attr in MOVES:
            value = value.func.value
        else:
            return None
    return None


def ends_in_half(script: Script, net: ast.Call) -> bool:
    """Whether the last layer is one that autocast runs in its dtype."""
    if not net.args or isinstance(net.args[-1], ast.Starred) or net.keywords:
        return False
    last = net.args[-1]
    return isinstance(last, ast.Call) and script.qualified(last.func) in HALF_LAYERS
