"""What the user asks for: which rules are on, and for which versions of the frameworks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from mpaudit.errors import MpauditError
from mpaudit.rule import Rule, Severity, catalogue

UNREADABLE = "unparsable-source"
"""Only its own name or code turns this rule off: a file that nobody could read is not clean."""

UNUSED = "unused-suppression"
"""The rule about comments that silence nothing."""

_DIGITS = str.maketrans("oil", "011")
"""Letters that are typed in place of digits."""
_ALL, _EXACT = 1, 99  # the start of a code lies between: its length, 2 (MP) to 4 (MP10)


class Target(Struct, frozen=True):
    """The frameworks that the code is for, where the user says so.

    `keras` is 2 or 3; `torch` the oldest (major, minor) that the code must run with. None leaves it to
    the code's imports and to the requirements of its project.
    """

    keras: int | None = None
    torch: tuple[int, int] | None = None


def version(text: str, option: str) -> tuple[int, int]:
    """(2, 4) of "2.4" or "2.4.1". Raises MpauditError, naming `option`, for what is no version."""
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", text.strip())
    if found is None:
        raise MpauditError(f"{option}: {text!r} is no version; write it as 2.4")
    return int(found[1]), int(found[2])


class Selection(Struct, frozen=True):
    """The rules that are on: those `select` names (without it, the default ones) less `ignore`.

    A selector is a code (MP104), a name (missing-scaler-update), the start of codes (MP1, MP10) or
    ALL, in any case. As in ruff the more specific selector wins, whichever list it stands in, and
    `ignore` wins between equals. `extend` adds to what is on without `select`. What none of these
    decides, the selection `below` does: that of a file, below that of the command line. Preview rules
    answer to their own code or name only, unless `preview` makes them rules like others.
    Raises MpauditError for a selector that matches no rule.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend: tuple[str, ...] = ()
    below: Selection | None = None
    preview: bool = False

    def __post_init__(self) -> None:
        named = {"--select": self.select, "--ignore": self.ignore, "--extend-select": self.extend}
        for option, words in named.items():
            for word in words:
                known(word, option)

    @property
    def widened(self) -> bool:
        """Whether rules may be on that are off by default."""
        own = bool(self.select or self.extend or self.preview)
        return own or (self.below is not None and self.below.widened)

    def switched_off(self, rule: Rule) -> bool:
        """Whether `rule` is off: ignored, or off by default and not selected.

        Rules that are on, but not among those selected, are not.
        """
        return not self.includes(rule) and (self._ignores(rule) or not self._default(rule))

    def includes(self, rule: Rule) -> bool:
        """Whether findings of `rule` are wanted."""
        wanted = max((self._fit(each, rule) for each in (*self.select, *self.extend)), default=0)
        unwanted = max((self._fit(each, rule) for each in self.ignore), default=0)
        if rule.name == UNREADABLE:
            if unwanted == _EXACT:
                return False
            return wanted == _EXACT or self.below is None or self.below.includes(rule)
        if wanted or unwanted:
            return wanted > unwanted
        if self.select:
            return False
        return self._default(rule) if self.below is None else self.below.includes(rule)

    def _ignores(self, rule: Rule) -> bool:
        own = any(self._fit(each, rule) for each in self.ignore)
        return own or (self.below is not None and self.below._ignores(rule))

    def _default(self, rule: Rule) -> bool:
        return rule.default or (self.preview and rule.severity is not Severity.ADVICE)

    def _fit(self, selector: str, rule: Rule) -> int:
        return fit(selector, rule, preview=self.preview)


def of_script() -> Selection:
    """The rules by which a script is judged that is run: its comments may silence what the run shows."""
    return Selection(ignore=(UNUSED,))


def selectors(words: tuple[str, ...]) -> tuple[str, ...]:
    """Split what the command line gave ("MP1,MP204" or one option each) into single selectors."""
    return tuple(each.strip() for word in words for each in word.split(","))


def nearest(word: str, *, beside: tuple[str, ...] = ()) -> list[str]:
    """Codes, names and whatever stands `beside` them that look like `word`, the likeliest first."""
    from difflib import get_close_matches

    names = [*_words(), *beside]
    by_key = {each.lower(): each for each in names}
    typed = word.lower()
    as_code = typed.translate(_DIGITS) if typed.startswith("mp") else typed
    found = get_close_matches(as_code, by_key, n=3, cutoff=0.7)
    return [by_key[key] for key in found or get_close_matches(typed, by_key, n=3, cutoff=0.7)]


def _words() -> Iterator[str]:
    for rule in catalogue().values():
        yield rule.code
        yield rule.name


def fit(selector: str, rule: Rule, *, preview: bool = True) -> int:
    """How specifically `selector` names `rule`; 0 if it does not.

    A preview rule answers to other words than its own code and name only if `preview`.
    """
    word = selector.upper()
    if word in (rule.code, rule.name.upper()):
        return _EXACT
    if rule.preview and not preview:
        return 0
    if word == "ALL":
        return _ALL
    return len(word) if _is_start(word, rule) else 0


def _is_start(word: str, rule: Rule) -> bool:
    """Whether a word is the start of a rule's code, all its letters included."""
    return word.startswith(rule.prefix) and rule.code.startswith(word)


def known(selector: str, option: str) -> None:
    """Raises MpauditError, naming `option` and the nearest word, for a selector without a rule."""
    word = selector.upper()
    if word == "ALL":
        return
    codes = [rule.code for rule in catalogue().values()]
    names = [rule.name.upper() for rule in catalogue().values()]
    if word in codes or word in names:
        return
    if any(_is_start(word, rule) for rule in catalogue().values()):
        return
    found = nearest(selector, beside=("ALL",))
    hint = f"did you mean {found[0]!r}?" if found else "see `mpaudit rules`"
    raise MpauditError(f"{option}: there is no rule {selector!r}; {hint}")
