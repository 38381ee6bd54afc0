"""The file that a subscriber keeps its state in: locked, in transactions, with errors to act on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lineside.bus.errors import AddressInUse
from lineside.subscribers.state.state_file import StateFile, StateFileError


class Counters(StateFile):
    tables = "CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL)"
    owner = "a counter runs on this home"
    remedy = "free disk space"

    def add(self, *names: str) -> None:
        with self.transaction():
            for name in names:
                with self.transaction() as db:
                    db.execute("INSERT INTO counters VALUES (?, 1)", (name,))

    @property
    def names(self) -> list[str]:
        return [name for (name,) in self.fetch("SELECT name FROM counters ORDER BY name")]


def test_a_state_is_kept_for_the_next_process(tmp_path: Path) -> None:
    file = Counters(tmp_path / "made" / "counters.db")
    file.add("a")
    file.sync()
    file.close()
    file.close()
    again = Counters(tmp_path / "made" / "counters.db")
    assert again.names == ["a"]
    again.close()


def test_a_transaction_within_another_is_kept_or_dropped_with_it() -> None:
    file = Counters()
    with pytest.raises(StateFileError, match="UNIQUE constraint"):
        file.add("a", "b", "a")
    assert file.names == []
    file.add("a", "b")
    assert file.names == ["a", "b"]
    file.close()


def test_a_state_file_belongs_to_one_process(tmp_path: Path) -> None:
    file = Counters(tmp_path / "counters.db")
    with pytest.raises(AddressInUse, match="a counter runs on this home"):
        Counters(tmp_path / "counters.db")
    file.close()
    Counters(tmp_path / "counters.db").close()


@pytest.mark.parametrize("name", ["counters.db", "counters.lock"])
def test_a_file_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / "counters.db").write_bytes(b"no database" * 100)
    if name == "counters.lock":
        (tmp_path / name).symlink_to(tmp_path / "nowhere" / "at-all")
    with pytest.raises(StateFileError, match=r"the state file .*counters\.db .*: free disk space"):
        Counters(tmp_path / "counters.db")


def test_a_file_is_closed_only_between_two_transactions_of_another_thread(tmp_path: Path) -> None:
    file = Counters(tmp_path / "counters.db")
    with file.transaction() as db:
        closer = threading.Thread(target=file.close)
        closer.start()
        closer.join(0.2)
        db.execute("INSERT INTO counters VALUES ('a', 1)")  # SQLite would crash the process
    closer.join()
    again = Counters(tmp_path / "counters.db")
    assert again.names == ["a"]
    again.close()
