"""Which functions are worth following: those that can touch what a protocol watches.

A function whose body, and whose callees by name, mention nothing of mixed precision, optimizers or
models cannot emit an event; its result is unknown, and nothing handed to it is changed.
"""

from __future__ import annotations

import ast
import sys
from functools import lru_cache

from mpaudit.source.module import Module
from mpaudit.source.values import Function

WORDS: frozenset[str] = frozenset(
    "GradScaler autocast amp backward unscale_ zero_grad step scale clip_grad_norm_ clip_grad_value_"
    " clip_grad_norm nn optim cuda half softmax log_softmax Softmax LogSoftmax cross_entropy"
    " CrossEntropyLoss Sequential Dense set_global_policy set_policy set_dtype_policy mixed_precision"
    " LossScaleOptimizer GradientTape gradient apply_gradients scale_loss from_logits"
    " get_scaled_loss nullcontext suppress grad get_scale enter_context partial update".split()
)
KERAS_WORDS = frozenset("keras tf_keras layers fit minimize apply get_unscaled_gradients run".split())
"""What matters in addition in a file that imports Keras, with all names it imports from there."""
METHODS = frozenset("__init__ __call__ forward call train_step __enter__".split())
"""Methods that are called without being named."""


TELLING = frozenset(
    "autocast backward unscale_ cross_entropy CrossEntropyLoss apply_gradients gradient fit compile"
    " train_on_batch set_global_policy set_policy set_dtype_policy GradScaler update".split()
)
"""What an entry point must mention, itself or in what it calls, to break any protocol."""


HELD = "(calls what it holds)"
WORDS |= {HELD}


def worth_entering(module: Module, name: str) -> bool:
    """Whether a function that nobody calls is worth executing for itself."""
    return name in _relevant(module, TELLING)


def worth_following(function: Function) -> bool:
    """Whether calling this function can matter to any protocol."""
    if isinstance(function.node, ast.Lambda):
        return True
    return function.name in _relevant(function.module, WORDS)


@lru_cache(maxsize=1024)
def _relevant(module: Module, words: frozenset[str]) -> frozenset[str]:
    """The names of the functions in a file that mention a word, or that call one which does.

    Functions of other files count by their import: a name bound by an import of the project is
    treated as relevant, since it is looked at only if it turns out to be called.
    """
    mentions: dict[str, set[str]] = {}
    held = {
        n.attr
        for n in ast.walk(module.tree)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
    }
    imported = {
        alias.asname or alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and not _foreign(node)
        for alias in node.names
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = _names(node)
            if _calls_what_it_holds(node, held):
                names.add(HELD)
            mentions.setdefault(node.name, set()).update(names)
    classes = {n.name: n for n in ast.walk(module.tree) if isinstance(n, ast.ClassDef)}
    if words is WORDS:
        words = words | imported | _keras_words(module)
        relevant = METHODS & mentions.keys()
    else:
        words, relevant = words | imported, set()
    relevant |= {name for name, used in mentions.items() if used & words}
    while True:
        reached = relevant | {n for n, c in classes.items() if _methods(c) & relevant}
        more = {name for name, used in mentions.items() if used & reached} - relevant
        if not more:
            return frozenset(relevant)
        relevant |= more


def _keras_words(module: Module) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and "keras" in (node.module or ""):
            found |= {alias.asname or alias.name for alias in node.names} | KERAS_WORDS
        elif isinstance(node, ast.Import | ast.ImportFrom) and any(
            alias.name.partition(".")[0] in ("tensorflow", "keras", "tf_keras")
            for alias in node.names
        ):
            found |= KERAS_WORDS
    for statement in module.tree.body if found else ():
        if isinstance(statement, ast.Assign) and _names(statement.value) & (found | WORDS):
            found |= set().union(*map(_names, statement.targets))
    return frozenset(found)


def _names(node: ast.AST) -> set[str]:
    attributes = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return attributes | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _calls_what_it_holds(
    node: ast.FunctionDef | ast.AsyncFunctionDef, held: set[str]
) -> bool:
    """Whether a function calls one of its parameters, or an object stored in an attribute: a model."""
    parameters = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            if isinstance(function, ast.Name) and function.id in parameters:
                return True
            if isinstance(function, ast.Attribute) and function.attr in held:
                return True
    return False


def _foreign(node: ast.ImportFrom) -> bool:
    top = (node.module or "").partition(".")[0]
    return not node.level and (
        top in sys.stdlib_module_names or top in ("torch", "numpy", "tensorflow", "keras", "tf_keras")
    )


def _methods(node: ast.ClassDef) -> set[str]:
    return {s.name for s in node.body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef)}
