"""The file of a subscriber: a batch is one transaction, and publications keep their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.errors import AddressInUse
from lineside.bus.protocol.events import Stream
from lineside.subscribers.state.subscriber_state import (
    RETENTION_SECONDS,
    Publication,
    SubscriberState,
)

STREAM = Stream("run", "rank0", "a")
OWN = Stream("run", "counter", "a")


def publication(step: int) -> Publication:
    return Publication(OWN, "metrics", step, 0.5, 1000.0, {"metrics": {"x": step}})


def test_a_batch_is_kept_for_the_next_process(tmp_path: Path) -> None:
    unused = SubscriberState.of(tmp_path, "counter")
    assert unused.is_new
    unused.close()
    file = SubscriberState.of(tmp_path, "counter")
    assert file.is_new
    file.mark_used()
    file.save("run", '{"n": 3}', {"step": 7}, {STREAM: 9}, [publication(7)])
    file.sync()
    file.close()
    again = SubscriberState.of(tmp_path, "counter")
    saved = again.load("run")
    assert (saved.state, saved.context, saved.next_seqs) == ({"n": 3}, {"step": 7}, {STREAM: 9})
    assert not again.is_new
    assert again.attempt == file.attempt
    assert again.load("other").state == {}
    again.close()


def test_publications_keep_their_numbers_until_the_journal_has_them() -> None:
    file = SubscriberState()
    file.save("run", "{}", {}, {}, [publication(step) for step in range(5)])
    assert [one.seq for one in file.pending(OWN, 10, 3)] == [10, 11, 12]
    assert [one.seq for one in file.pending(OWN, 12, 9)] == [12, 13, 14]
    assert [one.publication.step for one in file.pending(OWN, 12, 9)] == [2, 3, 4]
    assert file.pending_streams() == [OWN]
    assert file.pending(OWN, 15, 9) == []
    assert file.pending_streams() == []
    file.close()


def test_publications_get_new_numbers_in_a_new_journal() -> None:
    file = SubscriberState()
    file.save("run", "{}", {}, {}, [publication(1), publication(2)])
    assert [one.seq for one in file.pending(OWN, 7, 9)] == [7, 8]
    assert [one.seq for one in file.pending(OWN, 0, 9)] == [0, 1]
    file.close()


def test_refused_publications_are_discarded() -> None:
    file = SubscriberState()
    file.publish(publication(1))
    assert file.discard(OWN) == 1
    assert file.pending_streams() == []
    file.close()


def test_runs_without_changes_are_pruned() -> None:
    file = SubscriberState()
    file.save("run", '{"n": 1}', {}, {STREAM: 1}, [])
    file.prune()
    assert file.load("run").state == {"n": 1}
    file.prune(now=2e9 + RETENTION_SECONDS)
    assert file.load("run").state == {}
    assert file.load("run").next_seqs == {}
    file.close()


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    file = SubscriberState.of(tmp_path, "counter")
    with pytest.raises(AddressInUse, match="a subscriber of this name runs on this home"):
        SubscriberState.of(tmp_path, "counter")
    file.close()
    SubscriberState.of(tmp_path, "counter").close()
