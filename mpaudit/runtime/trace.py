"""The trace: one SQLite file per run, readable while it is written, whole after a crash.

    meta        key -> JSON: script, argv, framework, versions, device, exit_code, complete, ...
    layers      one row per layer path (record.Layer)
    dtypes      which dtypes flowed where, with the number of tensors (record.Flowed)
    statistics  per layer, phase and dtype, rolled up over the run (record.Statistics)
    histograms  numbers counted by power of two, in sampled steps (histogram.Histogram)
    peaks       how the largest outputs in float16 went over the run (record.Peaks)
    casts       conversions between floating dtypes (record.Cast)
    optimizers  in order of first use (record.Optimizer)
    attempts    attempts to step, run-length coded (record.Attempts)
    incidents   where numbers overflowed or vanished (record.Incident)
    findings    JSON of `finding.Problem`, as the protocols yielded them

The facts in `meta`: script, module (of -m), argv, source_edited (--fix), sources (filename -> text
that ran), framework ("torch", "keras"), versions, device, emulated (false, or what is), precision,
amp (what asked for it), switched_off (the script has entered a region, or made a scaler, that it had
switched off), sampling, cast_steps (how many steps the casts are from), cast_steps_of (layer -> in how
many of them it took part, where not in all),
repeated_casts (layer -> casts of one step that repeat another), float32_operations (layer ->
operation -> why it computed in float32 what came in 16 bits -> how often), policies (of Keras: layer ->
policy, and the dtype that it computes in), skips (optimizer, first and last
step, layers where it began: of the first 500 stretches of skipped steps), compiled,
scaler, losses, seconds_per_step, applied (of --apply: advice, of, before),
reference (of --reference: steps compared, diverges, refused: why they could not be),
started, flushed, ended, pid, rank, world_size, exit_code, exception, complete (false if the run died),
probe_errors, overhead, run (the same for all processes of one); of a merged trace ranks, missing_ranks,
merged (files), first_bad, ranks_part.

`application_id` says that a database is a trace, `user_version` is the version of this format.
Steps are attempts, counted from 0 for each optimizer. Everything is rolled up, so size does not
grow with the run but with the number of layers and of changes of the loss scale.
"""

from __future__ import annotations

import ctypes
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from msgspec import convert, to_builtins

from mpaudit.errors import MpauditError
from mpaudit.finding import Problem
from mpaudit.runtime import descriptor
from mpaudit.runtime.histogram import Histogram
from mpaudit.runtime.record import (
    Attempts,
    Cast,
    Flowed,
    Incident,
    Layer,
    Optimizer,
    Peaks,
    Row,
    Statistics,
)

FORMAT = 2  # 2: histograms, peaks
APPLICATION = 0x6D706175  # "mpau"

_Row = TypeVar(
    "_Row", Layer, Flowed, Statistics, Histogram, Peaks, Cast, Optimizer, Attempts, Incident
)
_TABLES: dict[Any, tuple[str, int]] = {  # of a row: table, how many leading columns are its key
    Layer: ("layers", 1),
    Flowed: ("dtypes", 3),
    Statistics: ("statistics", 3),
    Histogram: ("histograms", 4),
    Peaks: ("peaks", 1),
    Cast: ("casts", 4),
    Optimizer: ("optimizers", 1),
    Attempts: ("attempts", 2),
    Incident: ("incidents", 3),
}
_COLUMNS: dict[Any, tuple[str, ...]] = {row: row.__struct_fields__ for row in _TABLES}
_JOINED = {"first_bad_step": "min", "last_bad_step": "max", "amax": "max"}
"""What two numbers of such a column are together; those of others add up."""
_ORDER = {"layers": "position", "optimizers": '"index"', "attempts": "optimizer, first"}


def _schema() -> str:
    statements = [
        f"PRAGMA application_id = {APPLICATION}",
        f"PRAGMA user_version = {FORMAT}",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE findings (position INTEGER PRIMARY KEY, problem TEXT NOT NULL)",
    ]
    for row, (table, keys) in _TABLES.items():
        columns = [f'"{name}"' for name in _COLUMNS[row]]
        key = ", ".join(columns[:keys])
        statements.append(f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY ({key}))")
    return ";\n".join(statements)


