"""Describes exceptions in events and messages, with secrets redacted."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from lineside.emitter.spool.sanitize import Limits, Sanitizer
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.redaction import redact

_CHARACTERS = 8_192


def error_facts(error: BaseException | None) -> dict[str, str] | None:
    """Type, message and the last 8,192 characters of the traceback, as in ``run_end``."""
    if error is None:
        return None
    return {
        "type": type(error).__qualname__,
        "message": _text(lambda: str(error)),
        "traceback": _text(lambda: _traceback(error)),
    }


def one_line(error: BaseException) -> str:
    """Type and message in at most 200 characters."""
    return f"{type(error).__qualname__}: {_text(lambda: str(error))}"[:200]


def _text(read: Callable[[], str]) -> str:
    """The text, sanitized and redacted; empty if an exception of the script cannot be printed."""
    try:
        return str(redact(Sanitizer(Limits(text=_CHARACTERS)).sanitize(read())))
    except BaseException as error:  # foreign code: a Rust panic is no Exception
        if is_script_error(error):
            raise
        return ""


def _traceback(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)[-_CHARACTERS:]
