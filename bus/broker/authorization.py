"""Decide which messages of a client are allowed, by its roles and by who owns what."""

from __future__ import annotations

from collections.abc import Iterator

from lineside.bus.auth.roles import EMIT, Principal, is_reserved_producer
from lineside.bus.broker.storage.journal import Journal
from lineside.bus.errors import CorruptRecord
from lineside.bus.protocol.commands import CONTROL_PRODUCER
from lineside.bus.protocol.event_kinds import ANSWER_PREFIX
from lineside.bus.protocol.events import AUDIT, Stream
from lineside.bus.protocol.messages import Sub
from lineside.bus.protocol.wire import decode_kind, record_bodies

_NO_EVENT_KIND = "a record that is no event"


def is_shared_stream(stream: Stream) -> bool:
    """Whether the permission to write to ``stream`` depends on the kind of the event."""
    return stream.producer == CONTROL_PRODUCER or stream.run == AUDIT


class Authorization:
    """Keeps the owner of each run, control stream and durable name: the key that used it first.

    No other key may use it, except one with the role admin; users of the broker's own machine may.
    Owners are kept only where ``has_keys``. A method ``..._denial`` returns the reason
    why something is not allowed, or an empty string if it is.
    """

    def __init__(self, journal: Journal, *, has_keys: bool) -> None:
        self._journal = journal
        self._has_keys = has_keys
        # Runs written before the first key was made belong to this machine. Commands and
        # annotations alone do not make a run.
        streams = journal.streams() if has_keys else ()
        self._local_runs = frozenset(
            stream.run
            for stream in streams
            if not is_shared_stream(stream) and str(stream) not in journal.owners
        )
        self.new_owners: dict[str, str] = {}
        """Owners to be committed with the next transaction, by what they own."""

    def open_denial(self, principal: Principal, stream: Stream) -> str:
        """Open ``stream``. That alone makes the client the owner of nothing."""
        denial = principal.write_denial(stream, self._run_owner(stream.run))
        return denial or self._stream_denial(principal, stream)

    def append_denial(self, principal: Principal, stream: Stream, blob: bytes) -> str:
        """Append records to an open stream, or a gap if ``blob`` is empty."""
        owner = self._run_owner(stream.run)
        if not is_shared_stream(stream):
            if principal.is_annotation(stream, owner):
                return principal.annotation_denial(dict.fromkeys(_kinds(blob)))
            # Another key may have been the first to write since the stream was opened.
            return principal.ownership_denial(stream.run, owner)
        if principal.is_admin and stream.producer == CONTROL_PRODUCER:
            return ""
        denial = self._stream_denial(principal, stream)
        return denial or principal.publish_denial(stream, dict.fromkeys(_kinds(blob)), owner)

    def claim_ownership(self, principal: Principal, stream: Stream, blob: bytes) -> None:
        """Make the client the owner of what it was the first to write to."""
        if not is_shared_stream(stream):
            owns_run = not self._is_annotation(principal, stream, blob)
            self._claim_if_free(stream.run if owns_run else str(stream), principal)
        elif not principal.is_admin:
            self._claim_if_free(str(stream), principal)
            # A training's first answer may come before all its other events.
            has_answer = any(kind.startswith(ANSWER_PREFIX) for kind in _kinds(blob))
            if EMIT in principal.roles and has_answer:
                self._claim_if_free(stream.run, principal)

    def subscribe_denial(self, principal: Principal, message: Sub) -> str:
        """Subscribe, under a durable name if the message has one; that name is claimed."""
        if principal.is_local:
            if message.name:
                self._claim_if_free(f"@{message.name.partition('/')[0]}", principal)
            return ""
        for pattern in message.streams or ("",):
            denial = principal.read_denial(pattern)
            if not denial and principal.is_emit_only:
                run = pattern.partition("/")[0]
                denial = principal.ownership_denial(run, self._run_owner(run))
            if denial:
                return denial
        return self._name_denial(principal, message.name) if message.name else ""

    def _is_annotation(self, principal: Principal, stream: Stream, blob: bytes) -> bool:
        """Whether records only annotate a run, by the role annotate or by an admin's metrics."""
        owner = self._run_owner(stream.run)
        if not principal.is_admin or not self._has_keys or owner is not None:
            return principal.is_annotation(stream, owner)
        # A subscriber on the broker's machine may publish before the training does.
        return not (
            is_reserved_producer(stream.producer)
            or principal.annotation_denial(dict.fromkeys(_kinds(blob)))
        )

    def _stream_denial(self, principal: Principal, stream: Stream) -> str:
        if not self._has_keys or not is_shared_stream(stream) or principal.is_admin:
            return ""
        if self._stream_owner(stream) in (None, principal.name):
            return ""
        return f"{stream} was begun by another client than key {principal.name!r}"

    def _name_denial(self, principal: Principal, name: str) -> str:
        key = f"key {principal.name!r}"
        if principal.is_emit_only:
            return f"a durable name takes the role read: {key} has {principal.role_names}"
        name = name.partition("/")[0]  # names below another belong to the same key
        owner = self._owner(f"@{name}")
        if owner is None and name in self._journal.cursors():
            owner = ""
        if not principal.is_admin and owner not in (None, principal.name):
            return f"the reader's name {name!r} belongs to another client than {key}"
        self._claim_if_free(f"@{name}", principal)
        return ""

    def _run_owner(self, run: str) -> str | None:
        found = self._owner(run)
        return "" if found is None and run in self._local_runs else found

    def _stream_owner(self, stream: Stream) -> str | None:
        found = self._owner(str(stream))
        return "" if found is None and self._journal.next_seq(stream) else found

    def _owner(self, owned: str) -> str | None:
        found = self.new_owners.get(owned)
        return self._journal.owners.get(owned) if found is None else found

    def _claim_if_free(self, owned: str, principal: Principal) -> None:
        if self._has_keys and self._owner(owned) is None and owned not in self._local_runs:
            self.new_owners[owned] = principal.name


def _kinds(blob: bytes) -> Iterator[str]:
    try:
        for body in record_bodies(blob):
            yield decode_kind(body)
    except (CorruptRecord, ValueError):
        yield _NO_EVENT_KIND
