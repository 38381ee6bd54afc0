"""The recorder's loop, called in this process."""

from __future__ import annotations

import time

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.store.history.history import History
from lineside.subscribers.recorder.recorder import Recorder
from tests.subscribers.recorder.published_run import Training
from tests.support.waiting import wait_until


def test_run_once_returns_soon_when_nothing_arrives(
    settings: Settings, broker: BrokerProcess
) -> None:
    recorder = Recorder(settings)
    recorder.startup()
    began = time.monotonic()
    recorder.run_once()
    assert time.monotonic() - began < 5
    recorder.shutdown()


def test_a_journal_that_changes_between_two_batches_splits_the_transaction(
    settings: Settings, broker: BrokerProcess, history: History
) -> None:
    """In this process, so that the change comes between two polls of one transaction."""
    recorder = Recorder(settings)
    recorder.startup()
    try:
        with Training(broker.address) as training:
            training.train(3)
            training.producer.flush()
        wait_until(lambda: _run_once(recorder) and training.is_recorded(history), "the first part")
        old = recorder.reader.journal
        assert old is not None
        broker.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        broker.start()
        with Training(broker.address) as again:
            again.train(6)
            again.producer.flush()
            wait_until(lambda: _run_once(recorder) and again.is_recorded(history), "the second")
            again.check(history)
        new = recorder.reader.journal
        assert new not in (None, old)
        assert recorder.writer.offset(old) > 0
        assert recorder.writer.position() == (new, recorder.writer.offset(str(new)))
    finally:
        recorder.shutdown()


def _run_once(recorder: Recorder) -> bool:
    recorder.run_once()
    return True
