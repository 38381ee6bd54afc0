"""SIGTERM while training: one that saves and stops, and everything else as it was without us."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from lineside.bus.commands import Command
from lineside.emitter import LinesideCallback, signals
from tests.emitter.conftest import ReadSpool
from tests.emitter.desk import Asking, while_paused
from tests.emitter.streams import data_of, only
from tests.emitter.training import trainer

TERM = signal.SIGTERM


class At(TrainerCallback):
    """Does what ``acts`` has for a step when that step begins."""

    def __init__(self, acts: dict[int, Callable[[], object]]) -> None:
        self.acts = acts

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.acts.get(state.global_step + 1, lambda: None)()


@pytest.fixture(autouse=True)
def received() -> Iterator[list[int]]:
    """The signals that reach the script's own handler, which is there again afterwards."""
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)

    before = signal.signal(TERM, handler)
    yield seen
    after = signal.signal(TERM, before)
    assert after is handler


def send() -> None:
    signal.raise_signal(TERM)


def test_the_first_saves_and_stops_and_is_told_as_a_command(
    home: Path, tmp_path: Path, answered: ReadSpool, received: list[int]
) -> None:
    made = trainer(tmp_path, At({3: send}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert made.state.global_step == 3
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").exists()
    assert received == [TERM]
    events = only(answered())
    assert [event.kind for event in events] == [
        "control_on",
        "command",
        "control_delivered",
        "control_applied",
    ]
    asked, applied = data_of(events[1]), data_of(events[3])
    assert (asked["op"], asked["args"], asked["issued_by"]) == ("stop", {}, "SIGTERM")
    assert (applied["id"], applied["issued_by"]) == (asked["id"], "SIGTERM")
    assert events[3].step == 3


@pytest.mark.parametrize(
    ("argument", "variable", "is_on"),
    [(False, None, False), (True, None, True), (False, "1", True), (True, "0", False)],
)
def test_the_environment_has_the_last_word(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argument: bool,
    variable: str | None,
    is_on: bool,
) -> None:
    if variable is not None:
        monkeypatch.setenv("LINESIDE_STOP_ON_SIGTERM", variable)
    made = trainer(tmp_path, At({2: send}), LinesideCallback(stop_on_sigterm=argument))
    made.train()
    assert made.state.global_step == (2 if is_on else 4)


def test_two_at_once_are_one_and_a_later_one_is_the_scripts(
    home: Path, tmp_path: Path, received: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def thrice() -> None:
        send()
        send()
        assert received == [TERM]
        monkeypatch.setattr(signals, "_SAME_SECONDS", 0.0)
        send()

    made = trainer(tmp_path, At({2: thrice}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert made.state.global_step == 2
    assert received == [TERM, TERM]


def test_one_in_a_pause_ends_it(home: Path, tmp_path: Path, answered: ReadSpool) -> None:
    asking = Asking({2: [Command("pause")]})
    made = trainer(tmp_path, asking, LinesideCallback(stop_on_sigterm=True))
    thread = while_paused(lambda: os.kill(os.getpid(), TERM))
    made.train()
    thread.join()
    assert made.state.global_step == 2
    assert (tmp_path / "checkpoint-2").is_dir()


def test_a_forked_child_is_ended_as_ever(home: Path, tmp_path: Path) -> None:
    own = signal.signal(TERM, signal.SIG_DFL)
    ended: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            try:
                # As the system has it: what hangs in C never comes to a handler of Python's.
                assert signal.getsignal(TERM) == signal.SIG_DFL
                send()
            finally:
                os._exit(1)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    made = trainer(tmp_path, At({2: fork}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert ended == [-TERM]
    assert made.state.global_step == 4
    assert signal.signal(TERM, own) == signal.SIG_DFL


def test_after_an_exception_the_scripts_handler_is_back(home: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("x")

    made = trainer(tmp_path, At({2: fail}), LinesideCallback(stop_on_sigterm=True))
    with pytest.raises(ValueError, match="x"):
        made.train()


def test_a_handler_that_the_script_sets_meanwhile_stays(home: Path, tmp_path: Path) -> None:
    before = signal.getsignal(TERM)

    def take_over() -> None:
        signal.signal(TERM, signal.SIG_IGN)

    made = trainer(tmp_path, At({2: take_over}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert signal.getsignal(TERM) == signal.SIG_IGN
    signal.signal(TERM, before)


def test_in_another_thread_training_goes_on_without_it(home: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path, LinesideCallback(stop_on_sigterm=True))
    thread = threading.Thread(target=made.train)
    thread.start()
    thread.join(60)
    assert made.state.global_step == 4
