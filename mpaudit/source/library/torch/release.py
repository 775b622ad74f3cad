"""`version.parse(torch.__version__) >= version.parse("1.6")`: what a text of a version is made into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import function
from mpaudit.source.engine.torch_version import ASKED, release
from mpaudit.source.engine.values import Const, External, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


@function(
    "packaging.version.parse",
    "packaging.version.Version",
    "pkg_resources.parse_version",
    "distutils.version.LooseVersion",
    "distutils.version.StrictVersion",
    "looseversion.LooseVersion",
)
def parsed(call: Call) -> Value | None:
    """A version is as good as its text: comparing tells what it is."""
    given = call.argument(0)
    if isinstance(given, External) and given.name in ASKED:
        return given
    if isinstance(given, Const) and release(given) is not None:
        return given
    return None
