"""A SIGTERM while training saves and stops; in all other cases it has its usual effect."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from lineside.bus.protocol.commands import Command
from lineside.emitter import LinesideCallback, start_run
from lineside.emitter.control import sigterm
from lineside.emitter.spool import status_page as page_module
from lineside.emitter.spool import status_reader
from lineside.emitter.spool.status_page import FLAGS, STOP_REQUESTED
from lineside.emitter.training import hook_events
from tests.emitter.conftest import ReadSpool
from tests.emitter.control.command_inbox import DeliverAt, while_paused
from tests.emitter.streams import data_of, only, open_publisher
from tests.emitter.training.loops import publisher_of
from tests.support.tiny_trainer import trainer

TERM = signal.SIGTERM


class At(TrainerCallback):
    """Calls ``acts[step]`` when that step begins."""

    def __init__(self, acts: dict[int, Callable[[], object]]) -> None:
        self.acts = acts

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.acts.get(state.global_step + 1, lambda: None)()


@pytest.fixture(autouse=True)
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The signals that reach the script's own handler, which is checked to be put back."""
    seen: list[int] = []
    monkeypatch.setattr(sigterm, "_signalled_pids", [])

    def handler(number: int, frame: object) -> None:
        seen.append(number)

    before = signal.signal(TERM, handler)
    yield seen
    after = signal.signal(TERM, before)
    assert after is handler


def send() -> None:
    signal.raise_signal(TERM)


