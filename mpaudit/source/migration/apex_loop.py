"""One training step around `amp.scale_loss`, rewritten: region, scaled backward, clip, step."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.fix import Edit
from mpaudit.source.repair.registry import (
    alone,
    block_of,
    indentation,
    lines_of,
    reindent,
    spans_lines,
)
from mpaudit.source.text.argument import UnrepairableError
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpaudit.source.migration.apex import Use
    from mpaudit.source.text.module import Module

INDENT = "    "
_CLIPS = ("torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_")


class Loop(Struct, frozen=True):
    """A step of training: the statement that runs backward, and what it is about, as it is written.

    `statement` is the `with amp.scale_loss(...)`, or the `if` that chooses between it and a plain
    backward; `rest` are the statements that stand in there behind the backward pass.
    """

    module: Module
    statement: ast.stmt
    loss: str
    optimizer: str
    rest: tuple[ast.stmt, ...]

    def edits(self, scaler: str, model: str, masters: list[Use], *, asks: bool) -> list[Edit]:
        """All edits of this step; `asks` says that the scaler may be switched off.

        Raises UnrepairableError where its shape is another.
        """
        block = block_of(self.module, self.statement)
        at = block.index(self.statement)
        if not alone(self.module, self.statement) or spans_lines([self.statement]):
            raise UnrepairableError("it shares its line", self.statement)
        enabled = f", enabled={scaler}.is_enabled()" if asks else ""
        edits = [self._forward(block[:at], enabled, model)]
        clips = [*self.rest, *(each for each in block[at + 1 :] if self._clip(each))]
        steps = self._steps(block[at + 1 :])
        indent, newline = indentation(self.module, self.statement), self.module.newline
        lines = [f"{indent}{scaler}.scale({self.loss}).backward(){newline}"]
        unscale = f"{indent}{scaler}.unscale_({self.optimizer}){newline}"
        for place, each in enumerate(clips):
            if not self._clip(each) or not any(step in block for step in steps):
                raise UnrepairableError("gradients are not clipped just before the step", each)
            text = "".join(f"{indent}{line}{newline}" for line in self._clipped(each, masters))
            if each in self.rest:
                lines += [*([unscale] if not place else []), text]
            else:
                edits.append(Edit(*lines_of(self.module, each), ("" if place else unscale) + text))
        edits.append(Edit(*lines_of(self.module, self.statement), "".join(lines)))
        for step in steps:
            inner = indentation(self.module, step)
            text = (
                f"{inner}{scaler}.step({self.optimizer}){newline}{inner}{scaler}.update(){newline}"
            )
            edits.append(Edit(*lines_of(self.module, step), text))
        return edits

    def _forward(self, before: list[ast.stmt], enabled: str, model: str) -> Edit:
        """The statements from the model's call to the loss, in a region."""
        calls = [each for each in before if self._runs(each, model)]
        losses = [each for each in before if self._makes_loss(each)]
        if not calls or not losses:
            raise UnrepairableError("the forward pass is elsewhere", self.statement)
        start, end = before.index(calls[0]), before.index(losses[-1])
        inside = before[start : end + 1]
        if not inside or spans_lines(inside) or not all(alone(self.module, e) for e in inside):
            raise UnrepairableError("the forward pass is elsewhere", self.statement)
        simple = ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.If
        words = {n.attr for each in inside for n in ast.walk(each) if isinstance(n, ast.Attribute)}
        if not all(isinstance(e, simple) for e in inside) or words & {"step", "zero_grad", "item"}:
            raise UnrepairableError("the forward pass is mixed with other things", self.statement)
        first, last = lines_of(self.module, inside[0], inside[-1])
        indent, quote = indentation(self.module, inside[0]), self.module.quote
        head = f"{indent}with torch.autocast({quote}cuda{quote}{enabled}):"
        body = reindent(self.module.text[first:last], indent, indent + INDENT)
        return Edit(first, last, head + self.module.newline + body)

    def _runs(self, statement: ast.stmt, model: str) -> bool:
        last = model.rpartition(".")[2]
        return any(
            isinstance(each, ast.Call)
            and isinstance(each.func, (ast.Name, ast.Attribute))
            and self.module.source(each.func).rpartition(".")[2] == last
            for each in ast.walk(statement)
        )

    def _makes_loss(self, statement: ast.stmt) -> bool:
        targets = [
            self.module.source(each)
            for each in ast.walk(statement)
            if isinstance(each, (ast.Name, ast.Attribute)) and isinstance(each.ctx, ast.Store)
        ]
        return self.loss in targets

    def _steps(self, after: Iterable[ast.stmt]) -> list[ast.stmt]:
        """The statements `optimizer.step()` behind the backward pass."""
        found = [
            node
            for each in after
            for node in ast.walk(each)
            if isinstance(node, ast.Expr)
            and self.module.source(node).replace(" ", "") == f"{self.optimizer}.step()"
        ]
        if not found or not all(alone(self.module, each) for each in found):
            raise UnrepairableError("the step is elsewhere", self.statement)
        return [*found]

    def _clip(self, statement: ast.stmt) -> bool:
        names = Names.of(self.module)
        return (
            isinstance(statement, (ast.Expr, ast.Assign))
            and isinstance(statement.value, ast.Call)
            and names.resolve(statement.value.func) in _CLIPS
        )

    def _clipped(self, statement: ast.stmt, masters: list[Use]) -> list[str]:
        """The clipping with the optimizer's own parameters in place of `amp.master_params`."""
        text, (start, _) = self.module.source(statement), self.module.range(statement)
        inside = {*ast.walk(statement)}
        for use in masters:
            call = self.module.parents[use.node]
            if call in inside:
                first, last = (each - start for each in self.module.range(call))
                text = f"{text[:first]}parameters{text[last:]}"
                quote = self.module.quote
                every = f"group[{quote}params{quote}]"
                made = f"[p for group in {self.optimizer}.param_groups for p in {every}]"
                return [f"parameters = {made}", text]
        return [text]


def loop_of(module: Module, node: ast.AST) -> Loop:
    """The step around a use of `amp.scale_loss`. Raises UnrepairableError for another shape."""
    statement, call = module.statement(node), module.parents[node]
    if (
        not isinstance(statement, ast.With)
        or len(statement.items) != 1
        or not isinstance(call, ast.Call)
        or len(call.args) != 2
        or call.keywords
    ):
        raise UnrepairableError("apex.amp is used in another way", node)
    loss, optimizer = (module.source(each) for each in call.args)
    if not isinstance(statement.items[0].optional_vars, ast.Name) or not _is_backward(
        statement.body[0], statement.items[0].optional_vars.id
    ):
        raise UnrepairableError("apex.amp is used in another way", node)
    around = module.parents[statement]
    if len(statement.body) > 1:
        raise UnrepairableError("the scaled loss is used for more", node)
    if not isinstance(around, ast.If) or statement not in around.body:
        return Loop(module, statement, loss, optimizer, ())
    plain = around.orelse
    same = around.body[0] is statement and plain and _is_backward(plain[0], loss)
    if not same or len(plain) != len(around.body):
        raise UnrepairableError("the road without apex is another", node)
    return Loop(module, around, loss, optimizer, tuple(plain[1:]))


def _is_backward(statement: ast.stmt, loss: str) -> bool:
    return isinstance(statement, ast.Expr) and ast.unparse(statement.value) == f"{loss}.backward()"
