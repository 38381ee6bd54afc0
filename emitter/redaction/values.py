"""Masks the values of secret names in encodable data, and knows data that holds no text."""

from __future__ import annotations

from typing import Any

from lineside.emitter.redaction.names import Secrecy, secrecy
from lineside.emitter.redaction.text import (
    REDACTED,
    is_credential,
    is_special_token,
    redact_arguments,
    redact_text,
)

METRIC_MAPS = ("logs", "metrics", "log_history")
"""The parts of an event's data in which every number is a metric, whatever its name."""

_NUMBERS = frozenset({float, int, bool, type(None)})
# Where one field of a record holds a name and another its value, as in a list of variables.
_NAME_FIELDS = ("name", "key", "variable", "option", "header", "field")
_VALUE_FIELDS = ("value", "val", "default", "content")
_COLUMN_FIELDS = ("columns", "header", "headers", "fields", "names")
_ROW_FIELDS = ("data", "rows", "values", "records", "table")
# Names that were found to be no secret and to hold none: a metric's name comes at every step.
_HARMLESS_NAMES: set[str] = set()
_MOST_NAMES = 20_000


def is_numeric(data: object) -> bool:
    """Whether ``data`` is a dict of numbers, or of dicts or lists of numbers, with known names.

    The names of data that ``mask_names`` has seen are known, so this is False the first time.
    NumPy's float64 is a float: metrics often are of it.
    """
    if type(data) is not dict:
        return False
    for name, value in data.items():
        if name not in _HARMLESS_NAMES:
            return False
        kind = type(value)
        if kind is dict:
            for inner, number in value.items():
                if inner not in _HARMLESS_NAMES or (
                    type(number) not in _NUMBERS and not isinstance(number, float)
                ):
                    return False
        elif kind is list:
            for number in value:
                if type(number) not in _NUMBERS and not isinstance(number, float):
                    return False
        elif kind not in _NUMBERS and not isinstance(value, float):
            return False
    return True


def mask_names(data: Any) -> Any:
    """Mask the values of secret names in ``data``, in place; returns it.

    ``data`` is of dicts with text keys, lists, texts and numbers, with texts redacted.
    """
    if not isinstance(data, dict):
        return _mask(data, keeps_numbers=False)
    for name in METRIC_MAPS:
        if name in data:
            _mask(data[name], keeps_numbers=True)
    rest = {name: value for name, value in data.items() if name not in METRIC_MAPS}
    data.update(_mask(rest, keeps_numbers=False))
    _remember(data)
    return data


def mask_texts(data: Any) -> Any:
    """Mask the texts of secret names in ``data``, in place, and no number; returns it.

    For files that a program reads again: ``label2id`` has numbers under any name.
    """
    return _mask(data, keeps_numbers=True)


def _remember(data: dict[str, Any]) -> None:
    if len(_HARMLESS_NAMES) > _MOST_NAMES:
        _HARMLESS_NAMES.clear()
    names = list(data)
    for value in data.values():
        if isinstance(value, dict):
            names += value
    for name in names[:_MOST_NAMES]:
        if secrecy(name) is not Secrecy.SECRET and redact_text(name) == name:
            _HARMLESS_NAMES.add(name)


def _mask(value: Any, *, keeps_numbers: bool) -> Any:
    if isinstance(value, dict):
        for name, item in value.items():
            kind = secrecy(name)
            if kind is not Secrecy.NONE:
                value[name] = _masked(item, kind, keeps_numbers=keeps_numbers)
            elif isinstance(item, (dict, list)):
                _mask(item, keeps_numbers=keeps_numbers)
        _mask_record(value)
        _mask_table(value)
    elif isinstance(value, list):
        _mask_list(value, keeps_numbers=keeps_numbers)
    return value


