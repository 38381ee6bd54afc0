from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.bus.auth.keyring import KEY, TOKEN, Keyring, listen_key_pair, token_hash
from lineside.bus.errors import KeyNameError, SettingsError


def test_the_list_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    reader, editor = Keyring(tmp_path), Keyring(tmp_path)
    assert reader.credentials() == []
    editor.new_key("a", ["emit"])
    [one] = reader.active(KEY)
    assert (one.name, one.roles) == ("a", ("emit",))
    assert reader.find(KEY, one.proof) == one
    assert reader.find(TOKEN, one.proof) is None
    editor.revoke("a")
    assert reader.active(KEY) == []
    found = reader.find(KEY, one.proof)
    assert found is not None
    assert found.revoked


def test_a_token_is_found_by_its_hash_alone(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    token = keyring.new_token("a", ["read"])
    found = keyring.find(TOKEN, token_hash(token))
    assert found is not None
    assert found.name == "a"
    assert keyring.find(TOKEN, token) is None


def test_a_name_is_free_again_once_it_is_revoked(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    first = keyring.new_key("a", ["emit"]).read_text()
    with pytest.raises(KeyNameError, match="in use"):
        keyring.new_token("a", ["read"])
    keyring.revoke("a")
    assert keyring.new_key("a", ["emit"]).read_text() != first
    assert [bool(one.revoked) for one in keyring.credentials()] == [True, False]


ODD = {"name": "a", "what": "key", "proof": "x", "roles": [["emit"]], "runs": [], "created": 1}


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"keys": [{}]}', '{"keys": [{"name": "a"}]}', f'{{"keys": [{ODD}]}}']
)
def test_an_unreadable_list_accepts_no_key_and_is_not_overwritten(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = Keyring(tmp_path)
    keyring.new_key("a", ["emit"])
    (tmp_path / "list.json").write_text(damage.replace("'", '"'))
    assert keyring.active(KEY) == []
    assert "no key is accepted" in caplog.text
    # The broker's own machine is not to lose it over that.
    assert listen_key_pair(keyring, "tcp://h:1").name == "broker"

    # Nor is it overwritten: once it is repaired, every key is there again.
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changes: list[Callable[[Keyring], object]] = [
        lambda ring: ring.new_key("a", ["emit"]),
        lambda ring: ring.new_token("b", ["read"]),
        lambda ring: ring.revoke("a"),
        lambda ring: ring.raise_if_unreadable(),
    ]
    for change in changes:
        with pytest.raises(SettingsError, match=r"the list of keys=.*list\.json.*restore a copy"):
            change(Keyring(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_brokers_own_key_is_called_so_when_it_cannot_be_used(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keyring.new_key("a", ["emit"])
    (tmp_path / "broker.key").write_text("{}")
    with pytest.raises(
        SettingsError, match=r"the broker's own key=.*the first `lineside keys new`"
    ):
        listen_key_pair(keyring, "tcp://h:1")


def test_keys_made_at_the_same_time_are_all_in_the_list(tmp_path: Path) -> None:
    def make(name: str) -> None:
        Keyring(tmp_path).new_key(name, ["emit"])

    names = [f"key{number}" for number in range(12)]
    threads = [threading.Thread(target=make, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.name for one in Keyring(tmp_path).active(KEY)) == sorted(names)