def test_the_first_sigterm_saves_and_stops_and_is_published_as_a_command(
    home: Path, tmp_path: Path, control_events: ReadSpool, received: list[int]
) -> None:
    made = trainer(tmp_path, At({3: send}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert made.state.global_step == 3
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").exists()
    assert received == [TERM]
    events = only(control_events())
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


def test_a_requested_stop_is_visible_at_once_even_in_an_unmapped_page(
    home: Path, tmp_path: Path, received: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second SIGTERM would end the process in the middle of the save."""
    monkeypatch.setattr(page_module, "filesystem", lambda _: "overlay")
    asked: list[bool] = []

    def look() -> None:
        send()
        fields = status_reader.read_page(open_publisher()._spool.folder.path)
        assert fields is not None
        asked.append(fields.stop_requested)

    trainer(tmp_path, At({2: look}), LinesideCallback(stop_on_sigterm=True)).train()
    assert asked == [True]


@pytest.mark.parametrize(
    ("argument", "variable", "is_on"),
    [(False, None, False), (True, None, True), (False, "1", True), (True, "0", False)],
)
def test_the_environment_overrides_the_argument(
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


def test_two_sigterms_at_once_count_as_one_and_a_later_one_goes_to_the_script(
    home: Path, tmp_path: Path, received: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def thrice() -> None:
        send()
        send()
        assert received == [TERM]
        monkeypatch.setattr(sigterm, "_DUPLICATE_SECONDS", 0.0)
        send()

    made = trainer(tmp_path, At({2: thrice}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert made.state.global_step == 2
    assert received == [TERM, TERM]


def test_a_sigterm_in_a_pause_ends_training(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    delivery = DeliverAt({2: [Command("pause")]})
    made = trainer(tmp_path, delivery, LinesideCallback(stop_on_sigterm=True))
    thread = while_paused(lambda: os.kill(os.getpid(), TERM))
    made.train()
    thread.join()
    assert made.state.global_step == 2
    assert (tmp_path / "checkpoint-2").is_dir()


def test_a_sigterm_in_a_pause_that_cannot_save_ends_training_without(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    """After its evaluation the Trainer decides whether the step is the best, and saved."""
    delivery = DeliverAt({2: [Command("pause"), Command("evaluate")]})
    made = trainer(
        tmp_path,
        delivery,
        LinesideCallback(stop_on_sigterm=True),
        save_strategy="best",
        metric_for_best_model="nothing_ever",
        greater_is_better=True,
        eval_strategy="steps",
        eval_steps=500,
    )
    made._determine_best_metric = lambda *_, **__: False
    thread = while_paused(lambda: os.kill(os.getpid(), TERM))
    made.train()
    thread.join()
    assert made.state.global_step == 2
    answers = only(control_events())
    assert answers[-1].kind == "control_applied"
    assert "without a checkpoint" in data_of(answers[-1])["why"]


@pytest.mark.parametrize("at_a_prompt", [False, True])
def test_a_later_training_of_the_process_is_stopped_too(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_prompt: bool
) -> None:
    if at_a_prompt:
        monkeypatch.setattr(sys, "ps1", "> ", raising=False)
    first = trainer(tmp_path / "1", At({2: send}), LinesideCallback(stop_on_sigterm=True))
    second = trainer(tmp_path / "2", LinesideCallback(stop_on_sigterm=True))
    first.train()
    second.train()
    assert (first.state.global_step, second.state.global_step) == (2, 4 if at_a_prompt else 1)
    pages = [status_reader.read_page(folder) for folder in (home / "spool").glob("*/rank0/*")]
    asked = sorted(page is not None and page.stop_requested for page in pages)
    assert asked == [not at_a_prompt, True], "the process that forwards a signal can see it"


def test_a_replaced_training_loop_counts_as_training(home: Path, tmp_path: Path) -> None:
    class Fast(Trainer):
        """As Unsloth does it."""

        _inner_training_loop = FunctionType(
            Trainer._inner_training_loop.__code__.replace(co_name="_fast_inner_training_loop"),
            Trainer._inner_training_loop.__globals__,
            argdefs=Trainer._inner_training_loop.__defaults__,
        )

    made = trainer(tmp_path, At({2: send}), LinesideCallback(stop_on_sigterm=True), kind=Fast)
    made.train()
    assert made.state.global_step == 2


class Refusing:
    """Accepts commands and refuses each."""

    takes_commands = True

    def request(self, command: Command, on_refused: Callable[[], object]) -> None:
        self.on_refused = on_refused


def test_a_sigterm_whose_stop_is_refused_has_its_usual_effect(home: Path) -> None:
    executor, run = Refusing(), start_run()
    fields = publisher_of(run).fields

    def _inner_training_loop() -> None:
        send()

    own = signal.signal(TERM, signal.SIG_IGN)
    stopping = sigterm.SigtermHandler.install(executor, publisher_of(run))
    assert stopping is not None
    _inner_training_loop()
    assert signal.getsignal(TERM) != signal.SIG_IGN
    assert fields[FLAGS] & STOP_REQUESTED
    executor.on_refused()
    assert not fields[FLAGS] & STOP_REQUESTED
    assert signal.signal(TERM, own) == signal.SIG_IGN
    stopping.uninstall()
    run.finish()


def test_a_sigterm_ends_a_forked_child(home: Path, tmp_path: Path) -> None:
    own = signal.signal(TERM, signal.SIG_DFL)
    ended: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            try:
                # The default action: a process that hangs in C never runs a Python handler.
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


def test_after_an_exception_the_handler_of_the_script_is_back(home: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("x")

    made = trainer(tmp_path, At({2: fail}), LinesideCallback(stop_on_sigterm=True))
    with pytest.raises(ValueError, match="x"):
        made.train()


def test_the_handler_is_put_back_if_the_end_cannot_be_published(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: list[int]
) -> None:
    def fail(state: Any) -> None:
        raise OSError("no")

    def break_it() -> None:
        monkeypatch.setattr(hook_events, "state_facts", fail)

    made = trainer(tmp_path, At({4: break_it}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    send()
    assert received == [TERM]


def test_a_handler_that_the_script_sets_meanwhile_stays(home: Path, tmp_path: Path) -> None:
    before = signal.getsignal(TERM)

    def take_over() -> None:
        signal.signal(TERM, signal.SIG_IGN)

    made = trainer(tmp_path, At({2: take_over}), LinesideCallback(stop_on_sigterm=True))
    made.train()
    assert signal.getsignal(TERM) == signal.SIG_IGN
    signal.signal(TERM, before)


def test_training_in_another_thread_has_no_handler(home: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path, LinesideCallback(stop_on_sigterm=True))
    thread = threading.Thread(target=made.train)
    thread.start()
    thread.join(60)
    assert made.state.global_step == 4
