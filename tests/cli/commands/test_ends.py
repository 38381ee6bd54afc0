"""The status and the end of runs at the command line."""

from __future__ import annotations

import time

from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from tests.cli.homes import Home
from tests.store.trainer import FakeJournal, FakeProducer, heartbeat

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py"\nValueError: bad batch\n'


def test_a_failure_shows_its_traceback_and_a_pause_is_shown(home: Home) -> None:
    home.path.mkdir(mode=0o700, exist_ok=True)
    store = open_store(f"sqlite:///{home.path}/store.db", create=True)
    failed, held = FakeProducer("bad", at=time.time()), FakeProducer("held", at=time.time())
    shipper = FakeProducer("held", "shipper")
    failed.begin()
    error = {"type": "ValueError", "message": "bad batch", "traceback": TRACEBACK}
    failed.emit("train_error", {"error": error})
    held.begin()
    shipper.emit("heartbeat", heartbeat(held, phase="paused"))
    FakeJournal(Writer(store)).deliver(failed, held, shipper)
    store.dispose()

    shown = home.lineside("show", "bad").stdout
    assert "(failed): ValueError: bad batch\n" in shown
    assert f"\n\nTraceback of rank0\n{TRACEBACK}" in shown
    assert "Traceback" not in home.lineside("show", "held").stdout
    assert "running (paused)" in home.lineside("runs").stdout
