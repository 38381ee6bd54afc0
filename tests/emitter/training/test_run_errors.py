"""Runs that cannot be opened, used or finished print one line and do not disturb the loop."""

from __future__ import annotations

import errno
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lineside.emitter import Run, start_run
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.spool.status_page import HOOK_ERRORS
from lineside.emitter.training import console, shutdown
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import data_of, only
from tests.emitter.training.loops import page_of, publisher_of

OURS = str(Path(console.__file__).parents[1])


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.log(5),
        lambda run: run.log([1, 2]),
        lambda run: run.log({"a": 1}, step="x"),
        lambda run: run.event("run_end"),
        lambda run: run.event("mine", 5),
        lambda run: run.event(["no", "kind"]),
    ],
)
def test_mistakes_of_the_caller_are_counted_and_printed_once(
    home: Path, capsys: pytest.CaptureFixture[str], call: Callable[[Run], None]
) -> None:
    run = start_run()
    page = page_of(run)
    call(run)
    call(run)
    run.log("and another mistake")  # type: ignore[arg-type]
    assert page.fields[HOOK_ERRORS] == 3
    assert capsys.readouterr().err.count("a hook failed, training goes on") == 1


def test_an_interrupt_while_logging_passes(home: Path) -> None:
    class Stopping:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_run().log({"a": Stopping()})
    with pytest.raises(KeyboardInterrupt):
        start_run().event("x", {"a": Stopping()})


def test_an_unusable_spool_folder_loses_no_event(
    home: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may report a stale file handle for a moment."""

    def stale(*_: object, **__: object) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    run = start_run()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", stale)
        publisher_of(run)._next_maintain_ns = 0
        run.log({"a": 1})
        patch.setattr(type(publisher_of(run)._shipper_starter), "ensure", stale)
        publisher_of(run)._next_maintain_ns = 0
        run.log({"a": 2})
        publisher_of(run)._next_maintain_ns = 0
        publisher_of(run).maintain_if_due()
    run.finish()
    logs = [data_of(event)["logs"] for event in only(spool_events()) if event.kind == "log"]
    assert logs == [{"a": 1}, {"a": 2}]


class Preempted(TimeoutError):
    """Raised by a signal handler of the script; an OSError, as errors of files are."""


class Handler:
    def __call__(self, *_: object) -> None:
        raise Preempted

    def method(self, *_: object) -> None:
        raise Preempted


def preempt(*_: object) -> None:
    raise Preempted


def preempt_once(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Preempted


HANDLERS = (
    preempt,
    preempt_once,
    Handler(),
    Handler().method,
    functools.partial(preempt, 1),
)


@pytest.fixture(params=HANDLERS)
def alarm(request: pytest.FixtureRequest) -> Iterator[None]:
    """The handler of SIGALRM raises."""
    before = signal.signal(signal.SIGALRM, request.param)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_exception_of_a_signal_handler_passes_during_a_wait(
    home: Path, alarm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = shutdown.wait

    def wait_with_alarm(*answers: Unconfirmed) -> bool:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        return wait(*answers)

    monkeypatch.setattr(shutdown._state, "budget", 5.0)
    monkeypatch.setattr(shutdown, "wait", wait_with_alarm)
    run = start_run()
    run.log({"a": 1.0})
    with pytest.raises(Preempted):
        run.finish()


@pytest.mark.parametrize("alarm", [preempt], indirect=True)
def test_an_exception_of_a_signal_handler_passes_at_any_point(home: Path, alarm: None) -> None:
    run = start_run()
    page = page_of(run)
    struck = passed = 0
    is_due = False

    def strike(_: int, frame: FrameType | None) -> None:
        nonlocal struck, is_due
        is_due = False
        if frame is not None and frame.f_code.co_filename.startswith(OURS):
            struck += 1
            raise Preempted

    signal.signal(signal.SIGALRM, strike)
    while struck < 300:
        if not is_due:
            is_due = True
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            run.log({"a": 1.0, "deep": {"b": [1, 2]}}, step=1)
        except Preempted:
            passed += 1
    assert passed == struck
    assert page.fields[HOOK_ERRORS] == 0


class Incomparable:
    """Like an array: a comparison is not a truth value."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_logged_values_are_not_compared_to_find_the_source_of_an_error(
    home: Path, spool_events: ReadSpool
) -> None:
    def fail(*values: object) -> str:
        raise RuntimeError(values)

    class Failing:
        def __repr__(self) -> str:
            return fail(Incomparable())

    with pytest.raises(RuntimeError) as raised:
        fail(Incomparable())
    assert not is_script_error(raised.value)
    start_run().log({"a": Failing(), "b": 1})
    [events] = spool_events().values()
    logs = (events[-1].data or {})["logs"]
    assert logs["b"] == 1


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"LINESIDE_DISABLED": "1"}, "off: LINESIDE_DISABLED is set"),
        ({"LINESIDE_DISABLED": "perhaps"}, "LINESIDE_DISABLED='perhaps' cannot be used"),
        ({"LINESIDE_RUN_ID": "../up"}, "LINESIDE_RUN_ID='../up' cannot be used"),
        ({"LINESIDE_SPOOL": "/dev/null/spool"}, "cannot be made"),
        ({"LINESIDE_SPOOL": "relative"}, "expected an absolute path"),
    ],
)
def test_an_unusable_setting_turns_lineside_off_and_is_printed_once(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    env: dict[str, str],
    message: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for _ in range(3):
        with start_run() as run:
            run.log({"a": 1})
            run.event("b")
        assert (run.id, run.attempt, run.is_open) == ("", "", False)
    error = capsys.readouterr().err
    assert error.count("lineside:") == 1
    assert message in error


def test_an_invalid_run_id_turns_lineside_off(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not start_run(run_id="no/slash").is_open
    assert "run_id='no/slash' cannot be used" in capsys.readouterr().err


def test_without_stderr_nothing_is_printed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setenv("LINESIDE_DISABLED", "1")
    assert not start_run().is_open


def test_an_unexpected_error_while_opening_turns_lineside_off(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lineside.emitter.training.run._identify", fail)
    assert not start_run().is_open
    assert "off: ZeroDivisionError()" in capsys.readouterr().err


def test_an_error_while_finishing_does_not_reach_the_script(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start_run()

    def fail(*given: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(publisher_of(run), "close", fail)
        run.finish()
    assert "a hook failed" in capsys.readouterr().err

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publisher_of(run), "close", stop)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
