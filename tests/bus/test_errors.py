"""Every error is in the tree that the module draws, with the remedy in a sentence."""

from __future__ import annotations

import inspect

import pytest

from lineside.bus import errors
from lineside.bus.errors import (
    BrokerUnreachable,
    BusError,
    LinesideError,
    MissingExtra,
    RunNotFound,
    StoreTooNew,
    UsageError,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, LinesideError)
]


def test_the_drawn_tree_is_the_real_one() -> None:
    depth_of: dict[str, int] = {}
    parents: list[str] = []
    drawn: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        name = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        words = name.split()
        if words and words[0] in vars(errors):
            depth = (len(name) - len(name.lstrip())) // 4
            del parents[depth:]
            drawn[words[0]] = parents[-1] if parents else "Exception"
            parents.append(words[0])
            depth_of[words[0]] = depth
    assert drawn == {each.__name__: each.__bases__[0].__name__ for each in CLASSES}


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_what_was_asked_wrongly_ends_with_2_and_what_failed_with_1(
    each: type[LinesideError],
) -> None:
    assert each.exit_code == (2 if issubclass(each, UsageError) else 1)
    assert each.__doc__


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RunNotFound("x"), ["'x'", "lineside runs"]),
        (RunNotFound("x", ("a", "b")), ["the newest are a, b"]),
        (MissingExtra("the store", "sqlalchemy", "server"), ["pip install 'lineside[server]'"]),
        (BrokerUnreachable("ipc:///b", 2.0), ["ipc:///b", "within 2 s", "lineside up"]),
        (StoreTooNew("sqlite:///s", "9", "1"), ["revision 9", "upgrade Lineside"]),
    ],
)
def test_an_error_has_the_value_and_the_remedy(error: LinesideError, words: list[str]) -> None:
    assert all(word in str(error) for word in words)


def test_a_bus_error_is_no_usage_error() -> None:
    assert not issubclass(BusError, UsageError)
