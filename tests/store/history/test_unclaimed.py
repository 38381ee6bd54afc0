"""Events without a run to show, and loops that take commands."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import Engine

from lineside.bus.protocol.events import RANK_0
from lineside.store.history.history import History
from lineside.store.history.unclaimed import unclaimed_runs
from lineside.store.recording.writer import Writer
from lineside.subscribers.recorder.unclaimed_log import CHECK_SECONDS, UnclaimedLog
from tests.store.trainer import ATTEMPT, FakeJournal, FakeProducer


def test_a_run_without_rank0_is_found_and_logged_once(
    writer: Writer, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    journal, script, trainer = FakeJournal(writer), FakeProducer("lost", "main"), FakeProducer()
    script.emit("log", {"logs": {"loss": 1.0}})
    trainer.begin()
    journal.deliver(script, trainer)
    assert unclaimed_runs(engine) == {"lost": ["main"]}

    unclaimed_log = UnclaimedLog()
    with caplog.at_level(logging.WARNING, "lineside"):
        for number in range(1, 5):
            unclaimed_log.check(engine, number * CHECK_SECONDS)
    [message] = caplog.messages
    assert "events of run lost come from main: no run is shown until" in message

    late = FakeProducer("lost")
    late.begin()
    journal.deliver(late)
    assert unclaimed_runs(engine) == {}


@pytest.mark.parametrize("announces", [True, False])
def test_a_loop_takes_commands_if_it_announces_that(
    announces: bool, writer: Writer, history: History
) -> None:
    trainer, control = FakeProducer("run", RANK_0, ATTEMPT), FakeProducer("run", "control", ATTEMPT)
    trainer.begin(source="loop")
    if announces:
        control.emit("control_on", {"ops": ["stop"], "why": None})
    FakeJournal(writer).deliver(trainer, control)
    reason = history.commands_unavailable_reason(history.run("run"))
    assert reason == ("" if announces else "It is a loop with start_run, which takes no commands.")
