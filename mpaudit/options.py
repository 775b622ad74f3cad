"""The options of `mpaudit check`, and the layer of settings that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mpaudit.output_format import CHECK_FORMATS

if TYPE_CHECKING:
    from mpaudit.check_command import Wanted
    from mpaudit.settings import Configuration
    from mpaudit.settings.reading import Layer

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
_RULES: dict[str, Any] = {"multiple": True, "metavar": "RULES"}
_PATTERNS: dict[str, Any] = {"multiple": True, "metavar": "PATTERNS"}

_OPTIONS = [
    click.option(
        "--fix/--no-fix", default=None, help="Apply the safe fixes, and say what is left."
    ),
    click.option(
        "--unsafe-fixes/--no-unsafe-fixes", default=None, help="Take the unsafe fixes as well."
    ),
    click.option(
        "--fix-only/--no-fix-only",
        default=None,
        help="Apply fixes and say nothing of what is left; implies --fix.",
    ),
    click.option(
        "--show-fixes/--no-show-fixes", default=None, help="List the fixes that were applied."
    ),
    click.option("--diff", is_flag=True, help="Show what --fix would change and write nothing."),
    click.option(
        "--add-ignore",
        metavar="[=REASON]",
        help="Silence what is found by comments in the files, with a reason or without.",
    ),
    click.option(
        "--select",
        **_RULES,
        help="Only these: codes, names, starts of codes (MP1), ALL; separated by commas.",
    ),
    click.option("--ignore", **_RULES, help="Not these."),
    click.option("--extend-select", **_RULES, help="These besides what is on."),
    click.option("--per-file-ignores", multiple=True, metavar="PATTERN:RULE", help="Off in files."),
    click.option(
        "--extend-per-file-ignores", multiple=True, metavar="PATTERN:RULE", help="Off there too."
    ),
    click.option("--fixable", **_RULES, help="Offer the fixes of these rules only."),
    click.option("--unfixable", **_RULES, help="Do not offer the fixes of these rules."),
    click.option("--extend-fixable", **_RULES, help="Offer the fixes of these rules besides."),
    click.option("--preview/--no-preview", default=None, help="Take preview rules for others."),
    click.option(
        "--target-keras",
        type=click.Choice(["2", "3"]),
        help="What keras and tf.keras are, where neither imports nor requirements tell.",
    ),
    click.option(
        "--target-torch",
        metavar="VERSION",
        help="The oldest torch the code must run with (2.4), whatever the project requires.",
    ),
    click.option("--exclude", **_PATTERNS, help="Files and folders not to look at."),
    click.option("--extend-exclude", **_PATTERNS, help="The same, besides those excluded already."),
    click.option(
        "--force-exclude/--no-force-exclude", default=None, help="Exclude what PATHS names, too."
    ),
    click.option(
        "--respect-gitignore/--no-respect-gitignore",
        default=None,
        help="Leave out what git ignores (the default).",
    ),
    click.option(
        "--config",
        multiple=True,
        metavar="FILE|KEY=VALUE",
        help="A configuration file instead of those found, or one of its lines.",
    ),
    click.option("--isolated", is_flag=True, help="Ignore all configuration files."),
    click.option(
        "--output-format",
        type=click.Choice(CHECK_FORMATS),
        envvar="MPAUDIT_OUTPUT_FORMAT",
        help="How findings are shown; full unless the configuration says otherwise.",
    ),
    click.option("-o", "--output-file", type=PATH, metavar="FILE", help="Write to FILE."),
    click.option(
        "-w", "--watch", is_flag=True, help="Check again whenever a file changes, until Ctrl-C."
    ),
    click.option("--statistics", is_flag=True, help="Count the findings of each rule."),
    click.option("-e", "--exit-zero", is_flag=True, help="Exit with 0 in spite of findings."),
    click.option(
        "--exit-non-zero-on-fix", is_flag=True, help="Exit with 1 if anything was fixed, too."
    ),
    click.option(
        "-n", "--no-cache", is_flag=True, envvar="MPAUDIT_NO_CACHE", help="Read and write no cache."
    ),
    click.option(
        "--cache-dir", metavar="FOLDER", envvar="MPAUDIT_CACHE_DIR", help="Where the cache is."
    ),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Processes for large trees; as many as there are cores unless said.",
    ),
    click.option("--baseline", metavar="FILE", help="Accept the findings that FILE holds."),
    click.option(
        "--write-baseline", is_flag=True, help="Accept what is found now: write it to the baseline."
    ),
    click.option(
        "--diff-base", metavar="REF", help="Report only what this branch adds to REF of git."
    ),
    click.option("--show-files", is_flag=True, help="List the files that would be checked."),
    click.option("--show-settings", is_flag=True, help="Show the settings of the first file."),
    click.option(
        "--stdin-filename",
        type=PATH,
        metavar="FILE",
        help="What standard input (the path -) is called.",
    ),
    click.option(
        "-v", "--verbose", is_flag=True, help="Say on stderr what was done, and how long."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print findings and nothing else."),
    click.option("-s", "--silent", is_flag=True, help="Print nothing; the exit code tells."),
]

fail_on = click.option(
    "--fail-on",
    multiple=True,
    metavar="LIMIT",
    help="Exit with 1 where the run shows: error, warning, a rule, skipped=10%, headroom=2.",
)
"""The option of `run` and `report`, as `limit.limits` reads it."""


def color(function: F) -> F:
    """Give a command the option that says when colours are used."""
    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        help="When to use colours; auto: on a terminal, unless NO_COLOR or FORCE_COLOR says so.",
    )(function)


def options(function: F) -> F:
    """Give a command the options of `check`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def wanted(paths: tuple[Path, ...], given: dict[str, Any]) -> Wanted:
    """What the options, and the configuration files that they go over, ask for.

    Raises MpauditError for what is unknown, broken or contradicts itself.
    """
    from mpaudit.check_command import Wanted
    from mpaudit.cores import cores

    configuration = _configuration(paths, given)
    here = configuration.here.options
    folder = here.get("cache-dir") or configuration.here.folder / ".mpaudit_cache"
    whole = any(path.is_dir() for path in paths or (Path(),))
    diff = given["diff"]
    if given["show_fixes"] and diff:
        raise click.UsageError("--show-fixes cannot be combined with --diff")
    if given["exit_zero"] and given["exit_non_zero_on_fix"]:
        raise click.UsageError("--exit-zero cannot be combined with --exit-non-zero-on-fix")
    loudness = [f"--{each}" for each in ("verbose", "quiet", "silent") if given[each]]
    if len(loudness) > 1:
        raise click.UsageError(f"{loudness[0]} cannot be combined with {loudness[1]}")
    silencing = given["add_ignore"] is not None
    fix_only = bool(here.get("fix-only", False)) and not silencing
    fix = bool(here.get("fix", False) or fix_only) if not silencing else bool(given["fix"])
    return Wanted(
        paths,
        configuration,
        fix=fix,
        fix_only=fix_only and not diff,
        unsafe_fixes=here.get("unsafe-fixes", False),
        show_fixes=here.get("show-fixes", False) and not diff,
        output_format=here.get("output-format", "full"),
        diff=diff,
        add_ignore=given["add_ignore"],
        statistics=given["statistics"],
        exit_zero=given["exit_zero"],
        exit_non_zero_on_fix=given["exit_non_zero_on_fix"],
        baseline=here.get("baseline", ""),
        write_baseline=given["write_baseline"],
        diff_base=given["diff_base"],
        cache=Path(folder) if whole and not given["no_cache"] else None,
        jobs=given["jobs"] or cores(),
        show_files=given["show_files"],
        show_settings=given["show_settings"],
        stdin_filename=given["stdin_filename"],
        verbose=given["verbose"],
        quiet=given["quiet"],
        silent=given["silent"],
        watch=given["watch"],
    )


