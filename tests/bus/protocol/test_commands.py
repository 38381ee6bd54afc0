"""Valid and invalid commands, and their form on the bus."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from lineside.bus.errors import CommandError
from lineside.bus.protocol.commands import EXPIRES_SECONDS, OPS, Command, describe_request


def test_a_command_survives_the_way_over_the_bus() -> None:
    command = Command("set_lr", {"lr": 0.1}, "too slow", "ann@host", 5e9, "abc", "a1")
    assert Command.from_data(command.to_data()) == command
    assert Command.from_data(command.to_data() | {"later": "field"}) == command


def test_what_is_left_out_is_made_up() -> None:
    first, second = Command("save"), Command("save")
    assert first.id != second.id
    assert "@" in first.issued_by
    assert first.expires_at == pytest.approx(time.time() + EXPIRES_SECONDS, abs=5)


ARGS: dict[str, dict[str, Any]] = {"set_lr": {"lr": 1}}


@pytest.mark.parametrize("op", OPS)
def test_every_op_can_be_asked_for(op: str) -> None:
    assert Command(op, ARGS.get(op, {})).op == op


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"op": "explode"}, "op: 'explode' is not valid; expected one of stop, .*, set_lr$"),
        ({"op": 5}, "op: 5 is not valid"),
        ({"op": "set_lr"}, "set_lr lr: is missing; expected a number above 0 and at most 1,000"),
        ({"op": "set_lr", "args": {"lr": 0}}, "set_lr lr: 0 is not valid"),
        ({"op": "set_lr", "args": {"lr": 1e300}}, "set_lr lr: 1e\\+300 is not valid"),
        ({"op": "set_lr", "args": {"lr": math.nan}}, "set_lr lr: nan is not valid"),
        ({"op": "set_lr", "args": {"lr": True}}, "set_lr lr: True is not valid"),
        ({"op": "set_lr", "args": {"lr": "1"}}, "set_lr lr: '1' is not valid"),
        ({"op": "stop", "args": {"save": 1}}, "stop save: 1 is not valid; expected true or false"),
        ({"op": "save", "args": {"now": 1}}, "save now: 1 is not valid; expected no arguments"),
        (
            {"op": "stop", "args": {"lr": 1}},
            "stop lr: 1 is not valid; expected only the argument save",
        ),
        ({"op": "save", "args": [1]}, "args: .1. is not valid"),
        ({"op": "save", "reason": 5}, "reason: 5 is not valid"),
        ({"op": "save", "attempt": 1}, "attempt: 1 is not valid; expected a text"),
        ({"op": "save", "id": "x" * 65}, "id: 'x+' is not valid"),
        ({"op": "save", "expires_at": -1}, "expires_at: -1 is not valid"),
    ],
)
def test_what_cannot_be_a_command_is_named(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(CommandError, match=expected):
        Command(**given)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("stop", {}, "stop"),
        ("stop", {"save": True}, "stop"),
        ("stop", {"save": False}, "stop without saving"),
        ("pause", {}, "pause"),
        ("pause", {"seconds": 100_000.0}, "pause 100000 s"),
        ("set_lr", {"lr": 1e-5}, "set_lr 1e-05"),
        ("set_lr", {"lr": "x"}, "set_lr x"),
        ("brand_new", {"x": 1}, "brand_new"),
    ],
)
def test_a_request_is_described_with_its_arguments(
    op: str, args: dict[str, Any], expected: str
) -> None:
    assert describe_request(op, args) == expected


@pytest.mark.parametrize("data", [None, {}, {"op": "save"}, {"id": "a"}])
def test_an_event_that_is_no_command_is_refused(data: dict[str, Any] | None) -> None:
    with pytest.raises(CommandError):
        Command.from_data(data)
