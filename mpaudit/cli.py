"""The command line: parses, calls, prints, exits. Everything heavy is imported inside a command."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mpaudit import __version__, options
from mpaudit.errors import MpauditError

if TYPE_CHECKING:
    from mpaudit.check_command import Outcome, Wanted
    from mpaudit.runtime.target import How

CLEAN, FINDINGS, FAILED = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


class Program(click.Group):
    """All commands; here, and nowhere else, an error becomes a line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and leave the process with its exit code."""
        try:
            code = super().main(
                *args, **{**kwargs, "prog_name": "mpaudit", "standalone_mode": False}
            )
        except MpauditError as problem:
            code = _failed(str(problem), problem.exit_code)
        except click.ClickException as problem:
            context = getattr(problem, "ctx", None)
            help_of = context.command_path if context else "mpaudit"
            text = " ".join(problem.format_message().split()).rstrip(".")
            code = _failed(f"{text} (see `{help_of} --help`)", FAILED)
        except click.exceptions.Abort:
            code = INTERRUPTED
        except BrokenPipeError:  # the reader, a pager or `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            code = FINDINGS
        except OSError as problem:
            where = f": {problem.filename}" if problem.filename else ""
            code = _failed(f"{problem.strerror or problem}{where}", FAILED)
        except Exception as problem:
            code = _internal(problem)
        sys.exit(code if isinstance(code, int) else CLEAN)


class CheckCommand(click.Command):
    """`check`: an option whose value may be left out takes one behind `=` only, as in ruff."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give a bare `--add-ignore` its empty value, so that the path behind it stays a path."""
        end = args.index("--") if "--" in args else len(args)
        bare = [f"{each}=" if each == "--add-ignore" else each for each in args[:end]]
        return super().parse_args(ctx, [*bare, *args[end:]])


_TAKES_A_VALUE = ("-o", "--output", "--device", "--reference", "--apply", "--every", "--fail-on")
"""Of the options of `run`."""


class RunCommand(click.Command):
    """`run`: what follows the script, `-m module` or `-c code` is the script's, options included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Close mpaudit's own options behind `-m` or `-c`; the parser itself stops at a script."""
        position = 0
        while position < len(args) and args[position].startswith("-") and args[position] != "--":
            if args[position].startswith(("-m", "-c")):
                end = position + (2 if args[position] in ("-m", "-c") else 1)
                args = [*args[:end], "--", *args[end:]]
                break
            position += 2 if args[position] in _TAKES_A_VALUE else 1
        return super().parse_args(ctx, args)


def _failed(message: str, code: int) -> int:
    click.echo(f"mpaudit: {message}", err=True)
    return code


def _internal(problem: Exception) -> int:
    if os.environ.get("MPAUDIT_DEBUG"):
        import traceback

        traceback.print_exc()
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    hint = "please report it with the command and the script (MPAUDIT_DEBUG=1 shows where)"
    return _failed(f"internal error ({text}); {hint}", FAILED)


def _coloured(asked: str | None = None) -> bool:
    """Whether stdout takes colours: as `--color` says, else no-color.org; FORCE_COLOR as in ruff."""
    if asked in ("always", "never"):
        return asked == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _print(text: str) -> None:
    """Print `text` as it is; what the terminal has no letters for, as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    click.echo(text, nl=False, color=True)  # whether there are colours in it is decided already


def _deliver(text: str, output: Path | None) -> None:
    """Print `text`, or write it to the file that `-o` names."""
    if output is None:
        return _print(text)
    from mpaudit.rewrite import put

    try:
        put(output, text)
    except OSError as problem:
        reason = problem.strerror or problem
        raise MpauditError(f"{output}: the report cannot be written ({reason})") from problem
    return None


def _say(line: str) -> None:
    click.echo(f"mpaudit: {line}", err=True)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Have no garbage collected: what is loaded and read stays to the end.

    To look through it, at the end once more, takes a seventh of the time of one file's check.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


_PATH = options.PATH


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mpaudit", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> int:
    """Find mixed-precision (AMP) mistakes in training scripts, repair them, and prove the run."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return FAILED


@main.command(cls=CheckCommand)
@click.argument("paths", nargs=-1, type=_PATH)
@options.options
@options.color
def check(
    paths: tuple[Path, ...], output_file: Path | None, color: str | None, **given: Any
) -> int:
    """Find mistakes in PATHS (files or folders; default: this folder) without running them.

    Exit code 0: clean, or all repaired; 1: findings; 2: it could not be done.
    """
    from mpaudit import gate

    if output_file is None and gate.passes(paths, given):
        _print("All checks passed!\n")
        return CLEAN
    with _uncollected():
        return _check(paths, output_file, color, given)


def _check(
    paths: tuple[Path, ...], output_file: Path | None, color: str | None, given: dict[str, Any]
) -> int:
    from mpaudit import check_command

    colour = output_file is None and _coloured(color)

    def once(wanted: Wanted) -> Outcome:
        outcome = check_command.run(wanted, sys.stdin.buffer.read, colour=colour)
        for note in outcome.notes:
            click.echo(note, err=True)
        text = "" if wanted.silent and output_file is None else outcome.text
        if outcome.content is None:
            _deliver(text, output_file)
        else:  # standard output is for the repaired text, as in ruff
            sys.stdout.buffer.write(outcome.content)
            click.echo(text, err=True, nl=False)
        return outcome

    wanted = options.wanted(paths, given)
    if not wanted.watch:
        return FINDINGS if once(wanted).broken else CLEAN
    from mpaudit.watch import Watch

    Watch(once, lambda: options.wanted(paths, given), _failed).run(wanted)
    return INTERRUPTED


