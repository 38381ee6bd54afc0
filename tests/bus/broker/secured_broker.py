"""A broker that listens on a network too, keys to it, and its audit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.messages import DENIED, OK, Ack
from lineside.bus.protocol.wire import Encoder
from lineside.bus.testing import read_all

LISTEN = "tcp://127.0.0.1:0"


class SecuredBroker:
    """The keys of one home; ``endpoint`` is set once its broker listens."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.keyring = Keyring(keys_folder(home))
        self.local = f"ipc://{home}/bus.sock"
        self.endpoint = ""

    def key(self, name: str, *roles: str, runs: tuple[str, ...] = ()) -> Path:
        """The file of a new key."""
        return self.keyring.new_key(name, roles, runs)

    def address(self, file: Path) -> str:
        """How to connect with a key."""
        return f"{self.endpoint}?key={file}"

    def wait(self) -> str:
        """The endpoint in the log of a broker process, once it is there."""
        log = self.home / "broker.log"
        until = time.monotonic() + 30
        while not (found := re.findall(r"listening at .* and (tcp://\S+),", log.read_text())):
            assert time.monotonic() < until
            time.sleep(0.02)
        self.endpoint = found[-1]
        return self.endpoint

    def refusals(
        self, is_enough: Callable[[list[dict[str, Any]]], object] = bool
    ) -> list[dict[str, Any]]:
        """The reports of the audit, once they are ``is_enough``."""

        def refusal_data(events: list[Event]) -> list[dict[str, Any]]:
            return [dict(event.data or {}) for event in events if event.kind == "refused"]

        return refusal_data(
            read_all(
                self.local, ["audit"], until=lambda events: bool(is_enough(refusal_data(events)))
            )
        )

    def has_no_refusals(self, seconds: float = 1.2) -> bool:
        """Whether no request is refused within that time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if read_all(self.local, ["audit"]):
                return False
            time.sleep(0.1)
        return True


def denial_of(answer: object) -> str:
    assert isinstance(answer, Ack)
    assert answer.status == DENIED
    return answer.text


def is_accepted(answer: object) -> bool:
    return isinstance(answer, Ack) and answer.status == OK


def command() -> bytes:
    data = Command("stop", issued_by="me").to_data()
    return Encoder().encode(0, 1.5, 7, "command", 0, None, 0, data)


def answer_of(kind: str, seq: int = 0) -> bytes:
    return Encoder().encode(seq, 1.5, 7, kind, 0, None, 0, {"id": "x"})
