"""The broker's answer to who may open, write and read what, and whose each run is."""

from __future__ import annotations

from collections.abc import Iterator

from lineside.bus.auth.roles import EMIT, Principal, is_shared_stream
from lineside.bus.broker.journal import Journal
from lineside.bus.errors import CorruptRecord
from lineside.bus.protocol.commands import COMMAND, CONTROL_PRODUCER
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Sub
from lineside.bus.protocol.wire import decode_event, record_bodies

_NO_EVENT_KIND = "what is no event"


class Authorization:
    """A run belongs to the key that wrote to it first, and so do a control stream and a durable
    reader's name; nobody else goes on with it but an admin, and users of the broker's own machine.

    Only where ``has_keys``, that is with keys, this is kept. Each question is answered by a
    sentence
    that says why not; empty if it is allowed.
    """

    def __init__(self, journal: Journal, *, has_keys: bool) -> None:
        self._journal = journal
        self._has_keys = has_keys
        # Runs from before there were keys are this machine's; of one to which there is only a
        # command nobody has written anything.
        streams = journal.streams() if has_keys else ()
        self._local_runs = frozenset(
            stream.run for stream in streams if not is_shared_stream(stream)
        )
        self.new_owners: dict[str, str] = {}
        """Whose something is, to be committed with the next transaction."""

    def open_denial(self, rights: Principal, stream: Stream) -> str:
        """Begin or go on with ``stream``. Nothing is anybody's by that alone."""
        return rights.write_denial(stream, self._run_owner(stream.run)) or self._stream_denial(
            rights, stream
        )

    def append_denial(self, rights: Principal, stream: Stream, blob: bytes) -> str:
        """Append records, or a gap if ``blob`` is empty, to a stream that was opened."""
        owner = self._run_owner(stream.run)
        if not is_shared_stream(stream):
            # Since it was opened somebody else may have been the first to write.
            return rights.ownership_denial(stream.run, owner)
        if rights.is_admin and stream.producer == CONTROL_PRODUCER:
            return ""
        why = self._stream_denial(rights, stream)
        return why or rights.publish_denial(stream, dict.fromkeys(_kinds(blob)), owner)

    def claim_ownership(self, rights: Principal, stream: Stream, blob: bytes) -> None:
        """What ``append_denial`` allowed was taken: whose it is now, if it was nobody's."""
        if not is_shared_stream(stream):
            self._claim_if_free(stream.run, rights)
        elif not rights.is_admin:
            self._claim_if_free(str(stream), rights)
            if EMIT in rights.roles and set(_kinds(blob)) - {COMMAND, EVALUATION_REVIEWED}:
                self._claim_if_free(
                    stream.run, rights
                )  # a training's first answer may precede all else

    def subscribe_denial(self, rights: Principal, message: Sub) -> str:
        """Read, and keep a place under a name."""
        if rights.is_local:
            if message.name:
                self._claim_if_free(f"@{message.name.partition('/')[0]}", rights)
            return ""
        for pattern in message.streams or ("",):
            why = rights.read_denial(pattern)
            if not why and rights.is_emit_only:
                run = pattern.partition("/")[0]
                why = rights.ownership_denial(run, self._run_owner(run))
            if why:
                return why
        return self._name_denial(rights, message.name) if message.name else ""

    def _stream_denial(self, rights: Principal, stream: Stream) -> str:
        if not self._has_keys or not is_shared_stream(stream) or rights.is_admin:
            return ""
        if self._stream_owner(stream) in (None, rights.name):
            return ""
        return f"{stream} was begun by somebody else than key {rights.name!r}"

    def _name_denial(self, rights: Principal, name: str) -> str:
        if rights.is_emit_only:
            return (
                f"a durable name takes the role read: key {rights.name!r} has {rights.role_names}"
            )
        name = name.partition("/")[0]  # names below another belong to the same key
        owner = self._owner(f"@{name}")
        if owner is None and name in self._journal.cursors():
            owner = ""
        if not rights.is_admin and owner not in (None, rights.name):
            return f"the reader's name {name!r} belongs to somebody else than key {rights.name!r}"
        self._claim_if_free(f"@{name}", rights)
        return ""

    def _run_owner(self, run: str) -> str | None:
        found = self._owner(run)
        return "" if found is None and run in self._local_runs else found

    def _stream_owner(self, stream: Stream) -> str | None:
        found = self._owner(str(stream))
        return "" if found is None and self._journal.next_seq(stream) else found

    def _owner(self, what: str) -> str | None:
        found = self.new_owners.get(what)
        return self._journal.owners.get(what) if found is None else found

    def _claim_if_free(self, what: str, rights: Principal) -> None:
        if self._has_keys and self._owner(what) is None and what not in self._local_runs:
            self.new_owners[what] = rights.name


def _kinds(blob: bytes) -> Iterator[str]:
    try:
        for body in record_bodies(blob):
            yield decode_event(body).kind
    except (CorruptRecord, ValueError):
        yield _NO_EVENT_KIND
