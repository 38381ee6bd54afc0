"""Rows written as CSV, JSON Lines or Parquet, a few at a time."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from lineside.bus.errors import MissingExtra
from lineside.bus.terminal_text import CONTROL_ESCAPES
from lineside.dashboard.http.strict_json import strict

TEXT, INTEGER, FLOAT, TIME, JSON = "text", "integer", "float", "time", "json"
"""The types of columns: TIME is a UTC datetime, a FLOAT may be NaN or infinite."""
OnProgress = Callable[[int], None]
"""Called now and then with the number of rows written."""
_CHUNK = 10_000
_FORMULA_STARTS = (
    "=+-@\n\uff1d\uff0b\uff0d\uff20"  # as listed by OWASP, with their full-width forms
)


@dataclass(frozen=True)
class Rows:
    """``items`` with a value or None for each of ``columns``, which maps names to types."""

    noun: str
    columns: dict[str, str]
    items: Iterator[tuple[Any, ...]]


def write_csv(rows: Rows, out: IO[bytes], on_progress: OnProgress) -> None:
    """RFC 4180 in UTF-8, for programs: each text as it is, times in ISO 8601, nothing for None.

    Not finite values are ``nan`` and ``inf``.
    """
    _write_cells(rows, out, on_progress, _identity)


def write_spreadsheet(rows: Rows, out: IO[bytes], on_progress: OnProgress) -> None:
    """As ``write_csv``, for people: no text acts on its reader.

    ``'`` stands before a first character that begins a formula in spreadsheets, and control
    characters are escaped for terminals.
    """
    _write_cells(rows, out, on_progress, _inert_text)


def _write_cells(
    rows: Rows, out: IO[bytes], on_progress: OnProgress, encode_text: Callable[[Any], Any]
) -> None:
    encoders: dict[str, Callable[[Any], Any]] = {
        TEXT: encode_text,
        TIME: _time_as_text,
        JSON: lambda value: encode_text(_json(value)),
    }
    writer = csv.writer(codecs.getwriter("utf-8")(out))
    writer.writerow(rows.columns)
    encode = [encoders.get(kind, _identity) for kind in rows.columns.values()]
    for chunk in _chunks(rows.items, on_progress):
        writer.writerows([[e(v) for e, v in zip(encode, row, strict=True)] for row in chunk])


def write_jsonl(rows: Rows, out: IO[bytes], on_progress: OnProgress) -> None:
    """One strict JSON object a line. ``non_finite`` lists the nulls that are NaN or infinite."""
    names = list(rows.columns)
    for chunk in _chunks(rows.items, on_progress):
        lines = []
        for row in chunk:
            document, flags = strict(dict(zip(names, map(_time_as_text, row), strict=True)))
            if flags:
                document["non_finite"] = flags
            lines.append(json.dumps(document, ensure_ascii=False).translate(CONTROL_ESCAPES))
        out.write(("\n".join(lines) + "\n").encode())


def write_parquet(rows: Rows, out: IO[bytes], on_progress: OnProgress) -> None:
    """Typed columns: times as UTC timestamps in microseconds, JSON as text.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as missing:
        raise MissingExtra("export as Parquet", "pyarrow", "server") from missing
    types = {
        TEXT: pa.string(),
        INTEGER: pa.int64(),
        FLOAT: pa.float64(),
        TIME: pa.timestamp("us", tz="UTC"),
        JSON: pa.string(),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in rows.columns.items()])
    encode = [_json if kind == JSON else _identity for kind in rows.columns.values()]
    with pq.ParquetWriter(out, schema) as writer:
        for chunk in _chunks(rows.items, on_progress):
            columns = zip(*chunk, strict=True)
            arrays = [
                pa.array([e(value) for value in column], type=field.type)
                for e, column, field in zip(encode, columns, schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _chunks(
    items: Iterator[tuple[Any, ...]], on_progress: OnProgress
) -> Iterator[list[tuple[Any, ...]]]:
    done = 0
    while chunk := list(itertools.islice(items, _CHUNK)):
        yield chunk
        done += len(chunk)
        on_progress(done)


def _identity(value: Any) -> Any:
    return value


def _time_as_text(value: Any) -> Any:
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(strict(value)[0], ensure_ascii=False)


def _inert_text(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    value = value.translate(CONTROL_ESCAPES)
    return f"'{value}" if value[0] in _FORMULA_STARTS else value


WRITERS: dict[str, Callable[[Rows, IO[bytes], OnProgress], None]] = {
    "csv": write_csv,
    "spreadsheet": write_spreadsheet,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}
