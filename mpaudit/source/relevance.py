"""Which functions are worth following: those that can touch what a protocol watches.

A function whose body, and whose callees by name, mention nothing of mixed precision, optimizers or
models cannot emit an event; its result is unknown, and nothing handed to it is changed.
"""

from __future__ import annotations

import ast

from mpaudit.source.module import Module
from mpaudit.source.project import Project
from mpaudit.source.values import Function

HELD = "(calls what it holds)"
"""Stands for a call of a parameter, or of an object stored in an attribute: it may be a model."""
WORDS: frozenset[str] = frozenset(
    [
        "GradScaler",
        "autocast",
        "amp",
        "backward",
        "unscale_",
        "zero_grad",
        "step",
        "scale",
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_grad_norm",
        "nn",
        "optim",
        "cuda",
        "half",
        "softmax",
        "log_softmax",
        "Softmax",
        "LogSoftmax",
        "cross_entropy",
        "CrossEntropyLoss",
        "Sequential",
        "Dense",
        "set_global_policy",
        "set_policy",
        "set_dtype_policy",
        "mixed_precision",
        "LossScaleOptimizer",
        "GradientTape",
        "gradient",
        "apply_gradients",
        "scale_loss",
        "from_logits",
        "get_scaled_loss",
        "nullcontext",
        "suppress",
        "grad",
        "get_scale",
        "enter_context",
        "partial",
        "update",
    ]
) | {HELD}
"""What a function must mention to be followed when it is called."""
KERAS_WORDS = frozenset(
    ["keras", "tf_keras", "layers", "fit", "minimize", "apply", "get_unscaled_gradients", "run"]
)
"""What matters in addition in a file that imports Keras, with all names it imports from there."""
KERAS_TELLING = frozenset(
    [
        "apply_gradients",
        "apply",
        "gradient",
        "minimize",
        "fit",
        "compile",
        "train_on_batch",
        "set_global_policy",
        "set_policy",
        "set_dtype_policy",
    ]
)
MAX_REEXPORTS = 4
METHODS = frozenset(["__init__", "__call__", "forward", "call", "train_step", "__enter__"])
"""Methods that are called without being named."""
TELLING = frozenset(
    ["autocast", "backward", "unscale_", "cross_entropy", "CrossEntropyLoss", "GradScaler"]
)
"""What an entry point must mention, itself or in what it calls, to break any protocol."""


class Relevance:
    """What is worth following in a project; names are traced through its imports."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._known: dict[tuple[str, bool], frozenset[str]] = {}

    def entering(self, module: Module, name: str) -> bool:
        """Whether a function that nobody calls is worth executing for itself."""
        return name in self._relevant(module, telling=True)

    def following(self, function: Function) -> bool:
        """Whether calling this function can matter to any protocol."""
        if isinstance(function.node, ast.Lambda):
            return True
        return function.name in self._relevant(function.module, telling=False)

    def _relevant(self, module: Module, *, telling: bool) -> frozenset[str]:
        """The functions and classes of a file that mention a word, or something that does."""
        key = (module.filename, telling)
        if key in self._known:
            return self._known[key]
        self._known[key] = frozenset()  # what an import cycle sees
        keras = _keras_words(module)
        words = (TELLING | (KERAS_TELLING if keras else set())) if telling else WORDS | keras
        words |= self._imported(module, telling=telling)
        held = {
            n.attr
            for n in ast.walk(module.tree)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
        }
        mentions: dict[str, set[str]] = {}
        classes: dict[str, set[str]] = {}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = mentions.setdefault(node.name, set())
                names |= _names(node)
                if _calls_what_it_holds(node, held):
                    names.add(HELD)
            elif isinstance(node, ast.ClassDef):
                classes[node.name] = _methods(node) | set().union(*map(_names, node.bases))
        relevant = {name for name, used in mentions.items() if used & words}
        if not telling:
            relevant |= METHODS & mentions.keys()
        relevant |= {
            target.id
            for node in module.tree.body
            if isinstance(node, ast.Assign) and _names(node.value) & words
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        while True:
            reached = relevant | {name for name, used in classes.items() if used & relevant}
            more = {name for name, used in mentions.items() if used & reached} - relevant
            if not more:
                break
            relevant |= more
        self._known[key] = frozenset(reached)
        return self._known[key]

    def _imported(self, module: Module, *, telling: bool) -> frozenset[str]:
        """The names that a file imports from relevant places of the project."""
        found: set[str] = set()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom):
                source = self.project.find(node.module or "", module, node.level)
                for alias in node.names if source is not None else ():
                    if self._offers(source, alias.name, telling=telling):
                        found.add(alias.asname or alias.name)
        return frozenset(found)

    def _offers(self, module: Module | None, name: str, *, telling: bool, depth: int = 0) -> bool:
        """Whether what a file calls `name`, or passes on under that name, is relevant."""
        if module is None or depth > MAX_REEXPORTS:
            return False
        if name in self._relevant(module, telling=telling):
            return True
        return any(
            self._offers(
                self.project.find(node.module or "", module, node.level),
                name if alias.name == "*" else alias.name,
                telling=telling,
                depth=depth + 1,
            )
            for node in module.tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if name == (alias.asname or alias.name) or alias.name == "*"
        )


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


def _methods(node: ast.ClassDef) -> set[str]:
    return {s.name for s in node.body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef)}


def _calls_what_it_holds(node: ast.FunctionDef | ast.AsyncFunctionDef, held: set[str]) -> bool:
    """Whether a function calls one of its parameters, or an object stored in an attribute."""
    parameters = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            if isinstance(function, ast.Name) and function.id in parameters:
                return True
            if isinstance(function, ast.Attribute) and function.attr in held:
                return True
    return False
