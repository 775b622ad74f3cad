"""Mistakes with Keras policies, heads and loss scaling (MP401, MP5xx)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .roles import Program
from .script import Script, keyword

POLICY = ("set_global_policy", "set_dtype_policy")
LAYERS = ("Dense", "Conv2D", "Conv1D", "Activation", "Softmax", "Embedding", "LSTM", "GRU")


def policies(program: Program) -> Iterator[tuple[Script, ast.Call]]:
    """Statements that set a mixed float16 policy by a literal."""
    for script in program.scripts:
        for call in script.calls():
            name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
            if name in POLICY and call.args and isinstance(call.args[0], ast.Constant):
                if call.args[0].value == "mixed_float16":
                    yield script, call


@operator("policy-after-model")
def policy_after_layers(program: Program) -> Iterator[Change]:
    """The policy is set behind the statement that builds the first layers."""
    if not trains(program) or any(names_policies(script) for script in program.scripts):
        return
    for script, call in policies(program):
        stmt = script.statement(call)
        if stmt not in script.tree.body and script.function(stmt) is None:
            continue
        if not isinstance(stmt, ast.Expr) or not script.owns_lines(stmt):
            continue
        if len(list(policies(program))) != 1:
            continue
        rest = script.following(stmt)
        build = next((s for s in rest if builds(script, s)), None)
        if build is None:
            continue
        # A rest that builds more layers later would be mixed after all.
        later = rest[rest.index(build) + 1 :]
        if any(builds(script, s) or "layers.Lambda(" in script.source(s) for s in later):
            continue
        while isinstance(build, ast.If | ast.With | ast.Try):
            inner = [s for s in build.body if builds(script, s)]
            if len(inner) != 1:
                break
            build = inner[0]
        if not script.owns_lines(build):
            continue
        text = script.source(stmt)
        at = script.line_end(script.end(build))
        if at <= script.end(build) or script.text[at - 1] != "\n":
            continue
        yield change(
            script,
            (script.start(stmt), script.end(stmt), "pass"),
            (at, at, f"{script.indent(build)}{MARK}{text}\n"),
        )


def trains(program: Program) -> bool:
    """Whether a model is trained or used."""
    words = (".fit(", "apply_gradients(", ".apply(", "train_on_batch(", ".predict(", ".minimize(")
    return any(word in script.text for script in program.scripts for word in words)


def names_policies(script: Script) -> bool:
    """Whether layers have a policy of their own, so that the global one decides less."""
    own = ("dtype=POLICY", 'dtype="mixed_float16"')
    return any(word in script.text for word in own)


def builds(script: Script, stmt: ast.stmt) -> bool:
    """Whether a statement builds layers itself, or calls a function of the file that does."""
    if isinstance(stmt, ast.FunctionDef | ast.ClassDef):
        return False
    makers = {
        node.name
        for node in ast.walk(script.tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and any(_layer(call) for call in ast.walk(node) if isinstance(call, ast.Call))
    }
    return any(
        _layer(call) or getattr(call.func, "id", None) in makers for call in script.calls(stmt)
    )


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", None) or getattr(call.func, "id", None) or ""


def _layer(call: ast.Call) -> bool:
    return _name(call) in LAYERS


@operator("output-not-float32")
def head_without_dtype(program: Program) -> Iterator[Change]:
    """`dtype="float32"` is taken from the softmax or sigmoid that ends the network."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        # With several models, one may be there for predictions only, which is another matter.
        if sum(_name(call) in ("Sequential", "Model") for call in script.calls()) > 1:
            continue
        for call in script.calls():
            name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
            if name not in ("Dense", "Activation", "Softmax"):
                continue
            dtype = keyword(call, "dtype")
            if not (isinstance(dtype, ast.Constant) and dtype.value == "float32"):
                continue
            activation = (
                call.args[0] if name == "Activation" and call.args else keyword(call, "activation")
            )
            activated = isinstance(activation, ast.Constant) and activation.value in (
                "softmax",
                "sigmoid",
            )
            if not activated and name != "Softmax":
                continue  # logits in half are another matter: a Keras loss casts them
            word = next(k for k in call.keywords if k.arg == "dtype")
            start, end = script.start(word), script.end(word)
            before = script.text.rfind(",", 0, start)
            if before > script.start(call) and not script.text[before + 1 : start].strip():
                start = before
            yield change(script, (start, end, ""), marks=[call])


@operator("softmax-with-from-logits")
def from_logits_told(program: Program) -> Iterator[Change]:
    """A loss object of a network that ends in softmax is told from_logits=True."""
    losses = ("SparseCategoricalCrossentropy", "CategoricalCrossentropy")
    for script in program.scripts:
        calls = list(script.calls())
        heads = [
            call
            for call in calls
            if isinstance(word := keyword(call, "activation"), ast.Constant)
            and word.value == "softmax"
        ]
        objects = [
            call
            for call in calls
            if (getattr(call.func, "attr", None) or getattr(call.func, "id", None)) in losses
        ]
        # One head and one loss: otherwise it is not sure that they belong together.
        if len(heads) != 1 or len(objects) != 1 or len(program.scripts) > 1:
            continue
        call, told = objects[0], keyword(objects[0], "from_logits")
        if told is not None and not (isinstance(told, ast.Constant) and told.value is False):
            continue
        if told is not None:
            edit = (script.start(told), script.end(told), "True")
        else:
            at = script.end(call) - 1
            edit = (
                at,
                at,
                ", from_logits=True" if call.args or call.keywords else "from_logits=True",
            )
        yield change(script, edit, marks=[heads[0], call])


