"""Calls of the job's store are made by a thread that may hang in them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lineside.emitter.training import job_store
from lineside.emitter.training.job_store import ConsensusError, JobStore
from tests.emitter.training.stores import FakeJobStore
from tests.support.waiting import DEADLINE

EXIT = """
import atexit, time
class Frozen:
    def __getattr__(self, name): return lambda *given: time.sleep(300)
class Well:
    def __getattr__(self, name): return lambda *given: True
atexit.register(lambda: print(time.monotonic() - ended))
from lineside.emitter.training import job_store
kept = []
for store in [Well()] * 3 + [Frozen()] * 4:
    job_store.job_store = lambda: store
    kept.append(job_store.JobStore("keys", 0.1))
    kept[-1].set_nowait("name", 1)
ended = time.monotonic()
"""


def test_a_process_with_several_frozen_stores_ends_in_time() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    assert ended.stderr == ""
    assert float(ended.stdout) < 6  # 2 s, and not 2 s for each


def test_a_store_is_used_again_once_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FakeJobStore()
    monkeypatch.setattr(job_store, "job_store", lambda: store)
    keys = JobStore("keys", 0.1)
    store.is_responding.clear()
    for _ in range(2):
        with pytest.raises(ConsensusError, match="the job's store did not answer"):
            keys.set("name", 1)
    store.is_responding.set()
    keys._timeout = 10.0
    deadline = time.monotonic() + 10
    while keys._is_overdue():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert keys.find("name") == 1
    keys.close()
