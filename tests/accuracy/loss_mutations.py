"""Mistakes in losses and their inputs (MP403, MP404, MP304)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .order_mutations import atom
from .roles import Program
from .script import Script, argument

CROSS_ENTROPY = frozenset(
    [
        "torch.nn.CrossEntropyLoss",
        "torch.nn.functional.cross_entropy",
        "torch.nn.modules.loss.CrossEntropyLoss",
    ]
)
BCE_WITH_LOGITS = frozenset(
    ["torch.nn.BCEWithLogitsLoss", "torch.nn.functional.binary_cross_entropy_with_logits"]
)
WITH_WEIGHTS = frozenset(["torch.nn.Linear", "torch.nn.Conv2d", "torch.nn.LSTM"])


def loss_calls(program: Program, names: frozenset[str]) -> Iterator[tuple[Script, ast.Call]]:
    """The calls of these losses: of the functions, and of the objects built from the classes."""
    objects = program.holders(frozenset(n for n in names if "functional" not in n))
    for script in program.scripts:
        for call in script.calls():
            if script.qualified(call.func) in names and "functional" in script.qualified(call.func):
                yield script, call
                continue
            slot = program.slot(script, call.func)
            built = isinstance(call.func, ast.Call) and script.qualified(call.func.func) in names
            if built or (slot and objects.get(slot)):
                yield script, call


def wrapped(program: Program, names: frozenset[str], before: str, after: str) -> Iterator[Change]:
    """The first argument of a loss goes through an activation."""
    for script, call in loss_calls(program, names):
        given = argument(call, 0, "input")
        if given is None or isinstance(given, ast.Starred):
            continue
        text = atom(given, script.source(given))
        yield change(
            script,
            (script.start(given), script.end(given), before + text + after),
            marks=[call],
        )


@operator("softmax-before-cross-entropy")
def softmax_before_cross_entropy(program: Program) -> Iterator[Change]:
    """Probabilities are given to a loss that applies log_softmax itself."""
    yield from wrapped(program, CROSS_ENTROPY, "", ".softmax(dim=1)")


@operator("softmax-before-cross-entropy")
def sigmoid_before_cross_entropy(program: Program) -> Iterator[Change]:
    """Each class has a probability of its own, and the loss takes them for logits."""
    for script, call in loss_calls(program, CROSS_ENTROPY):
        given = argument(call, 0, "input")
        if not isinstance(given, ast.Name) or "torch" not in script.imports:
            continue
        text = f"torch.sigmoid({script.source(given)})"
        yield change(script, (script.start(given), script.end(given), text), marks=[call])


@operator("softmax-before-cross-entropy")
def softmax_as_last_layer(program: Program) -> Iterator[Change]:
    """A Softmax layer ends the only network of a script whose loss is cross entropy."""
    for script in program.scripts:
        losses = [call for where, call in loss_calls(program, CROSS_ENTROPY) if where is script]
        nets = [
            call
            for call in script.calls()
            if script.qualified(call.func) == "torch.nn.Sequential"
            and not isinstance(script.parent(call), ast.Call)
        ]
        # With other networks or losses it is not sure whose output the loss gets.
        if len(nets) != 1 or len(losses) != 1 or not nets[0].args or len(program.scripts) > 1:
            continue
        if any(
            isinstance(n, ast.ClassDef)
            and "Module" in ast.unparse(n)
            and n.bases
            and "Module" in ast.unparse(n.bases[0])
            for n in ast.walk(script.tree)
        ):
            continue
        last = nets[0].args[-1]
        if isinstance(last, ast.Starred) or nets[0].keywords:
            continue
        inside = set(ast.walk(nets[0]))
        if any(
            script.qualified(call.func) in WITH_WEIGHTS and call not in inside
            for call in script.calls()
        ):
            continue
        module = script.source(nets[0].func).removesuffix("Sequential")
        reshaped = any(word in script.source(losses[0]) for word in ("flatten", "view", "reshape"))
        dim = -1 if reshaped else 1  # where the classes are
        yield change(
            script,
            (script.end(last), script.end(last), f", {module}Softmax(dim={dim})"),
            marks=[losses[0], last],
        )


@operator("sigmoid-before-bce-with-logits")
def sigmoid_before_logits_loss(program: Program) -> Iterator[Change]:
    """Probabilities are given to a loss that applies the sigmoid itself."""
    yield from wrapped(program, BCE_WITH_LOGITS, "", ".sigmoid()")


@operator("bce-under-autocast")
def bce_in_region(program: Program) -> Iterator[Change]:
    """BCELoss on probabilities, inside a CUDA region."""
    for script, call in loss_calls(
        program, frozenset(["torch.nn.functional.binary_cross_entropy_with_logits"])
    ):
        regions = [
            made
            for region, _, made in program.regions(script)
            if region in list(script.above(call))
        ]
        # The innermost region decides; it must be CUDA's by its first argument and be on for sure.
        if (
            len(regions) != 1
            or not sure(script, regions[0])
            or len(call.args) != 2
            or call.keywords
        ):
            continue
        given = call.args[0]
        name = script.source(call.func).replace("_with_logits", "")
        if name == script.source(call.func):
            continue
        text = atom(given, script.source(given))
        yield change(
            script,
            (script.start(call.func), script.end(call.func), MARK + name),
            (script.start(given), script.end(given), f"{text}.sigmoid()"),
        )


def sure(script: Script, region: ast.Call) -> bool:
    """Whether a region is certainly for CUDA and on."""
    words = {k.arg for k in region.keywords}
    if "enabled" in words or None in words or len(region.args) > 1:
        return False
    device = region.args[0] if region.args else None
    if "cuda.amp" in script.qualified(region.func):
        return True
    return isinstance(device, ast.Constant) and device.value == "cuda"


def _joined_forms(script: Script) -> Iterator[tuple[ast.Call, str]]:
    """The calls of log_softmax and logsigmoid, and the words that take them apart."""
    for call in script.calls():
        function = call.func
        if not isinstance(function, ast.Attribute):
            continue
        resolved = script.qualified(function)
        if resolved in ("torch.log_softmax", "torch.nn.functional.log_softmax"):
            yield call, "softmax"
        elif resolved == "torch.nn.functional.logsigmoid":
            yield call, "sigmoid"
        elif function.attr == "log_softmax" and not resolved.startswith("torch."):
            if not ast.unparse(function.value).startswith("self"):
                yield call, ""


@operator("log-of-softmax")
def logarithm_apart(program: Program) -> Iterator[Change]:
    """log_softmax and logsigmoid become the logarithm of a softmax and of a sigmoid."""
    for script in program.scripts:
        if script.imports.get("torch") != "torch":
            continue
        for call, name in _joined_forms(script):
            given = script.source(call)
            # Who casts to float32 first has thought of it, and no finding is wanted.
            if "float" in given or "double" in given:
                continue
            assert isinstance(call.func, ast.Attribute)
            start, end = script.start(call), script.end(call)
            if name:
                rest = script.text[script.end(call.func) : end]
                text = f"torch.log(torch.{name}{rest})"
            else:
                text = f"{given.replace('.log_softmax', '.softmax')}.log()"
            yield change(script, (start, end, text), marks=[call])