def _configuration(paths: tuple[Path, ...], given: dict[str, Any]) -> Configuration:
    """The configuration that `--config` and `--isolated` mean, under the other options."""
    from mpaudit.errors import MpauditError
    from mpaudit.settings import Configuration
    from mpaudit.settings.reading import given as line

    here = Path.cwd()
    file: Path | None = None
    over: list[Layer] = []
    for word in given["config"]:
        if "=" in word and not Path(word).is_file():
            over.append(line(word, here))
        elif not Path(word).is_file():
            raise MpauditError(f"--config: there is no file {word!r}; a setting is key = value")
        elif file is not None:
            raise MpauditError(f"--config: {file} and {word} cannot both be the configuration")
        else:
            file = Path(word)
    if given["isolated"] and file is not None:
        raise MpauditError("--config FILE cannot be combined with --isolated")
    try:
        over.append(_layer(given, here))
    except MpauditError:  # what is unknown may be the rule of a plugin that a configuration names
        known = Configuration(over, file=file, isolated=given["isolated"])
        for path in (here, *paths):
            known.within(str(path.absolute() if path.is_dir() else path.absolute().parent))
        over.append(_layer(given, here))
    return Configuration(over, file=file, isolated=given["isolated"])


def _layer(given: dict[str, Any], here: Path) -> Layer:
    """The options that say the same as a key of a configuration file."""
    from mpaudit.config import known, selectors, version
    from mpaudit.settings.reading import Layer

    values: dict[str, Any] = {}
    for name in ("select", "ignore", "extend_select", "fixable", "unfixable", "extend_fixable"):
        if given[name]:
            key = name.replace("_", "-")
            values[key] = selectors(given[name])
            for word in values[key]:
                known(word, f"--{key}")
    for name in ("per_file_ignores", "extend_per_file_ignores"):
        if given[name]:
            key = name.replace("_", "-")
            values[key] = _by_pattern(selectors(given[name]), f"--{key}")
    for name in ("exclude", "extend_exclude"):
        if given[name]:
            values[name.replace("_", "-")] = selectors(given[name])
    for name in ("fix", "unsafe_fixes", "fix_only", "show_fixes", "preview", "force_exclude"):
        if given[name] is not None:
            values[name.replace("_", "-")] = given[name]
    for name in ("respect_gitignore", "output_format", "baseline", "cache_dir"):
        if given[name] is not None:
            values[name.replace("_", "-")] = given[name]
    if given["target_keras"]:
        values["target-keras"] = int(given["target_keras"])
    if given["target_torch"] is not None:
        values["target-torch"] = version(given["target_torch"], "--target-torch")
    return Layer(values, here)


def _by_pattern(words: tuple[str, ...], option: str) -> dict[str, tuple[str, ...]]:
    from mpaudit.config import known
    from mpaudit.errors import MpauditError

    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        pattern, colon, selector = word.rpartition(":")
        if not colon or not pattern:
            raise MpauditError(f"{option}: {word!r} is no PATTERN:RULE")
        known(selector.strip(), option)
        found[pattern.strip()] = (*found.get(pattern.strip(), ()), selector.strip())
    return found
