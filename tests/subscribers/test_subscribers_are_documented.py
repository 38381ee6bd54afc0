"""Every kind of event has a method, a class and a row in the reference."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import lineside.subscribers
from lineside.bus.protocol.event_kinds import KINDS
from lineside.subscribers import RunContext, RunEvent, Subscriber, testing
from lineside.subscribers.event_types import EVENT_TYPES
from lineside.subscribers.state.subscriber_state import SavedRun

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "subscribers.md"
TEXT = PAGE.read_text()
METHODS = {name for name, _ in inspect.getmembers(Subscriber, inspect.isfunction)}


def public(owner: type) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def test_every_kind_has_a_declared_method_of_its_name() -> None:
    hooks = {"on_event", "tick", "flush", "close"}
    assert {f"on_{kind}" for kind in KINDS} | hooks == METHODS


def test_every_method_is_annotated_with_the_class_of_its_event() -> None:
    for kind, event_type in EVENT_TYPES.items():
        parameters = inspect.signature(getattr(Subscriber, f"on_{kind}")).parameters
        assert parameters["run"].annotation == "RunContext"
        assert parameters["event"].annotation == event_type.__name__, kind


def test_every_method_and_its_event_is_in_the_reference() -> None:
    rows = dict(re.findall(r"^\| `(on_\w+)` \| `(\w*Event)` \|", TEXT, re.M))
    expected = {f"on_{kind}": event_type.__name__ for kind, event_type in EVENT_TYPES.items()}
    assert rows == {**expected, "on_event": "RunEvent"}
    for name in ("tick", "flush", "close"):
        assert f"| `{name}(self, run" in TEXT


def test_every_event_class_and_its_fields_are_in_the_reference() -> None:
    rows = dict(re.findall(r"^\| `(\w+Event)` \| (.*) \|$", TEXT, re.M))
    classes = {*EVENT_TYPES.values(), RunEvent}
    assert set(rows) == {one.__name__ for one in classes}
    assert classes <= {getattr(lineside.subscribers, one.__name__) for one in classes}
    for one in classes - {RunEvent}:
        for name in public(one):
            assert f"`{name}`" in rows[one.__name__], f"{one.__name__}.{name}"
    for name in public(RunEvent) - {"event"}:
        assert f"`{name}`" in TEXT, name


def test_every_setting_of_the_class_is_in_the_reference() -> None:
    settings = public(Subscriber) - METHODS
    for name in settings:
        value = getattr(Subscriber, name)
        assert re.search(rf"^\| `{name}` \| (`{re.escape(str(value))}`|empty) \|", TEXT, re.M), name


def test_every_member_of_the_context_is_in_the_reference() -> None:
    made = RunContext("run", "name", "attempt", SavedRun())
    for name in public(RunContext) | {name for name in vars(made) if not name.startswith("_")}:
        assert re.search(rf"`{name}[`(]", TEXT), name


def test_everything_for_tests_is_in_the_reference() -> None:
    for name in ("deliver", "synthetic_run", "recorded_run"):
        parameters = inspect.signature(getattr(testing, name)).parameters
        found = re.search(rf"^\| `{name}\((.*?)\)`", TEXT, re.M)
        assert found
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b", found[1]), f"{name} {parameter}"
    fields = {field.name for field in dataclasses.fields(testing.Outcome)}
    for name in public(testing.Outcome) | fields:
        assert f"`{name}`" in TEXT, name
