"""Describes exceptions in events and messages, with secrets redacted."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from lineside.emitter.redaction.text import redact_text
from lineside.emitter.spool.script_errors import is_script_error

_CHARACTERS = 8_192
# A secret at the edge of a cut text is recognised by what follows or precedes it.
_READ_CHARACTERS = 4 * _CHARACTERS


def error_facts(error: BaseException | None) -> dict[str, str] | None:
    """Type, message and the last 8,192 characters of the traceback, as in ``run_end``."""
    if error is None:
        return None
    return {
        "type": type(error).__qualname__,
        "message": _text(lambda: str(error)),
        "traceback": _text(lambda: _traceback(error), is_end=True),
    }


def one_line(error: BaseException) -> str:
    """Type and message in at most 200 characters."""
    return f"{type(error).__qualname__}: {_text(lambda: str(error))}"[:200]


def _text(read: Callable[[], str], *, is_end: bool = False) -> str:
    """The beginning or end of a text, redacted; empty if an exception of the script has none."""
    try:
        text = read()
    except BaseException as error:  # foreign code: a Rust panic is no Exception
        if is_script_error(error):
            raise
        return ""
    if is_end:
        return redact_text(text[-_READ_CHARACTERS:])[-_CHARACTERS:]
    return redact_text(text[:_READ_CHARACTERS])[:_CHARACTERS]


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))