def _insert(row: type) -> str:
    """What writes a row of a kind, next to one with the same key."""
    (table, keys), names = _TABLES[row], _COLUMNS[row]
    marks = ", ".join("?" * len(names))
    if row not in (Flowed, Statistics, Cast):
        return f"INSERT OR REPLACE INTO {table} VALUES ({marks})"
    both = {name: f"{name} + excluded.{name}" for name in names[keys:]}
    both |= {name: f"{_JOINED[name]}({name}, excluded.{name})" for name in both.keys() & _JOINED}
    sets = [f"{name} = coalesce({both[name]}, {name}, excluded.{name})" for name in both]
    key = ", ".join(names[:keys])
    return (
        f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {', '.join(sets)}"
    )


_INSERT = {row: _insert(row) for row in _TABLES}


def _row(kind: type[_Row], values: Sequence[Any]) -> _Row:
    """The row that is in the file as these values."""
    data = dict(zip(_COLUMNS[kind], values, strict=True))
    for name in {"nonfinite", "counts", "peaks"} & data.keys():
        data[name] = json.loads(data[name])
    return convert(data, kind, strict=False)


def _make_way(path: Path) -> None:
    """Remove an older trace; anything else that stands at `path` is left alone."""
    try:
        Reader(path).close()
    except MpauditError as problem:
        message = f"{path}: exists and is not a trace; choose another name with -o"
        raise MpauditError(message) from problem
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class Writer:
    """Writes a new trace at `path`, in place of an older one. Raises MpauditError where it cannot.

    A row of what adds up (Flowed, Statistics, Histogram, Cast) joins the row with the same key as its
    `joined` says; of all else it replaces it. Nothing is on disk before `commit`; what was committed
    survives a `kill -9`. Not for several threads at once, nor for a forked child.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            _make_way(path)
        try:
            self._database = sqlite3.connect(path, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_schema())
        except sqlite3.Error as problem:
            raise MpauditError(f"{path}: the trace cannot be written ({problem})") from problem
        beside = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
        self._held = descriptor.of(beside)
        self._lost = False

    def _check(self) -> None:
        """Raise sqlite3.OperationalError where a script has closed the files of the trace.

        Others may have their numbers by now: nothing is written to those, and they are not closed.
        """
        if not self._lost and not descriptor.intact(self._held):
            self._lost = True
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))  # it would close them
        if self._lost:
            raise sqlite3.OperationalError("the script has closed its files")

    def meta(self, key: str, value: object) -> None:
        """Set a fact about the run; `value` is anything that JSON can say."""
        self._database.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value))
        )

    def rows(self, rows: Iterable[Row]) -> None:
        """Write rows; those with the same key as one that is there join or replace it."""
        tables: dict[type, list[list[Any]]] = {}
        for row in rows:
            found = self._joined(row) if isinstance(row, Histogram) else row
            values = [getattr(found, name) for name in _COLUMNS[type(row)]]
            values = [json.dumps(v) if isinstance(v, tuple) else v for v in values]
            tables.setdefault(type(row), []).append(values)
        for kind, table in tables.items():
            self._database.executemany(_INSERT[kind], table)

    def _joined(self, counted: Histogram) -> Histogram:
        """With what was counted before: lists do not add up in SQL."""
        keys = [f'"{name}" = ?' for name in _COLUMNS[Histogram][: _TABLES[Histogram][1]]]
        query = f"SELECT * FROM histograms WHERE {' AND '.join(keys)}"
        name = counted.layer, counted.what, counted.dtype, counted.scale
        known = self._database.execute(query, name).fetchone()
        return counted if known is None else _row(Histogram, known).joined(counted)

    def problems(self, problems: Iterable[Problem]) -> None:
        """Set the findings of the run, in order, in place of those written before."""
        self._database.execute("DELETE FROM findings")
        data = [(json.dumps(to_builtins(problem)),) for problem in problems]
        self._database.executemany("INSERT INTO findings (problem) VALUES (?)", data)

    def forget(self) -> None:
        """Take out the layers, and all that is known of them, for good."""
        with self.whole():
            for kind in (Layer, Flowed, Statistics, Histogram, Peaks, Cast):
                self._database.execute(f"DELETE FROM {_TABLES[kind][0]}")

    def commit(self) -> None:
        """Make everything so far durable and visible to readers."""
        self._database.commit()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Commit what is written in the block, or, where that cannot be, nothing of it."""
        self._check()
        try:
            yield
            self.commit()
        except BaseException:
            self._database.rollback()
            raise

    def close(self) -> None:
        """Commit, and leave one plain file (no -wal beside it)."""
        self._check()
        self.commit()
        self._database.execute("PRAGMA journal_mode = DELETE")
        self._database.close()