def _mask_list(items: list[Any], *, keeps_numbers: bool) -> None:
    for item in items:
        if isinstance(item, (dict, list)):
            _mask(item, keeps_numbers=keeps_numbers)
    if len(items) == 2 and isinstance(items[0], str):  # a header or an option as a pair
        kind = secrecy(items[0])
        if kind is not Secrecy.NONE:
            _mask_cell(items, 1, kind)
    if any(isinstance(item, str) and item.startswith("-") for item in items):
        words = [item if isinstance(item, str) else "" for item in items]
        for index, word in enumerate(redact_arguments(words)):
            if isinstance(items[index], str):
                items[index] = word


def _mask_record(record: dict[str, Any]) -> None:
    """Mask the value of ``{"name": "API_KEY", "value": ...}``."""
    for field in _NAME_FIELDS:
        name = record.get(field)
        if isinstance(name, str):
            kind = secrecy(name)
            if kind in (Secrecy.SECRET, Secrecy.TOKEN):
                for value_field in _VALUE_FIELDS:
                    if value_field in record:
                        value = record[value_field]
                        record[value_field] = _masked(value, kind, keeps_numbers=False)


def _mask_table(table: dict[str, Any]) -> None:
    """Mask the columns of secret names in ``{"columns": [names], "data": [rows]}``."""
    for field in _COLUMN_FIELDS:
        columns = table.get(field)
        if not isinstance(columns, list):
            continue
        kinds = [secrecy(name) if isinstance(name, str) else Secrecy.NONE for name in columns]
        secret = [index for index, kind in enumerate(kinds) if kind is not Secrecy.NONE]
        for row_field in _ROW_FIELDS:
            rows = table.get(row_field)
            for row in rows if secret and isinstance(rows, list) else ():
                if isinstance(row, list):
                    for index in secret:
                        _mask_cell(row, index, kinds[index])


def _mask_cell(row: list[Any], index: int, kind: Secrecy) -> None:
    """Mask the cell of a secret name; in a column of tokens only what looks like a key."""
    cell = row[index] if index < len(row) else None
    is_word = isinstance(cell, str) and not is_credential(cell)
    if cell is not None and (kind is Secrecy.SECRET or not is_word):
        row[index] = _masked(cell, kind, keeps_numbers=False)


def _masked(value: Any, kind: Secrecy, *, keeps_numbers: bool) -> Any:
    """``value`` of a secret name, masked; a switch, a float and what is empty stay."""
    if kind is Secrecy.TOKENS:
        return _masked_tokens(value)
    if isinstance(value, str):
        return value if not value or is_special_token(value) else REDACTED
    if isinstance(value, (dict, list)):
        if not _holds_secret(value, kind):
            return _mask(value, keeps_numbers=keeps_numbers)
        return _mask_texts(value) if keeps_numbers else REDACTED
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return REDACTED if is_number and kind is Secrecy.SECRET and not keeps_numbers else value


def _mask_texts(value: Any) -> Any:
    """``value`` with each text masked, and numbers as they are."""
    if isinstance(value, dict):
        return {name: _mask_texts(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mask_texts(item) for item in value]
    return REDACTED if isinstance(value, str) and value else value


def _holds_secret(value: Any, kind: Secrecy) -> bool:
    if isinstance(value, (dict, list)):
        items = value.values() if isinstance(value, dict) else value
        return any(_holds_secret(item, kind) for item in items)
    if isinstance(value, str):
        return bool(value) and not is_special_token(value)
    return kind is Secrecy.SECRET and isinstance(value, int) and not isinstance(value, bool)


def _masked_tokens(value: Any, *, is_named: bool = False) -> Any:
    """``value`` of a name like ``tokens``: by name, any word; in a list, what looks like a key."""
    if isinstance(value, dict):
        for name, item in value.items():
            if secrecy(name) is Secrecy.NONE:
                value[name] = _masked_tokens(item, is_named=True)
            else:
                value[name] = _masked(item, secrecy(name), keeps_numbers=False)
        return value
    if isinstance(value, list):
        return [_masked_tokens(item) for item in value]
    if isinstance(value, str) and not is_special_token(value):
        is_word = is_named and len(value) >= 4 and len(value.split()) == 1
        return REDACTED if is_word or is_credential(value) else value
    return value
