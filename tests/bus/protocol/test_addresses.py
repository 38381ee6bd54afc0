from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.errors import AddressError, SettingsError
from lineside.bus.protocol.addresses import Address, check_tcp_address, parse, with_key
from lineside.bus.settings import Settings

KEY = Path("/keys/my.key")


@pytest.mark.parametrize("where", ["host:7430", "10.0.0.7:1", "[::1]:7430", "a-b.example:65535"])
def test_an_address_on_a_network_names_its_key(where: str) -> None:
    address = with_key(f"tcp://{where}", KEY)
    assert parse(address) == Address(f"tcp://{where}", key=KEY)
    assert with_key(address, Path("/another")) == address


def test_one_of_this_machine_needs_none() -> None:
    address = "ipc:///home/x/bus.sock"
    assert with_key(address, KEY) == address
    assert parse(address) == Address(address, path=Path("/home/x/bus.sock"))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://host:7430", "set LINESIDE_KEY"),
        ("tcp://host:7430?key=", "set LINESIDE_KEY"),
        ("tcp://host:7430?key=my.key", "set LINESIDE_KEY"),
        ("tcp://host?key=/k", "expected tcp://HOST:7430"),
        ("tcp://host:0?key=/k", "expected tcp://HOST:7430"),
        ("tcp://*:7430?key=/k", "expected tcp://HOST:7430"),
        ("tcp://host:65536?key=/k", "expected tcp://HOST:7430"),
        ("tcp://a:7430;b:7430?key=/k", "expected tcp://HOST:7430"),
        ("udp://host:7430", "or tcp://HOST:7430 with LINESIDE_KEY"),
        ("host:7430", "or tcp://HOST:7430 with LINESIDE_KEY"),
    ],
)
def test_an_invalid_address_is_an_error(address: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse(address)


def test_to_listen_any_interface_and_a_free_port_will_do() -> None:
    for address in ("tcp://*:7430", "tcp://0.0.0.0:0"):
        assert check_tcp_address(address, to_listen=True) == address
    for address in ("ipc:///x", "tcp://*", "*:7430"):
        with pytest.raises(AddressError, match=r"tcp://0\.0\.0\.0:7430"):
            check_tcp_address(address, to_listen=True)


def test_the_setting_goes_into_the_address() -> None:
    env = {"LINESIDE_BROKER": "tcp://host:7430", "LINESIDE_KEY": str(KEY)}
    settings = Settings.from_env(env)
    assert settings.broker == "tcp://host:7430?key=/keys/my.key"
    assert settings.key == KEY
    with pytest.raises(SettingsError, match="expected an absolute path"):
        Settings.from_env(env | {"LINESIDE_KEY": "my.key"})


def test_a_file_that_is_no_key_is_an_error(tmp_path: Path) -> None:
    good = KeyFile("a", "x" * 40, "y" * 40, "z" * 40)
    path = tmp_path / "my.key"
    good.write(path)
    assert KeyFile.read(path) == good
    with pytest.raises(FileExistsError):
        good.write(path)
    for text in ("", "[]", "{}", '{"name": "a", "public": "x", "secret": "y", "broker": "z"}'):
        path.write_text(text)
        with pytest.raises(SettingsError, match="that `lineside keys new` wrote"):
            KeyFile.read(path)