@main.command(
    cls=RunCommand, context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]"
)
@click.option("--fix", is_flag=True, help="Repair the script in memory, then run that.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where the script's cuda calls go; auto: to the CPU if there is no GPU.",
)
@click.option(
    "--reference",
    type=click.IntRange(min=10),
    metavar="STEPS",
    help="First run so many steps three times, twice in float32, and say if the script leaves it.",
)
@click.option(
    "--apply",
    metavar="STEPS|TRACE",
    help="Run with what a trace advises, or a trial of so many steps; the script is not edited.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Look at the layers in every Nth step (default: 10), and after one that went wrong.",
)
@click.option(
    "--light",
    is_flag=True,
    help="Only loss scale, steps and gradients of parameters; no layer is looked at.",
)
@options.fail_on
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Where the trace is written.")
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does.")
@click.option("-c", "code", metavar="CODE", help="Run CODE itself, as `python -c` does.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def run(module: str | None, code: str | None, command: tuple[str, ...], **given: Any) -> int:
    """Run SCRIPT as `python SCRIPT ARGS...` would, and record what mixed precision really does.

    Everything after SCRIPT belongs to the script. The exit code is the script's, or 1 if that is 0
    and a limit of --fail-on is broken.
    """
    named = module if code is None else code
    if named is None and not command:
        raise MpauditError("run: which script? Say `mpaudit run train.py` or `mpaudit run -m pkg`")
    from mpaudit import witness

    name, *arguments = command if named is None else (named, *command)
    how: How = "script" if named is None else "module" if code is None else "code"
    return witness.run(name, arguments, how=how, **given)


@main.command()
@click.argument("traces", nargs=-1, required=True, type=_PATH, metavar="TRACE...")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "json", "html"]),
    default="text",
    show_default=True,
    help="html: one page, written beside TRACE.",
)
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Write to FILE, not to stdout.")
@click.option("--all", "whole", is_flag=True, help="text: every layer, also of a large model.")
@options.fail_on
@options.color
def report(
    traces: tuple[Path, ...],
    kind: str,
    output: Path | None,
    fail_on: tuple[str, ...],
    color: str | None,
    *,
    whole: bool,
) -> int:
    """Show what TRACE, written by `mpaudit run`, recorded.

    The traces of several ranks are shown as one run; of a folder, the last run in it.
    """
    from mpaudit import limit, verdict
    from mpaudit.render import run_json, run_text

    limits = limit.limits(fail_on)
    summary = verdict.read(*traces, say=_say)
    if kind == "html":
        from mpaudit.render import html

        output = output or html.location(traces[0])
        _deliver(html.render(summary), output)
        _print(f"{output}\n")
    elif kind == "json":
        _deliver(run_json.render(summary), output)
    else:
        colour = output is None and _coloured(color)
        _deliver(run_text.render(summary, colour=colour, whole=whole), output)
    return FINDINGS if limit.told(summary, limits, _say) else CLEAN


@main.command()
@click.argument("traces", nargs=-1, required=True, type=_PATH, metavar="TRACE...")
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Where the one trace is written.")
def merge(traces: tuple[Path, ...], output: Path | None) -> None:
    """Make one trace of those of several ranks (files, or a folder of them)."""
    from mpaudit import verdict

    _print(f"{verdict.merged(traces, output, _say)}\n")


@main.command()
def clean() -> None:
    """Remove the caches in this folder and below."""
    from mpaudit.cache.store import clean as remove

    for folder in remove(Path()):
        click.echo(f"Removing cache at: {folder}", err=True)


@main.command()
def server() -> None:
    """Serve an editor over the Language Server Protocol, on standard input and output."""
    try:
        from mpaudit.lsp.server import made
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] not in ("pygls", "lsprotocol"):
            raise
        raise MpauditError(
            "server: it needs pygls; install it with `pip install 'mpaudit[server]'`"
        ) from None
    made().start_io()


def _load_plugins() -> None:
    """Know the rules, too, that the configuration of this folder brings; a broken one brings none."""
    from mpaudit.settings import Configuration

    try:
        Configuration().within(str(Path.cwd()))
    except MpauditError as problem:
        click.echo(f"warning: {problem}", err=True)


_FORMATS = click.Choice(["text", "json", "markdown"])


@main.command()
@click.argument("rule", metavar="RULE|ERROR-TEXT")
@click.option("--output-format", type=_FORMATS, default="text", show_default=True)
@options.color
def explain(rule: str, output_format: str, color: str | None) -> None:
    """Explain a rule, given its code or name, or an error message, given its text."""
    from mpaudit.explain import look_up
    from mpaudit.render import page

    _load_plugins()
    found, *others = look_up(rule)
    if output_format == "json":
        return _print(page.data(found))
    if output_format == "markdown":
        return _print(page.markdown(found))
    _print(page.text(found, colour=_coloured(color)))
    if others:
        names = ", ".join(f"{each.code} {each.name}" for each in others)
        click.echo(f"\nThe same error is explained by {names}.")
    return None


@main.command()
@click.option("--output-format", type=_FORMATS, default="text", show_default=True)
@options.color
def rules(output_format: str, color: str | None) -> None:
    """List the rules."""
    from mpaudit.render import rules as table
    from mpaudit.rule import catalogue

    _load_plugins()
    known = list(catalogue().values())
    if output_format == "json":
        return _print(table.data(known))
    if output_format == "markdown":
        return _print(table.markdown(known))
    return _print(table.text(known, colour=_coloured(color)))
