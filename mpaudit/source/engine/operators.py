"""Operators: arithmetic, comparison and logic on values that may not be known."""

from __future__ import annotations

import ast
import operator
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from mpaudit.source.engine import registry
from mpaudit.source.engine.call import Calls
from mpaudit.source.engine.dtypes import dtype_named, same_dtype
from mpaudit.source.engine.path import Path
from mpaudit.source.engine.torch_version import reached
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    Choice,
    Class,
    Const,
    External,
    Function,
    Pack,
    Value,
)
from mpaudit.source.text.walk import walk

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MIRRORED = {ast.Gt: ast.Lt, ast.LtE: ast.GtE}
_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
"""What a comparison is, read from the right."""


class Operators(Calls):
    """Evaluates what stands between operands."""

    @abstractmethod
    def telling(self, value: Value) -> bool:
        """Whether a protocol would miss a value if it became unknown."""

    @abstractmethod
    def assign(self, target: ast.expr, value: Value, path: Path) -> None:
        """Bind an assignment target."""

    def _BoolOp(self, node: ast.BoolOp, path: Path) -> Value:
        short = isinstance(node.op, ast.Or)
        operands: list[Value] = []
        for index, operand in enumerate(node.values):
            value = self.evaluate(operand, path)
            rest = node.values[index + 1 :]
            if rest and any(isinstance(n, ast.Call) for part in rest for n in walk(part)):
                if self.logic.decide(value, path) is short:
                    return value
                continue
            known = self.logic.truth(value, path)
            if known is short or (known is not None and not rest and not operands):
                return value if not operands else (TRUE if short else FALSE)
            if known is None:
                operands.append(value)
        if not operands:
            return FALSE if short else TRUE
        if len(operands) == 1:
            return operands[0]
        return self.term("or" if short else "and", *operands)

    def _UnaryOp(self, node: ast.UnaryOp, path: Path) -> Value:
        value = self.evaluate(node.operand, path)
        if isinstance(node.op, ast.Not):
            known = self.logic.truth(value, path)
            return self.logic.negate(value if known is None else Const(known))
        if isinstance(value, Const) and isinstance(value.value, (int, float)):
            return Const(-value.value if isinstance(node.op, ast.USub) else value.value)
        made = self.derive(self.term(type(node.op).__name__, value), (value,), path)
        return self.operated(type(node.op).__name__, (value,), made, path)

    def _BinOp(self, node: ast.BinOp, path: Path) -> Value:
        left, right = self.evaluate(node.left, path), self.evaluate(node.right, path)
        registry.applied(self, node, left, right, path)
        return self.binary(node.op, left, right, path)

    def binary(self, op: ast.operator, left: Value, right: Value, path: Path) -> Value:
        """The result of an arithmetic operator."""
        if isinstance(op, ast.Mod) and right == Const(1) and not isinstance(left, Const):
            return Const(0)  # as where every pass is one of accumulation
        if isinstance(left, Const) and isinstance(right, Const):
            if isinstance(left.value, (int, float)) and isinstance(right.value, (int, float)):
                compute = _ARITHMETIC.get(type(op))
                try:
                    if compute is not None:
                        return Const(compute(left.value, right.value))
                except (ArithmeticError, ValueError):
                    pass
        made = self.term(type(op).__name__, left, right)
        self.derive(made, (left, right), path, scales=isinstance(op, (ast.Mult, ast.Pow)))
        return self.operated(type(op).__name__, (left, right), made, path)

    def _Compare(self, node: ast.Compare, path: Path) -> Value:
        values = [self.evaluate(part, path) for part in (node.left, *node.comparators)]
        parts = [
            self._compare(op, left, right, path)
            for op, left, right in zip(node.ops, values, values[1:], strict=False)
        ]
        return parts[0] if len(parts) == 1 else self.term("and", *parts)

    def _compare(self, op: ast.cmpop, left: Value, right: Value, path: Path) -> Value:
        """The result of a comparison; what is open is asked of the operands as they stand.

        They are settled by what else is answered, and the next time that is more: it is the same question.
        """
        one = self.logic.settled(left, path) or left
        two = self.logic.settled(right, path) or right
        answer = self._compared(op, one, two, path)
        if (one is left and two is right) or self.logic.truth(answer, path) is not None:
            return answer
        return self._compared(op, left, right, path)

    def _compared(self, op: ast.cmpop, left: Value, right: Value, path: Path) -> Value:
        if isinstance(op, (ast.IsNot, ast.NotEq, ast.NotIn)):
            positive = {ast.IsNot: ast.Is, ast.NotEq: ast.Eq, ast.NotIn: ast.In}[type(op)]
            return self.logic.negate(self._compared(positive(), left, right, path))
        if isinstance(op, (ast.Is, ast.Eq)):
            if right == NONE:
                return self.logic.is_none(left)
            if left == NONE:
                return self.logic.is_none(right)
            if isinstance(left, Const):
                left, right = right, left
            if isinstance(left, Const) and isinstance(right, Const):
                return TRUE if left.value == right.value else FALSE
            if left == right and isinstance(left, (External, Function, Class)):
                return TRUE
            same = same_dtype(left, right)
            if same is not None:
                return TRUE if same else FALSE
            if isinstance(left, Choice) and isinstance(right, (Const, External)):
                yes = self._compared(op, left.yes, right, path)
                return Choice(left.condition, yes, self._compared(op, left.no, right, path))
            return self.term("==", left, right)
        if isinstance(op, ast.In) and isinstance(right, Pack) and dtype_named(left):
            answers = [self._compared(ast.Eq(), left, item, path) for item in right.items]
            if TRUE in answers or all(answer == FALSE for answer in answers):
                return TRUE if TRUE in answers else FALSE
        if type(op) in _ORDER and (asked := self._of_release(op, left, right, path)) is not None:
            return asked
        compute = _ORDER.get(type(op))
        if compute and isinstance(left, Const) and isinstance(right, Const):
            try:
                return TRUE if compute(left.value, right.value) else FALSE
            except TypeError:
                pass
        if type(op) in (ast.Gt, ast.LtE):
            op, left, right = _MIRRORED[type(op)](), right, left
            if isinstance(op, ast.GtE):
                return self.logic.negate(self.term("Lt", left, right))
        if isinstance(op, ast.GtE):
            return self.logic.negate(self.term("Lt", left, right))
        return self.term(type(op).__name__, left, right)

    def _of_release(self, op: ast.cmpop, left: Value, right: Value, path: Path) -> Value | None:
        """What is known of `torch.__version__ >= "1.6"`, on either side of the sign."""
        module, kind = path.frame.module, type(op)
        if isinstance(left, Const):
            left, right, kind = right, left, _TURNED[kind]
        beyond = kind in (ast.Gt, ast.LtE)
        if not reached(left, right, module, beyond=beyond):
            return None
        return TRUE if kind in (ast.Gt, ast.GtE) else FALSE

    def _IfExp(self, node: ast.IfExp, path: Path) -> Value:
        test = self.evaluate(node.test, path)
        known = self.logic.truth(test, path)
        if known is None and any(
            isinstance(part, ast.Call) for side in (node.body, node.orelse) for part in walk(side)
        ):
            known = self.logic.decide(test, path)
        if known is not None:
            return self.evaluate(node.body if known else node.orelse, path)
        yes, no = self.evaluate(node.body, path), self.evaluate(node.orelse, path)
        if yes == no:
            return yes
        question = self.logic.question(test, path)
        if self.telling(yes) or self.telling(no):
            self.identities.decisive.add(question)
        if question == test:
            return Choice(question, yes, no)
        if self.logic.negate(test) == question:
            return Choice(question, no, yes)
        return self.term("if", test, yes, no)

    def _NamedExpr(self, node: ast.NamedExpr, path: Path) -> Value:
        value = self.evaluate(node.value, path)
        self.assign(node.target, value, path)
        return value

    def _Await(self, node: ast.Await, path: Path) -> Value:
        return self.evaluate(node.value, path)
