"""What the stopper has to say of runs: commands and alerts, each said once."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lineside.bus.client.producer import Producer
from lineside.bus.errors import BrokerUnreachable, BusError
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import EXPIRES_SECONDS, Command
from lineside.bus.protocol.events import Event, Stream, new_attempt
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.course import Firing

log = logging.getLogger("lineside")

PRODUCER = "stopper"
"""The producer part of the streams in which alerts travel."""
ALERT = "alert"
"""The kind of event that says that a rule held, or cannot."""
_FLUSH_SECONDS = 5.0
_MOST_WORDS = 500  # over one connection
_MOST_LINKS = 64  # connections that are kept open
_OPS = {rules.STOP: "stop", rules.SAVE_AND_STOP: "stop"}


@dataclass(frozen=True)
class Word:
    """One thing to be said of ``run``, to its ``attempt`` if it is a command. Of several with the
    same ``matter`` only the last is.
    """

    id: str
    run: str
    producer: str
    kind: str
    step: int
    data: Mapping[str, Any]
    attempt: str = ""
    matter: str = ""


def word(firing: Firing, *, dry_run: bool) -> Word:
    """What ``firing`` has to be said of: a command, or an alert if it asks for nothing."""
    why = f"{firing.rule.name}: {firing.why}"[:1000]
    if firing.action == rules.ALERT or dry_run:
        name = f"{firing.id}-dry" if dry_run else firing.id
        data = {
            "id": name,
            "rule": firing.rule.name,
            "action": firing.action,
            "args": dict(firing.args),
            "why": firing.why,
            "dry_run": dry_run,
            "names": list(firing.names),
        }
        return Word(name, firing.stream.run, PRODUCER, ALERT, firing.step, data)
    op = _OPS.get(firing.action, firing.action)
    until = firing.time + EXPIRES_SECONDS  # by the clock of the training, which looks at it
    # Another attempt may have gone back to where the rule does not hold.
    command = Command(op, firing.args, why, _issuer(), until, firing.id, firing.stream.attempt)
    return _command(firing.stream, firing.step, command)


def proceed(stream: Stream, event: Event) -> Word:
    """That nothing more will be said of this evaluation, to a training that waits for it."""
    name = f"proceed-{stream.attempt}-{event.seq}"[-64:]
    until = event.time + EXPIRES_SECONDS
    command = Command("proceed", {"seq": event.seq}, "", _issuer(), until, name, stream.attempt)
    return _command(stream, event.step, command, f"proceed {stream.run}")


class Outbox:
    """Says words over the broker at ``address``. A word is dropped if it was said before, as the
    journal shows (``hear``), or could not be said for ``EXPIRES_SECONDS``. For one thread.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._words: dict[str, tuple[Word, float]] = {}  # and since when they wait
        self._links: dict[tuple[str, str], Producer] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to say."""
        return not self._words

    def put(self, word: Word) -> None:
        """To be said with the next ``send``."""
        key = word.matter or word.id
        self._words.pop(key, None)  # so that it comes after what was said meanwhile
        self._words[key] = word, time.monotonic()

    def hear(self, event: Event) -> None:
        """Somebody, maybe we ourselves in an earlier life, has said this."""
        if event.kind in (commands.COMMAND, ALERT) and self._words:
            name = (event.data or {}).get("id")
            self._words = {key: one for key, one in self._words.items() if one[0].id != name}

    def drop(self, stream: Stream) -> None:
        """The training of ``stream`` is over: there is nobody left to command."""
        over = stream.run, stream.attempt
        self._words = {
            key: one for key, one in self._words.items() if (one[0].run, one[0].attempt) != over
        }

    def send(self) -> None:
        """Say everything; what the broker does not take now stays for the next time."""
        late = time.monotonic() - EXPIRES_SECONDS
        self._words = {key: one for key, one in self._words.items() if one[1] > late}
        by_link: dict[tuple[str, str], dict[str, Word]] = {}
        for key, (word, _) in self._words.items():
            by_link.setdefault((word.run, word.producer), {})[key] = word
        for (run, producer), words in by_link.items():
            try:
                link = self._link(run, producer)
                for word in words.values():
                    link.emit(word.kind, step=word.step, data=word.data)
                link.flush(_FLUSH_SECONDS)
            except BrokerUnreachable as error:
                # What it collected may be there or not; another one says the same, by its id.
                self._links.pop((run, producer)).close()
                log.warning("stopper: %d words to %s wait: %s", len(words), run, error)
                return
            except BusError as error:
                self._links.pop((run, producer)).close()
                log.warning("stopper: %d words to %s are refused: %s", len(words), run, error)
            for key in words:
                del self._words[key]

    def close(self) -> None:
        """Disconnect."""
        while self._links:
            self._links.popitem()[1].close()

    def _link(self, run: str, producer: str) -> Producer:
        key = run, producer
        link = self._links.pop(key, None)
        if link is not None and link.next_seq >= _MOST_WORDS:
            link.close()  # a producer keeps all that it has said
            link = None
        if link is None:
            link = Producer(self._address, Stream(run, producer, new_attempt()))
        self._links[key] = link  # the last used is the last of them
        if len(self._links) > _MOST_LINKS:
            self._links.pop(next(iter(self._links))).close()
        return link


def _command(stream: Stream, step: int, command: Command, matter: str = "") -> Word:
    return Word(
        command.id,
        stream.run,
        commands.PRODUCER,
        commands.COMMAND,
        step,
        command.data(),
        command.attempt,
        matter,
    )


def _issuer() -> str:
    return f"stopper@{platform.node()}"
