"""The calls of a file that make a Lightning Trainer, a Fabric or a command line, and their arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module
    from mpaudit.source.text.names import Names

_ROOTS = ("lightning", "lightning.pytorch", "pytorch_lightning")
_TRAINERS = {f"{root}.{name}" for root in _ROOTS for name in ("Trainer", "trainer.Trainer")}
_TRAINERS |= {f"{root}.trainer.trainer.Trainer" for root in _ROOTS}
_FABRICS = {
    "lightning.Fabric",
    "lightning.fabric.Fabric",
    "lightning.fabric.fabric.Fabric",
    "lightning_fabric.Fabric",
}
_CLIS = {f"{root}.cli.LightningCLI" for root in _ROOTS}

FABRIC = frozenset(
    [
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "precision",
        "plugins",
        "callbacks",
        "loggers",
    ]
)
"""The arguments of Fabric."""
TRAINER = frozenset(
    [
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "precision",
        "logger",
        "callbacks",
        "fast_dev_run",
        "max_epochs",
        "min_epochs",
        "max_steps",
        "min_steps",
        "max_time",
        "limit_train_batches",
        "limit_val_batches",
        "limit_test_batches",
        "limit_predict_batches",
        "overfit_batches",
        "val_check_interval",
        "check_val_every_n_epoch",
        "num_sanity_val_steps",
        "log_every_n_steps",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "gradient_clip_algorithm",
        "deterministic",
        "benchmark",
        "inference_mode",
        "use_distributed_sampler",
        "profiler",
        "detect_anomaly",
        "barebones",
        "plugins",
        "sync_batchnorm",
        "reload_dataloaders_every_n_epochs",
        "default_root_dir",
        "enable_autolog_hparams",
        "model_registry",
    ]
)
"""The arguments of Lightning 2's Trainer (2.6); a call with another one is code of Lightning 1."""


class Made(Struct, frozen=True):
    """A call that makes a Trainer or a Fabric, and the arguments it is certain to be given."""

    call: ast.Call
    arguments: dict[str, ast.expr]
    is_fabric: bool


def made(module: Module, names: Names) -> Iterator[Made]:
    """The calls of `module` that make a Trainer or a Fabric, by the origin of what is called."""
    for node in names.reads():
        call = module.parents.get(node)
        if not isinstance(call, ast.Call):
            continue
        name = names.resolve(node) or ""
        if name not in _TRAINERS and name not in _FABRICS and name not in _CLIS:
            continue
        if name in _CLIS:
            given = _arguments(call, names).get("trainer_defaults")
            if given is not None and call.func is node:
                yield Made(call, _entries(given, names), is_fabric=False)
        elif call.func is node or _is_partial(call, node, names):
            yield Made(call, _arguments(call, names), name in _FABRICS)


def _is_partial(call: ast.Call, node: ast.expr, names: Names) -> bool:
    return call.args[:1] == [node] and names.resolve(call.func) == "functools.partial"


def _arguments(call: ast.Call, names: Names) -> dict[str, ast.expr]:
    """The arguments by name, those of `**settings` included where it is a dict of this file."""
    found: dict[str, ast.expr] = {}
    for keyword in call.keywords:
        if keyword.arg is not None:
            found[keyword.arg] = keyword.value
        else:
            found.update(_entries(keyword.value, names))
    return found


def _entries(node: ast.expr, names: Names) -> dict[str, ast.expr]:
    """What a dict holds by text keys; nothing where it is not known."""
    if isinstance(node, ast.Name):
        bindings = names.bindings(node)
        if len(bindings) == 1 and isinstance(bindings[0].origin, (ast.Dict, ast.Call)):
            return _entries(bindings[0].origin, names)
    elif isinstance(node, ast.Dict):
        return {
            str(key.value): value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
    elif isinstance(node, ast.Call) and names.resolve(node.func) == "builtins.dict":
        return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    return {}
