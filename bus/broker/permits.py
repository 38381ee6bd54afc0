"""The broker's answer to who may open, write and read what, and whose each run is."""

from __future__ import annotations

from collections.abc import Iterator

from lineside.bus.auth.rights import EMIT, Rights, is_minded
from lineside.bus.broker.journal import Journal
from lineside.bus.errors import CorruptRecord
from lineside.bus.protocol.commands import COMMAND, PRODUCER
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Sub
from lineside.bus.protocol.wire import bodies, decode_event

_NOT_AN_EVENT = "what is no event"


class Permits:
    """A run belongs to the key that wrote to it first, and so do a control stream and a durable
    reader's name; nobody else goes on with it but an admin, and users of the broker's own machine.

    Only where ``shared``, that is with keys, this is kept. Each question is answered by a sentence
    that says why not; empty if it is allowed.
    """

    def __init__(self, journal: Journal, *, shared: bool) -> None:
        self._journal = journal
        self._shared = shared
        # Runs from before there were keys are this machine's; of one to which there is only a
        # command nobody has written anything.
        streams = journal.streams() if shared else ()
        self._older = frozenset(stream.run for stream in streams if not is_minded(stream))
        self.claimed: dict[str, str] = {}
        """Whose something is, to be committed with the next transaction."""

    def open(self, rights: Rights, stream: Stream) -> str:
        """Begin or go on with ``stream``. Nothing is anybody's by that alone."""
        return rights.may_write(stream, self._run(stream.run)) or self._begun(rights, stream)

    def append(self, rights: Rights, stream: Stream, blob: bytes) -> str:
        """Append records, or a gap if ``blob`` is empty, to a stream that was opened."""
        owner = self._run(stream.run)
        if not is_minded(stream):
            # Since it was opened somebody else may have been the first to write.
            return rights.is_foreign(stream.run, owner)
        if rights.is_admin and stream.producer == PRODUCER:
            return ""
        why = self._begun(rights, stream)
        return why or rights.may_say(stream, dict.fromkeys(_kinds(blob)), owner)

    def appended(self, rights: Rights, stream: Stream, blob: bytes) -> None:
        """What ``append`` allowed was taken: whose it is now, if it was nobody's."""
        if not is_minded(stream):
            self._claim(stream.run, rights)
        elif not rights.is_admin:
            self._claim(str(stream), rights)
            if EMIT in rights.roles and set(_kinds(blob)) - {COMMAND}:
                self._claim(stream.run, rights)  # a training's first answer may precede all else

    def subscribe(self, rights: Rights, message: Sub) -> str:
        """Read, and keep a place under a name."""
        if rights.is_local:
            if message.name:
                self._claim(f"@{message.name}", rights)
            return ""
        for pattern in message.streams or ("",):
            why = rights.may_read(pattern)
            if not why and rights.only_emits:
                run = pattern.partition("/")[0]
                why = rights.is_foreign(run, self._run(run))
            if why:
                return why
        return self._name(rights, message.name) if message.name else ""

    def _begun(self, rights: Rights, stream: Stream) -> str:
        if not self._shared or not is_minded(stream) or rights.is_admin:
            return ""
        if self._stream(stream) in (None, rights.name):
            return ""
        return f"{stream} was begun by somebody else than key {rights.name!r}"

    def _name(self, rights: Rights, name: str) -> str:
        if rights.only_emits:
            return f"a durable name takes the role read: key {rights.name!r} has {rights.said}"
        holder = self._owner(f"@{name}")
        if holder is None and name in self._journal.cursors():
            holder = ""
        if not rights.is_admin and holder not in (None, rights.name):
            return f"the reader's name {name!r} belongs to somebody else than key {rights.name!r}"
        self._claim(f"@{name}", rights)
        return ""

    def _run(self, run: str) -> str | None:
        found = self._owner(run)
        return "" if found is None and run in self._older else found

    def _stream(self, stream: Stream) -> str | None:
        found = self._owner(str(stream))
        return "" if found is None and self._journal.next_seq(stream) else found

    def _owner(self, what: str) -> str | None:
        found = self.claimed.get(what)
        return self._journal.owners.get(what) if found is None else found

    def _claim(self, what: str, rights: Rights) -> None:
        if self._shared and self._owner(what) is None and what not in self._older:
            self.claimed[what] = rights.name


def _kinds(blob: bytes) -> Iterator[str]:
    try:
        for body in bodies(blob):
            yield decode_event(body).kind
    except (CorruptRecord, ValueError):
        yield _NOT_AN_EVENT