class Reader:
    """Reads a trace, also one that is still being written. Use as a context manager.

    Raises MpauditError if `path` is missing, is no trace, or was written by a newer mpaudit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "there is no such file"
            raise MpauditError(f"{path}: {what}; give the .mpa file that `mpaudit run` wrote")
        try:
            with path.open("rb") as file:
                header = file.read(16)
        except OSError as problem:
            raise MpauditError(f"{path}: cannot be read ({problem.strerror})") from problem
        if header != b"SQLite format 3\0":
            raise MpauditError(f"{path}: not a trace of mpaudit; `mpaudit run` writes them (.mpa)")
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path.resolve()))}"
        problem: sqlite3.Error | None = None
        for mode in ("mode=ro", "immutable=1"):  # the second where the folder cannot be written
            try:
                database = sqlite3.connect(f"{uri}?{mode}", uri=True)
                found = database.execute("PRAGMA application_id").fetchone()[0]
                version = database.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.Error as error:
                problem = error
                continue
            if found != APPLICATION:
                database.close()
                raise MpauditError(f"{self.path}: a database, but not a trace of mpaudit")
            if version > FORMAT:
                database.close()
                raise MpauditError(
                    f"{self.path}: trace format {version} is newer than {FORMAT}, "
                    "which this mpaudit reads; upgrade with `pip install -U mpaudit`"
                )
            self._version = int(version)
            return database
        raise MpauditError(f"{self.path}: the trace is damaged ({problem})") from problem

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    @property
    def meta(self) -> dict[str, Any]:
        """The facts about the run, see `tracer.Tracer.note`."""
        return {key: json.loads(value) for key, value in self._query("SELECT * FROM meta")}

    def rows(self) -> Iterator[tuple[tuple[Any, ...], Row]]:
        """Every row of every table but meta and findings, each behind its type and its key."""
        there = {name for (name,) in self._query("SELECT name FROM sqlite_master")}
        for kind, (table, keys) in _TABLES.items():
            if table in there:  # an older format has fewer
                for row in self._read(kind):
                    yield (kind, *(getattr(row, name) for name in _COLUMNS[kind][:keys])), row

    def layers(self) -> list[Layer]:
        """The layers in order of their first call."""
        return list(self._read(Layer))

    def statistics(self) -> list[Statistics]:
        """The statistics per layer, phase and dtype."""
        return list(self._read(Statistics))

    def dtypes(self) -> dict[str, dict[str, list[str]]]:
        """Layer path -> flow (record.Flow) -> sorted dtype names."""
        flows: dict[str, dict[str, list[str]]] = {}
        for row in sorted(self._read(Flowed), key=lambda each: each.dtype):
            flows.setdefault(row.layer, {}).setdefault(row.flow, []).append(row.dtype)
        return flows

    def histograms(self) -> dict[str, list[Histogram]]:
        """Layer path -> its numbers by power of two; none in a trace of format 1."""
        found: dict[str, list[Histogram]] = {}
        for row in self._read(Histogram) if self._version > 1 else ():
            found.setdefault(row.layer, []).append(row)
        return found

    def peaks(self) -> dict[str, Peaks]:
        """Layer path -> its largest outputs in float16 over the run; none in format 1."""
        return {each.layer: each for each in self._read(Peaks)} if self._version > 1 else {}

    def casts(self) -> list[Cast]:
        """The casts per layer."""
        return list(self._read(Cast))

    def optimizers(self) -> list[Optimizer]:
        """The optimizers in order of first use."""
        return list(self._read(Optimizer))

    def attempts(self) -> list[Attempts]:
        """The attempts to step, by optimizer and time, equal neighbours in one row."""
        return list(self._read(Attempts))

    def incidents(self) -> list[Incident]:
        """The places where numbers went wrong, in order of the first step."""
        return sorted(self._read(Incident), key=lambda each: (each.first_step, each.layer))

    def problems(self) -> list[Problem]:
        """What the protocols found in the run."""
        query = "SELECT problem FROM findings ORDER BY position"
        return [convert(json.loads(text), Problem) for (text,) in self._query(query)]

    def _read(self, row: type[_Row]) -> Iterator[_Row]:
        table, _ = _TABLES[row]
        for values in self._query(f"SELECT * FROM {table} ORDER BY {_ORDER.get(table, 1)}"):
            yield _row(row, values)

    def _query(self, query: str) -> list[tuple[Any, ...]]:
        try:
            with closing(self._database.execute(query)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as problem:
            raise MpauditError(f"{self.path}: the trace is damaged ({problem})") from problem
