"""Which functions are worth following: those that can touch what a protocol watches.

A function whose body, and whose callees by name, mention nothing of mixed precision, optimizers or
models cannot emit an event; its result is unknown, and nothing handed to it is changed.
"""

from __future__ import annotations

import ast

from mpaudit.source.module import Module
from mpaudit.source.outline import HELD, Outline, outline
from mpaudit.source.project import Project
from mpaudit.source.values import Function

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
        self._outlines: dict[str, Outline] = {}

    def entering(self, module: Module, name: str) -> bool:
        """Whether a function that nobody calls is worth executing for itself."""
        return name in self._relevant(module, telling=True)

    def following(self, function: Function) -> bool:
        """Whether calling this function can matter to any protocol."""
        if isinstance(function.node, ast.Lambda):
            return True
        return function.name in self._relevant(function.module, telling=False)

    def _relevant(self, module: Module, *, telling: bool) -> frozenset[str]:
        """The functions, classes and variables of a file that mention a word, or what does."""
        key = (module.filename, telling)
        if key in self._known:
            return self._known[key]
        self._known[key] = frozenset()  # what an import cycle sees
        seen = self._outline(module)
        keras = _keras_words(seen)
        words = (TELLING | (KERAS_TELLING if keras else set())) if telling else WORDS | keras
        words |= self._imported(module, telling=telling)
        relevant = {name for name, used in seen.functions.items() if used & words}
        relevant |= {name for name, used in seen.assigned.items() if used & words}
        if not telling:
            relevant |= METHODS & seen.functions.keys()
        while True:
            reached = relevant | {name for name, used in seen.classes.items() if used & relevant}
            more = {name for name, used in seen.functions.items() if used & reached} - relevant
            if not more:
                break
            relevant |= more
        self._known[key] = frozenset(reached)
        return self._known[key]

    def _outline(self, module: Module) -> Outline:
        if module.filename not in self._outlines:
            try:
                self._outlines[module.filename] = outline(module)
            except RecursionError:  # generated code, nested thousands deep
                self._outlines[module.filename] = Outline()
        return self._outlines[module.filename]

    def _imported(self, module: Module, *, telling: bool) -> frozenset[str]:
        """The names that a file imports from relevant places of the project."""
        found: set[str] = set()
        for node in self._outline(module).imports:
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


def _keras_words(seen: Outline) -> frozenset[str]:
    """What matters in a file because it imports Keras; nothing in other files."""
    from_keras = [node for node in seen.imports if "keras" in (node.module or "")]
    found = {alias.asname or alias.name for node in from_keras for alias in node.names}
    libraries = {"tensorflow", "keras", "tf_keras"}
    imported = {alias.name for node in seen.imports for alias in node.names} | seen.modules
    if not from_keras and not imported & libraries:
        return frozenset()
    found |= KERAS_WORDS
    return frozenset(found | {name for name, used in seen.assigned.items() if used & found})
