"""The watcher knows whether a producer lives."""

from __future__ import annotations

import os
import select
import signal

from lineside.emitter.shipper.process_watcher import ProcessWatcher
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.stream_folder import LOCK_NAME
from tests.emitter.shipping import Bench


def test_a_killed_producer_is_gone_and_its_pidfd_is_readable_at_once(bench: Bench) -> None:
    producer = bench.producer()
    watcher = ProcessWatcher(producer.folder)
    watcher.start()
    watcher.start()
    assert watcher.fd is not None
    assert not watcher.is_gone(0.0)
    os.kill(producer.process.pid, signal.SIGKILL)
    assert select.select([watcher.fd], [], [], 5.0)[0]
    assert watcher.is_gone(0.0)
    watcher.stop()
    watcher.stop()


def test_a_forked_child_does_not_keep_a_killed_producer_alive(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("fork")
    watcher = ProcessWatcher(producer.folder)
    os.kill(producer.process.pid, signal.SIGKILL)
    producer.process.wait()
    assert watcher.is_gone(0.0)


def test_a_producer_that_released_its_lock_lives_as_long_as_its_process(bench: Bench) -> None:
    """A script that copies the spool releases every lock of its process."""
    producer = bench.producer()
    watcher = ProcessWatcher(producer.folder)
    watcher.start()
    producer.send("read")
    assert liveness_lock.holder_pid(producer.folder / LOCK_NAME) is None
    assert not watcher.is_gone(0.0, has_closed=False)
    assert watcher.is_gone(0.0, has_closed=True)
    late = ProcessWatcher(producer.folder)
    late.start()
    assert late.is_gone(0.0, has_closed=False), "a late watcher cannot know whose process it is"
    late.stop()
    producer.send("maintain")
    assert liveness_lock.holder_pid(producer.folder / LOCK_NAME) == producer.process.pid
    producer.send("read")
    producer.kill()
    assert watcher.is_gone(0.0, has_closed=False)
    watcher.stop()


def test_a_producer_that_begins_another_program_is_gone(bench: Bench) -> None:
    """The process keeps its id, the training has ended."""
    producer = bench.producer()
    watcher = ProcessWatcher(producer.folder)
    watcher.start()
    producer.send("exec")
    assert producer.process.poll() is None
    assert watcher.is_gone(0.0, has_closed=False)
    watcher.stop()


def test_a_missing_lock_file_proves_an_end_only_after_five_seconds(bench: Bench) -> None:
    producer = bench.producer()
    watcher = ProcessWatcher(producer.folder)
    (producer.folder / LOCK_NAME).unlink()
    assert not watcher.is_gone(100.0)
    assert not watcher.is_gone(104.0)
    producer.send("maintain")  # a live producer makes it again
    assert not watcher.is_gone(106.0)
    (producer.folder / LOCK_NAME).unlink()
    assert not watcher.is_gone(107.0)
    assert watcher.is_gone(112.0)


def test_a_process_of_another_machine_is_watched_by_its_lock_alone(bench: Bench) -> None:
    producer = bench.producer()
    (producer.folder / "stream.json").write_text('{"pid": 1, "host": "elsewhere"}')
    watcher = ProcessWatcher(producer.folder)
    watcher.start()
    assert watcher.fd is None
    assert not watcher.is_gone(0.0)