@operator("softmax-with-from-logits")
def softmax_head(program: Program) -> Iterator[Change]:
    """The linear head of a network whose loss takes logits gets a softmax."""
    for script in program.scripts:
        calls = list(script.calls())
        told = [
            call
            for call in calls
            if isinstance(word := keyword(call, "from_logits"), ast.Constant)
            and word.value is True
            and "Categorical" in ast.unparse(call.func)
        ]
        heads = [
            call
            for call in calls
            if (getattr(call.func, "attr", None) or getattr(call.func, "id", None)) == "Dense"
            and keyword(call, "activation") is None
            and isinstance(word := keyword(call, "dtype"), ast.Constant)
            and word.value == "float32"
        ]
        if len(told) != 1 or len(heads) != 1 or len(program.scripts) > 1:
            continue
        at = script.end(heads[0]) - 1
        if script.text[:at].rstrip().endswith(","):
            continue
        yield change(script, (at, at, ', activation="softmax"'), marks=[heads[0]])


@operator("missing-scale-loss")
def loss_not_scaled(program: Program) -> Iterator[Change]:
    """`optimizer.scale_loss(loss)` becomes `loss`: Keras 3 divides the gradients all the same."""
    for script in program.scripts:
        calls = [
            call
            for call in script.calls()
            if isinstance(call.func, ast.Attribute)
            and call.func.attr == "scale_loss"
            and len(call.args) == 1
        ]
        # Two scaled losses: the gradients of the other one stay right, and the place is not sure.
        if len(calls) != 1:
            continue
        call = calls[0]
        if isinstance(script.statement(call), ast.With):
            continue  # apex
        # A file for both versions of Keras, or one whose optimizers scale nothing.
        if any(
            word in script.text for word in ("hasattr(", "except AttributeError", "__version__")
        ):
            continue
        if "LossScaleOptimizer" not in script.text and ".compile(" not in script.text:
            continue
        applies = [
            each
            for each in script.calls()
            if isinstance(each.func, ast.Attribute)
            and each.func.attr in ("apply_gradients", "apply")
        ]
        yield change(
            script,
            (script.start(call), script.end(call), atom_text(script, call.args[0])),
            marks=[call, *applies],
        )


def atom_text(script: Script, node: ast.expr) -> str:
    return script.source(node)


@operator("keras-loop-without-loss-scaling")
def plain_optimizer(program: Program) -> Iterator[Change]:
    """The LossScaleOptimizer around the optimizer and its scale_loss are gone."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        wraps = [
            call
            for call in script.calls()
            if (getattr(call.func, "attr", None) or getattr(call.func, "id", None))
            == "LossScaleOptimizer"
            and len(call.args) == 1
            and not call.keywords
        ]
        scales = [
            call
            for call in script.calls()
            if isinstance(call.func, ast.Attribute)
            and call.func.attr == "scale_loss"
            and len(call.args) == 1
        ]
        tapes = "GradientTape" in script.text
        if len(wraps) != 1 or len(scales) != 1 or not tapes or ".compile(" in script.text:
            continue
        if "AttributeError" in script.text or "dynamic_scale" in script.text:
            continue  # for both versions of Keras, or with a look at the scale
        applies = [
            each
            for each in script.calls()
            if isinstance(each.func, ast.Attribute)
            and each.func.attr in ("apply_gradients", "apply")
        ]
        yield change(
            script,
            (script.start(wraps[0]), script.end(wraps[0]), script.source(wraps[0].args[0])),
            (script.start(scales[0]), script.end(scales[0]), script.source(scales[0].args[0])),
            marks=applies,
        )


LOSSES = ("SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy")


@operator("logits-without-from-logits")
def logits_untold(program: Program) -> Iterator[Change]:
    """`from_logits=True` is taken from the only loss of a script whose head is linear."""
    for script in program.scripts:
        told = [
            (call, word)
            for call in script.calls()
            if _name(call) in LOSSES
            for word in call.keywords
            if word.arg == "from_logits"
            and isinstance(word.value, ast.Constant)
            and word.value.value is True
        ]
        if len(told) != 1 or len(program.scripts) > 1:
            continue
        call, word = told[0]
        # Where any activation is applied at all, it is not sure that the loss gets logits.
        if any(activation in script.text for activation in ("softmax", "sigmoid", "Softmax")):
            continue
        yield change(
            script, (script.start(word.value), script.end(word.value), "False"), marks=[call]
        )


@operator("logits-without-from-logits")
def activation_dropped(program: Program) -> Iterator[Change]:
    """The activation is taken from the only head, and the loss still takes probabilities."""
    for script in program.scripts:
        calls = list(script.calls())
        heads = [
            (call, word)
            for call in calls
            for word in call.keywords
            if word.arg == "activation"
            and isinstance(word.value, ast.Constant)
            and word.value.value in ("softmax", "sigmoid")
        ]
        names = [
            node
            for node in ast.walk(script.tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.endswith("_crossentropy")
        ]
        objects = [c for c in calls if _name(c) in LOSSES and keyword(c, "from_logits") is None]
        if len(heads) != 1 or len(names) + len(objects) != 1 or len(program.scripts) > 1:
            continue
        head, word = heads[0]
        if _name(head) not in ("Dense", "Conv2D", "Activation"):
            continue
        yield change(
            script,
            (script.start(word.value), script.end(word.value), '"linear"'),
            marks=[*names, *objects],
        )
