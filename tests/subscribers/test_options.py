"""Options of ``lineside subscriber`` become arguments as the annotations of the class ask for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from lineside.bus.errors import UsageError
from lineside.subscribers import Subscriber
from lineside.subscribers.options import load_class, parse_options


class Level(Enum):
    low = 1
    high = 2


class Every(Subscriber):
    def __init__(
        self,
        text: str = "",
        count: int = 0,
        part: float | None = None,
        flag: bool = False,
        folder: Path = Path(),
        color: Literal["red", "blue"] = "red",
        level: Level = Level.low,
        names: list[str] | None = None,
        numbers: Sequence[int] = (),
        loose: Any = None,
    ) -> None: ...


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("text=a=b", "a=b"),
        ("count=-3", -3),
        ("part=1e-3", 0.001),
        ("part=", None),
        ("flag=yes", True),
        ("flag=False", False),
        ("folder=a/b", Path("a/b")),
        ("color=blue", "blue"),
        ("level=high", Level.high),
        ("names=a, b", ["a", "b"]),
        ("numbers=1,2", [1, 2]),
        ("loose=x", "x"),
    ],
)
def test_a_value_is_read_as_its_annotation_asks(option: str, value: Any) -> None:
    assert parse_options(Every, [option]) == {option.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("count=3.5", "-o count=3.5: expected a whole number"),
        ("part=x", "-o part=x: expected a number"),
        ("flag=maybe", "-o flag=maybe: expected true or false"),
        ("color=green", "-o color=green: expected one of red, blue"),
        ("level=3", "-o level=3: expected one of low, high"),
        ("numbers=1,x", "-o numbers=1,x: expected a whole number"),
        ("colour=red", "-o colour=red: Every has the options text, count"),
        ("text", "-o text: expected key=value"),
    ],
)
def test_an_invalid_option_is_named_with_the_expectation(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_options(Every, [option])


def test_a_class_without_a_constructor_has_no_options() -> None:
    assert parse_options(Subscriber, []) == {}
    with pytest.raises(UsageError, match="Subscriber has the options none"):
        parse_options(Subscriber, ["x=1"])


@pytest.mark.parametrize("target", ["../bad:Args", "a/b:C", ".:C", "a-b:C"])
def test_a_path_instead_of_a_module_is_an_error_with_the_expected_form(target: str) -> None:
    with pytest.raises(UsageError, match="is no module's name: expected MODULE:CLASS"):
        load_class(target)
