"""Mistakes with Keras policies: not set, misnamed, without "mixed_", set half-way (MP509-MP511)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .keras_mutations import POLICY, builds, names_policies, policies
from .mutation import MARK, Change, change, operator
from .roles import Program
from .script import Script


def _literals(program: Program) -> Iterator[tuple[Script, ast.Constant]]:
    """The literal "mixed_float16" of a call that sets or makes a policy, where there is one such call."""
    found = [
        (script, call.args[0])
        for script in program.scripts
        for call in script.calls()
        if (getattr(call.func, "attr", None) or getattr(call.func, "id", None))
        in (*POLICY, "Policy", "DTypePolicy")
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value == "mixed_float16"
    ]
    if len(found) == 1:
        yield from found


@operator("ineffective-policy")
def policy_made_not_set(program: Program) -> Iterator[Change]:
    """`set_global_policy("mixed_float16")` becomes `Policy("mixed_float16")`."""
    for script, call in policies(program):
        function = call.func
        if not isinstance(function, ast.Attribute) or not _trains(program):
            continue
        if len(_settings(program)) > 1 or not isinstance(script.parent(call), ast.Expr):
            continue
        before = script.source(function.value)
        made = f"{before}.Policy" if before.endswith(("mixed_precision", "mp")) else None
        if function.attr == "set_dtype_policy" and before == "keras.config":
            made = "keras.DTypePolicy"
        if made is not None:
            yield change(script, (script.start(function), script.end(function), made), marks=[call])


@operator("ineffective-policy")
def policy_misnamed(program: Program) -> Iterator[Change]:
    """`"mixed_float16"` becomes `"mixed_fp16"`."""
    for script, literal in _literals(program) if _trains(program) else ():
        edit = (script.start(literal), script.end(literal), '"mixed_fp16"')
        yield change(script, edit, marks=[literal])


@operator("pure-half-policy")
def policy_without_mixed(program: Program) -> Iterator[Change]:
    """`"mixed_float16"` becomes `"float16"`."""
    if not _trains(program):
        return
    sets = _settings(program)
    for script, literal in _literals(program):
        if len(sets) == 1 and sets[0] in script.calls():
            edit = (script.start(literal), script.end(literal), '"float16"')
            yield change(script, edit, marks=[literal, sets[0]])


@operator("policy-between-layers")
def policy_behind_the_first_layer(program: Program) -> Iterator[Change]:
    """The policy is set behind the first of several statements that each build a layer."""
    if not _trains(program):
        return
    found = list(policies(program))
    for script, call in found:
        stmt = script.statement(call)
        if len(found) > 1 or not isinstance(stmt, ast.Expr) or not script.owns_lines(stmt):
            continue
        for block in _blocks(script):
            first = next((i for i, s in enumerate(block) if _layer_on_top(script, s)), None)
            if first is None or not any(_layer_on_top(script, s) for s in block[first + 1 : -1]):
                continue
            if not script.owns_lines(block[first]) or not _sees(script, stmt, block):
                continue
            at = script.line_end(script.end(block[first]))
            text = f"{script.indent(block[first])}{MARK}{script.source(stmt)}\n"
            yield change(script, (script.start(stmt), script.end(stmt), "pass"), (at, at, text))
            break


def _blocks(script: Script) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Module | ast.FunctionDef):
            yield node.body


def _layer_on_top(script: Script, stmt: ast.stmt) -> bool:
    """`x = layers.Dense(8)(x)` or `model.add(layers.Dense(8))`, in the global policy's dtype."""
    if not isinstance(stmt, ast.Assign | ast.Expr) or not builds(script, stmt):
        return False
    return "dtype=" not in script.source(stmt)


def _sees(script: Script, stmt: ast.stmt, block: list[ast.stmt]) -> bool:
    """Whether a statement of the module body can be moved into this block."""
    return (
        stmt in script.tree.body and stmt.end_lineno is not None and stmt.lineno < block[0].lineno
    )


def _settings(program: Program) -> list[ast.Call]:
    """Everything that sets a policy."""
    return [c for s in program.scripts for c in s.calls() if _name(c) in POLICY]


def _name(call: ast.Call) -> str | None:
    return getattr(call.func, "attr", None) or getattr(call.func, "id", None)


def _trains(program: Program) -> bool:
    """Whether a model is trained, and the policy decides what in."""
    words = (".fit(", "apply_gradients(", ".apply(", "train_on_batch(")
    texts = [script.text for script in program.scripts]
    off = any("PRECISION = False" in text or "set_floatx(" in text for text in texts)
    off = off or any(names_policies(script) for script in program.scripts)
    return not off and any(word in text for text in texts for word in words)


@operator("misplaced-policy")
def policy_back_before_loading(program: Program) -> Iterator[Change]:
    """In front of a model that is loaded from where a mixed one was saved, the policy becomes float32."""
    if len(list(policies(program))) != 1:
        return
    for script in program.scripts:
        saved = {
            ast.unparse(call.args[0])
            for call in script.calls()
            if ast.unparse(call.func).endswith(".save") and call.args
        }
        for call in script.calls():
            stmt = script.statement(call)
            loads = ast.unparse(call.func).endswith("load_model") and call.args
            if not loads or ast.unparse(call.args[0]) not in saved or stmt not in script.tree.body:
                continue
            before = [c for _, c in policies(program) if script.start(c) < script.start(call)]
            others = script.text.count("set_global_policy", 0, script.start(call))
            if len(before) == 1 and others == 1 and script.owns_lines(stmt):
                at = script.line_start(script.start(stmt))
                text = 'keras.mixed_precision.set_global_policy("float32")\n'
                yield change(script, (at, at, text), marks=[call])


@operator("misplaced-policy")
def float16_on_a_tpu(program: Program) -> Iterator[Change]:
    """The strategy is one for TPUs, and the policy stays as it is."""
    for script, call in policies(program):
        stmt = script.statement(call)
        if stmt not in script.tree.body or not script.owns_lines(stmt) or "TPU" in script.text:
            continue
        imports = "import tensorflow as tf" in script.text
        if imports and isinstance(stmt, ast.Expr) and len(list(policies(program))) == 1:
            at = script.line_end(script.end(stmt))
            yield change(script, (at, at, "tpu = tf.distribute.TPUStrategy()\n"), marks=[call])
