"""The keys of a configuration: what each holds, what it means, and how its value is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from mpaudit.config import known, version
from mpaudit.default import EXCLUDED
from mpaudit.errors import MpauditError
from mpaudit.output_format import CHECK_FORMATS
from mpaudit.rule import Severity


class WrongValueError(ValueError):
    """A value that a key cannot hold; `word` is the part of it that is wrong, where it is a part."""

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


class Kind(Struct, frozen=True):
    """What a key can hold: as a JSON schema, and as the function that reads a value of it."""

    schema: Mapping[str, Any]
    read: Callable[[object], Any]


class Key(Struct, frozen=True):
    """One key. `default` is what holds without it, as TOML; `about` what it means."""

    name: str
    kind: Kind
    default: str
    about: str


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongValueError(f"takes true or false, not {_shown(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongValueError(f"takes a string, not {_shown(value)}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise WrongValueError(f"takes a list of strings, not {_shown(value)}")
    return tuple(value)


def _rules(value: object) -> tuple[str, ...]:
    for word in (found := _texts(value)):
        _rule(word)
    return found


def _rule(word: str) -> None:
    try:
        known(word, "")
    except MpauditError as problem:
        raise WrongValueError(str(problem).removeprefix(": "), word) from None


def _modules(value: object) -> tuple[str, ...]:
    for word in (found := _texts(value)):
        if not all(part.isidentifier() for part in word.split(".")):
            raise WrongValueError(
                f"takes names of modules, such as my_package.my_rule, not {word!r}", word
            )
    return tuple(dict.fromkeys(found))


def _by_pattern(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise WrongValueError(f"takes a table of patterns, not {_shown(value)}")
    return {str(pattern): _rules(words) for pattern, words in value.items()}


def _severities(value: object) -> dict[str, Severity]:
    if not isinstance(value, dict):
        raise WrongValueError(f"takes a table of rules, not {_shown(value)}")
    for word, severity in value.items():
        _rule(word)
        if severity not in _SEVERITIES:
            wanted = ", ".join(_SEVERITIES)
            raise WrongValueError(f"takes {wanted} for a rule, not {_shown(severity)}", word)
    return {word: Severity(severity) for word, severity in value.items()}


def _choice(*words: str) -> Kind:
    def read(value: object) -> str:
        if value not in words:
            raise WrongValueError(f"takes one of {', '.join(words)}, not {_shown(value)}")
        return str(value)

    return Kind({"type": "string", "enum": list(words)}, read)


def _torch(value: object) -> tuple[int, int]:
    try:
        return version(_text(value), "takes")
    except MpauditError:
        raise WrongValueError(f'takes a version such as "2.4", not {_shown(value)}') from None


def _keras(value: object) -> int:
    if value not in (2, 3, "2", "3") or isinstance(value, (bool, float)):
        raise WrongValueError(f"takes 2 or 3, not {_shown(value)}")
    return int(str(value))


def _shown(value: object) -> str:
    return "a table" if isinstance(value, dict) else repr(value)


_SEVERITIES = [each.value for each in Severity]
_SELECTOR = {"$ref": "#/$defs/selector"}
_LIST = {"type": "array", "items": {"type": "string"}}
BOOLEAN = Kind({"type": "boolean"}, _boolean)
TEXT = Kind({"type": "string"}, _text)
PATTERNS = Kind(_LIST, _texts)
RULES = Kind({"type": "array", "items": _SELECTOR}, _rules)
BY_PATTERN = Kind(
    {"type": "object", "additionalProperties": {"type": "array", "items": _SELECTOR}}, _by_pattern
)
SEVERITIES = Kind(
    {
        "type": "object",
        "propertyNames": _SELECTOR,
        "additionalProperties": {"type": "string", "enum": _SEVERITIES},
    },
    _severities,
)
MODULES = Kind(
    {"type": "array", "items": {"type": "string", "pattern": r"^[^\W\d]\w*(\.[^\W\d]\w*)*$"}},
    _modules,
)
TORCH = Kind({"type": "string", "pattern": r"^\s*\d+\.\d+(\.\d+)?\s*$"}, _torch)
KERAS = Kind({"enum": [2, 3, "2", "3"]}, _keras)

_KEYS = (
    Key("extend", TEXT, '""', "Another configuration file that this one adds to."),
    Key("plugins", MODULES, "[]", "Modules that bring further rules; they are imported."),
    Key("select", RULES, "[]", "The rules that are on, instead of the default ones."),
    Key("extend-select", RULES, "[]", "Rules that are on besides."),
    Key("ignore", RULES, "[]", "Rules that are off."),
    Key("extend-ignore", RULES, "[]", "Rules that are off besides."),
    Key("per-file-ignores", BY_PATTERN, "{}", "Rules that are off in files that match a pattern."),
    Key("extend-per-file-ignores", BY_PATTERN, "{}", "The same, besides per-file-ignores."),
    Key("severity", SEVERITIES, "{}", "Another severity for rules: error, warning or advice."),
    Key("fixable", RULES, '["ALL"]', "The rules whose fixes are offered."),
    Key("extend-fixable", RULES, "[]", "Rules whose fixes are offered besides."),
    Key("unfixable", RULES, "[]", "Rules whose fixes are not offered."),
    Key("extend-safe-fixes", RULES, "[]", "Rules whose unsafe fixes count as safe."),
    Key("extend-unsafe-fixes", RULES, "[]", "Rules whose safe fixes count as unsafe."),
    Key("exclude", PATTERNS, repr(list(EXCLUDED)), "Files and folders that are not looked at."),
    Key("extend-exclude", PATTERNS, "[]", "Files and folders that are not looked at either."),
    Key("force-exclude", BOOLEAN, "false", "Exclude files that are named on the command line too."),
    Key("respect-gitignore", BOOLEAN, "true", "Leave out what git ignores."),
    Key("target-torch", TORCH, '""', "The oldest torch that the code must run with."),
    Key("target-keras", KERAS, '""', "What keras and tf.keras are: 2 or 3."),
    Key("output-format", _choice(*CHECK_FORMATS), '"full"', "How findings are shown."),
    Key("fix", BOOLEAN, "false", "Apply the safe fixes."),
    Key("unsafe-fixes", BOOLEAN, "false", "Take the unsafe fixes as well."),
    Key("fix-only", BOOLEAN, "false", "Apply fixes and say nothing of what is left."),
    Key("show-fixes", BOOLEAN, "false", "List the fixes that were applied."),
    Key("preview", BOOLEAN, "false", "Take preview rules for rules like others."),
    Key("baseline", TEXT, '""', "The file of the findings that are accepted as they are."),
    Key("cache-dir", TEXT, '".mpaudit_cache"', "The folder of the cache."),
)
KEYS: Mapping[str, Key] = {key.name: key for key in _KEYS}
