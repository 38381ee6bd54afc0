"""The watchdog's file on a disk that is full, and one that is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.errors import AddressInUse
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.watchdog.alert import Alert
from lineside.subscribers.watchdog.state import AlertRecord, WatchdogState


def record(alert_id: str, summary: str = "") -> AlertRecord:
    return AlertRecord(
        Alert(alert_id, "", "", "", alert_id, "", "open", "critical", summary, "", 1.0, 1.0)
    )


def fill_disk(state: WatchdogState) -> None:
    """Leave no page to the file."""
    ((pages,),) = state.fetch("PRAGMA page_count")
    state.fetch(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StateFileError):
        state.save_alert(record("large", "x" * 100_000))


def names(state: WatchdogState) -> list[str]:
    return sorted(one.alert.id for one in state.alerts())


def test_on_a_full_disk_the_state_goes_on_in_memory_and_returns_to_the_file(tmp_path: Path) -> None:
    state = WatchdogState.of_home(tmp_path)
    state.save_alert(record("before"))
    attempt = state.attempt
    fill_disk(state)
    assert state.leave_file()
    assert not state.leave_file(), "it is in memory already"
    state.save_alert(record("large", "x" * 100_000))
    state.publish_alert(record("large").alert)
    assert names(state) == ["before", "large"]
    assert state.return_to_file()
    state.save_alert(record("after"))
    state.close()

    again = WatchdogState.of_home(tmp_path)
    assert names(again) == ["after", "before", "large"]
    assert again.attempt == attempt
    assert len(again.pending_streams()) == 1
    again.close()


def test_a_file_that_cannot_be_opened_is_replaced_once_it_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "subscribers" / "watchdog.1.db"
    file.parent.mkdir(mode=0o700)
    file.mkdir()
    state = WatchdogState.of_home(tmp_path)
    assert state.is_in_memory
    assert "alerts are kept in memory" in caplog.text
    state.save_alert(record("one"))
    assert not state.return_to_file()
    with pytest.raises(AddressInUse):
        WatchdogState(file)
    file.rmdir()
    assert state.return_to_file()
    state.close()
    again = WatchdogState.of_home(tmp_path)
    assert (names(again), again.is_in_memory) == (["one"], False)
    again.close()


def test_what_can_be_read_of_the_file_is_in_memory_too(tmp_path: Path) -> None:
    file = tmp_path / "watchdog.db"
    first = WatchdogState(file)
    first.save_alert(record("one"))
    first.close()
    state = WatchdogState(file, in_memory=True)
    assert names(state) == ["one"]
    assert (state.attempt, state.began_at) == (first.attempt, first.began_at)
    state.close()
