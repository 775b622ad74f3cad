"""How a call's arguments come to where a function's parameters are looked up; what defaults are."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Mapping

from mpaudit.source.engine.making import Making
from mpaudit.source.engine.path import Fork, Frame, Path
from mpaudit.source.engine.values import Choice, Const, Function, Pack, Thing, Value


class Enter(Exception):  # noqa: N818 - not an error: the statement waits for the call's outcomes
    """A function of the project is called; the statement goes on once for each way it ends."""

    def __init__(
        self, site: ast.expr, function: Function, frame: Frame, result: Value | None
    ) -> None:
        super().__init__(function.name)
        self.site = site
        self.function = function
        self.frame = frame
        self.result = result


class Exhausted(Exception):  # noqa: N818 - a bound, not an error
    """This entry point is larger than the analysis is willing to follow."""


class Binding(Making):
    """Binds parameters."""

    @abstractmethod
    def evaluate(self, node: ast.expr, path: Path) -> Value:
        """The value of an expression."""

    def bind(
        self,
        function: Function,
        frame: Frame,
        arguments: tuple[Value, ...],
        keywords: Mapping[str, Value],
        path: Path,
        *,
        anyhow: bool = False,
    ) -> None:
        """Put a call's arguments where the function's parameters are looked up.

        `anyhow` is for a caller nobody has seen: a default is then one value among others.
        """
        scope = frame.scopes[0]
        spec = function.node.args
        positional = [*spec.posonlyargs, *spec.args]
        defaults = dict(zip(reversed(positional), reversed(spec.defaults), strict=False))
        defaults |= {a: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d}
        extra = keywords.get("**")
        for index, parameter in enumerate([*positional, *spec.kwonlyargs]):
            if index < len(positional) and index < len(arguments):
                value = arguments[index]
            elif parameter.arg in keywords:
                value = keywords[parameter.arg]
            elif parameter in defaults and extra is None and not anyhow:
                value = self._default(defaults[parameter], function, path)
            else:
                number = self.identities.number("parameter", parameter, frame.context)
                value = Thing(number, text=parameter.arg)
                if isinstance(defaults.get(parameter), ast.Call) and extra is None:
                    value = self._or_default(value, defaults[parameter], function, path)
            path.heap[(scope, parameter.arg)] = value
        if spec.vararg:
            path.heap[(scope, spec.vararg.arg)] = Pack(arguments[len(positional) :])
        if spec.kwarg:
            number = self.identities.number("parameter", spec.kwarg, frame.context)
            rest = Thing(number, "dict", text=spec.kwarg.arg)
            known = {a.arg for a in (*positional, *spec.kwonlyargs)}
            others = {name: value for name, value in keywords.items() if name not in known}
            for name, value in others.items():
                path.heap[(rest.uid, f"[{name!r}]")] = value
            if extra is None and not anyhow:  # there are no others
                path.learn(rest, items=Pack(tuple(others.values())))
            path.heap[(scope, spec.kwarg.arg)] = rest

    def _default(self, node: ast.expr, function: Function, path: Path) -> Value:
        if isinstance(node, ast.Constant):
            return Const(node.value)
        frame = Frame(function.module, function.scopes or path.frame.scopes[-1:], 0)
        path.frames.append(frame)
        try:
            return self.evaluate(node, path)
        except (Enter, Fork):  # what the project's own code makes there is not worth it
            return self.made(node, path)
        finally:
            path.frames.pop()

    def _or_default(self, given: Thing, node: ast.expr, function: Function, path: Path) -> Value:
        """What a caller nobody has seen hands over, or the loss that is there where he gives none."""
        default = self._default(node, function, path)
        if not isinstance(default, Thing) or default.kind != "Loss":
            return given
        return Choice(Thing(self.identities.number("given", given)), given, default)
