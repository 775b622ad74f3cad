"""Repairs of Keras losses that take the model's logits for probabilities."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.keras_names import ROOTS
from mpaudit.source.library.keras.losses import FROM_LOGITS_AT, PROBABILITIES
from mpaudit.source.repair.keras_layer import append_argument
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

MESSAGE = "Tell the loss that it is given logits"
CLASSES = {
    "categorical_crossentropy": "CategoricalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
}
"""The classes of the losses that have names; only they can be told what they are given."""


@repairs("logits-without-from-logits")
def told(context: Context) -> Fix | None:
    """Give the loss `from_logits=True`, spelling out its class where it was given by name."""
    node, module = context.node(ast.expr), context.module
    edit: Edit | None = None
    if isinstance(node, ast.Call):
        edit = _called(module, node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        keras, name = _keras(module, node), CLASSES.get(node.value)
        if keras is not None and name is not None:
            edit = Edit(*module.range(node), f"{keras}.losses.{name}(from_logits=True)")
    elif isinstance(node, ast.Attribute) and node.attr in CLASSES:
        text = f"{module.source(node.value)}.{CLASSES[node.attr]}(from_logits=True)"
        edit = Edit(*module.range(node), text) if _of_keras(module, node) else None
    return None if edit is None else Fix(MESSAGE, (edit,), Safety.UNSAFE)


def _of_keras(module: Module, node: ast.expr) -> bool:
    meaning = Names.of(module).resolve(node) or ""
    return meaning.startswith((*(f"{root}.losses." for root in ROOTS), "tensorflow.losses."))


def _called(module: Module, node: ast.Call) -> Edit | None:
    meaning = Names.of(module).resolve(node.func) or ""
    name = meaning.rpartition(".")[2]
    if not meaning.startswith((*ROOTS, "tensorflow.losses.")) or name not in PROBABILITIES:
        return None
    given = next((k.value for k in node.keywords if k.arg == "from_logits"), None)
    if given is None and len(node.args) > FROM_LOGITS_AT.get(name, 99):
        given = node.args[FROM_LOGITS_AT[name]]
    if given is None:
        return append_argument(module, node, "from_logits=True")
    plain = isinstance(given, ast.Constant) and given.value is False
    return Edit(*module.range(given), "True") if plain else None


def _keras(module: Module, node: ast.expr) -> str | None:
    """How the file spells Keras where a loss is given by name; None where it has two, or none."""
    parent: ast.AST = node
    while not isinstance(parent, ast.stmt):
        parent = module.parents[parent]
    at = next((each for each in ast.walk(parent) if isinstance(each, ast.Name)), None)
    if at is None:
        return None
    names = Names.of(module)
    found = {names.spelling(root, at) for root in ROOTS} - {None}
    tensorflow = names.spelling("tensorflow", at)
    if tensorflow is not None and (not found or f"{tensorflow}.keras" in module.text):
        found.add(f"{tensorflow}.keras")
    return found.pop() if len(found) == 1 else None
