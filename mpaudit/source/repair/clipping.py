"""Clips that a repair of the backward pass leaves among scaled gradients."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit
from mpaudit.source.repair.branch import unscaled
from mpaudit.source.repair.registry import block_of
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


def is_clip(statement: ast.stmt) -> bool:
    """Whether a statement calls something that clips."""
    return any(
        isinstance(n, ast.Call) and "clip" in ast.unparse(n.func).rpartition(".")[2]
        for n in walk(statement)
    )


def is_count(test: ast.expr) -> bool:
    """Whether a condition counts micro-batches: `(i + 1) % steps == 0`."""
    return any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in walk(test))


def unscaled_clips(module: Module, backward: ast.stmt, scaler: str) -> list[Edit] | None:
    """`scaler.unscale_(optimizer)` above the clip between a backward pass and its step.

    [] where there is no clip, an `unscale_` already, or a threshold that follows the scale; None where
    it cannot be put in.
    """
    between = _until_step(module, backward, scaler)
    if between is None:
        return []
    parts = [part for each in between for part in walk(each)]
    scales = ("unscale_", "get_scale")
    if any(isinstance(part, ast.Attribute) and part.attr in scales for part in parts):
        return []
    clips = [part for part in parts if isinstance(part, (ast.Expr, ast.Assign)) and is_clip(part)]
    if not clips:
        return []
    steps = [p for p in parts if isinstance(p, ast.Call) and _steps_through(p, scaler)]
    if len(clips) > 1 or len({ast.unparse(step.args[0]) for step in steps}) != 1:
        return None
    return unscaled(module, clips[0], steps[0])


def _until_step(module: Module, backward: ast.stmt, scaler: str) -> list[ast.stmt] | None:
    """What follows the backward pass, as far as its step; None where no step follows in this pass."""
    statement: ast.AST = backward
    found: list[ast.stmt] = []
    while isinstance(statement, ast.stmt):
        block = block_of(module, statement)
        for each in block[block.index(statement) + 1 :]:
            found.append(each)
            if any(_steps_through(part, scaler) for part in walk(each)):
                return found
        statement = module.parents[statement]
        if not isinstance(statement, (ast.If, ast.With)):
            return None
    return None


def _steps_through(node: ast.AST, scaler: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "step"
        and len(node.args) == 1
        and ast.unparse(node.func.value) == scaler
    )
