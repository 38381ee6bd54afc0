"""The broker: take what producers send, commit it, confirm it, deliver it. One thread, one loop."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import zmq

from lineside.bus import sockets
from lineside.bus.auth.audit import Refusal
from lineside.bus.auth.keyring import Keyring, check_can_listen, keys_folder
from lineside.bus.auth.rights import Rights, is_minded
from lineside.bus.broker.gate import Gate, proof_of, rights_at
from lineside.bus.broker.housekeeping import Housekeeping
from lineside.bus.broker.intake import Intake
from lineside.bus.broker.permits import Permits
from lineside.bus.broker.retention import Retention
from lineside.bus.broker.sqlite_journal import SqliteJournal
from lineside.bus.broker.subscriptions import Sent, Subscriptions
from lineside.bus.errors import BadMessage, JournalDamaged, JournalError
from lineside.bus.protocol.addresses import check_network
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    DENIED,
    FULL,
    OK,
    Ack,
    Cur,
    Frames,
    GapMessage,
    Hi,
    Message,
    Put,
    Sub,
    Who,
    decode,
)
from lineside.bus.service import Service, allow_many_files
from lineside.bus.settings import Settings, private_folder

log = logging.getLogger("lineside")

# As plain integers: combining zmq's enums for each frame costs as much as sending it.
_SEND_LAST = int(zmq.NOBLOCK)
_SEND_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_DRAIN_MESSAGES = 2048
_DRAIN_SECONDS = 0.002
_DRAIN_BYTES = 16 << 20
_IDLE_MS = 250
_SWEEP_SECONDS = 1.0
_STREAMS_MAX = 4096  # of one peer; what it opened before is forgotten, and asked for by Who
_SILENT_SECONDS = 120.0  # a peer that says nothing for this long is forgotten, and told so by Who


@dataclass(slots=True)
class _Peer:
    heard: float
    proof: str  # the key it came with; empty on this machine
    rights: Rights | None  # None once that key may be here no more
    streams: dict[Stream, None] = field(default_factory=dict)  # the last opened is the last
    awaits: frozenset[str] = frozenset()  # runs whose commands it reads until they are another's

    def opened(self, stream: Stream) -> None:
        self.streams.pop(stream, None)
        self.streams[stream] = None
        if len(self.streams) > _STREAMS_MAX:
            del self.streams[next(iter(self.streams))]


class Broker(Service):
    """Keeps every event in the journal of ``settings.home`` and serves ``settings.broker``; with
    ``listen``, a ``tcp://`` address, also whoever shows a key of the home's list there.

    Entries older than ``keep_days`` or beyond ``keep_bytes`` are deleted once every durable reader
    is past them.
    """

    name = "broker"

    def __init__(
        self,
        settings: Settings,
        *,
        keep_days: float = 7.0,
        keep_bytes: int = 10 << 30,
        listen: str = "",
    ) -> None:
        super().__init__()
        self._listen = check_network(listen, to_listen=True) if listen else ""
        self._gate: Gate | None = None
        self._settings = settings
        self._keep_days = keep_days
        self._keep_bytes = keep_bytes
        self._opened = ExitStack()
        self._peers: dict[bytes, _Peer] = {}
        # What is to be said once the turn is committed, once for each peer and stream.
        self._greeted: set[tuple[bytes, Stream]] = set()
        self._confirm: dict[tuple[bytes, Stream], str] = {}
        self._unknown: set[tuple[bytes, str]] = set()
        self._report: set[bytes] = set()
        self._more = False  # whether a reader with credit is behind
        self._failing = False  # whether the last commit did
        self._expiring = True
        self._swept_at = float("-inf")

    def startup(self) -> None:
        """Claim the address, open the journal, listen; in this order, so that nobody is let in
        before the journal can be written.

        Raises:
            SettingsError: it is to listen on a network, and no key was ever made.
        """
        opened = self._opened
        allow_many_files()
        private_folder(self._settings.home)
        keyring = Keyring(keys_folder(self._settings.home))
        own = check_can_listen(keyring, self._listen) if self._listen else None
        claim = sockets.Claim(self._settings.broker)
        opened.callback(claim.release)
        self._journal = SqliteJournal(self._settings.journal)
        opened.callback(self._journal.close)
        context: sockets.Context = zmq.Context()
        opened.callback(context.destroy, linger=0)
        self._socket = sockets.router(context, claim)
        self._intake = Intake(self._journal)
        self._readers = Subscriptions(self._journal, self._send)
        retention = Retention(self._journal, self._keep_days, self._keep_bytes)
        self._housekeeping = Housekeeping(self._intake, retention)
        self._permits = Permits(self._journal, shared=own is not None)
        opened.callback(self._last_words)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if own is not None:
            note = self._housekeeping.refusals.note
            self._gate = Gate(context, self._socket, self._listen, keyring, own, note)
            self._poller.register(self._gate.asked, zmq.POLLIN)
        log.info(
            "broker: listening at %s, journal at %d",
            f"{claim.address} and {self._gate.endpoint}" if self._gate else claim.address,
            self._journal.head,
        )

    @property
    def endpoint(self) -> str:
        """Where it listens on a network, if it does."""
        return self._gate.endpoint if self._gate else ""

    def turn(self) -> None:
        """Drain, commit, confirm, deliver."""
        ready = dict(self._poller.poll(0 if self._more else _IDLE_MS))
        if self._socket in ready:
            self._drain()
        if self._gate is not None:
            self._gate.turn()
        expire_before = self._sweep()
        self._answer(self._commit(expire_before))
        self._more = self._readers.push()

    def shutdown(self) -> None:
        """Close the socket, then the journal, then let the address go."""
        self._opened.close()

    def _drain(self) -> None:
        now = time.monotonic()
        until = now + _DRAIN_SECONDS
        for _ in range(_DRAIN_MESSAGES):
            try:
                # Only a frame that is not copied tells whose connection it came by.
                origin = self._socket.recv(zmq.NOBLOCK, copy=False)
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(origin, frames, now)
            if self._intake.size > _DRAIN_BYTES or time.monotonic() > until:
                return

    def _take(self, origin: zmq.Frame, frames: Frames, now: float) -> None:
        identity = origin.bytes
        try:
            peer = self._peers.get(identity)
            proof = proof_of(origin) if self._gate else ""
            # A peer may call itself what another was called that has left.
            if peer is None or peer.proof != proof:
                self._forget(identity)
                peer = self._peers[identity] = _Peer(now, proof, rights_at(self._gate, proof))
            peer.heard = now
            self._handle(identity, peer, frames)
        except BadMessage as error:
            self._refuse(identity, str(error))
        except Exception:
            log.exception("broker: a message could not be handled")
            self._refuse(identity, "the broker failed on this message")

    def _handle(self, identity: bytes, peer: _Peer, frames: Frames) -> None:
        if identity[:1] != b"\0":
            raise BadMessage("this broker gives out identities itself: set no routing id")
        message = decode(frames)
        rights = peer.rights
        if rights is None:
            self._deny(identity, peer, message, "its key was revoked")
        elif isinstance(message, (Put, GapMessage)):
            stream = message.stream
            if stream is None or stream not in peer.streams:
                self._unknown.add((identity, str(stream or "")))
                return
            blob = message.blob if isinstance(message, Put) else b""
            if why := self._permits.append(rights, stream, blob):
                self._deny(identity, peer, message, why)
            elif self._append(identity, stream, message) == OK:
                self._permits.appended(rights, stream, blob)
        elif isinstance(message, Hi):
            if why := self._permits.open(rights, message.stream):
                self._deny(identity, peer, message, why)
                return
            peer.opened(message.stream)
            self._greeted.add((identity, message.stream))
        elif isinstance(message, Cur):
            if identity in self._readers:
                self._readers.advance(identity, message)
                self._report.add(identity)
            else:
                self._unknown.add((identity, ""))
        elif isinstance(message, Sub):
            if why := self._permits.subscribe(rights, message):
                self._deny(identity, peer, message, why)
                return
            position, displaced = self._readers.subscribe(identity, message)
            runs = {pattern.partition("/")[0] for pattern in message.streams}
            peer.awaits = frozenset(runs if rights.only_emits else ())
            journal = self._journal
            answer = Ack(message.name, position, OK, journal.head, journal.id)
            self._send([identity, *answer.encode()])
            if displaced is not None and displaced != identity:
                why = f"another reader named {message.name!r} took over"
                self._send([displaced, *Ack(message.name, 0, DENIED, 0, why).encode()])
        else:
            raise BadMessage(f"{frames[0].decode()} is not for a broker")

    def _append(self, identity: bytes, stream: Stream, message: Put | GapMessage) -> str:
        try:
            if isinstance(message, Put):
                status = self._intake.put(message)
            else:
                status = self._intake.gap(stream, message)
        except BadMessage as error:
            self._refuse(identity, str(error), stream)
            return DENIED
        self._confirm[identity, stream] = status
        return status

    def _refuse(self, identity: bytes, why: str, stream: Stream | None = None) -> None:
        self._housekeeping.refused(why)
        next_seq = self._journal.next_seq(stream) if stream else 0
        ack = Ack(str(stream or ""), next_seq, DENIED, self._journal.head, why)
        self._send([identity, *ack.encode()])

    def _deny(self, identity: bytes, peer: _Peer, message: Message, why: str) -> None:
        """Refuse what a peer may not do, and keep that for the audit."""
        stream: Stream | None = getattr(message, "stream", None)
        action = "publish" if stream else "subscribe"
        if isinstance(message, Put) and is_minded(message.stream):
            action = "command"
        target = str(stream or ", ".join(getattr(message, "streams", ())))
        rights = peer.rights or (self._gate.known(peer.proof) if self._gate else None)
        name, role = (rights.name, rights.said) if rights else ("", "")
        self._housekeeping.refusals.note(Refusal(name, role, action, target, why))
        self._send([identity, *Ack(str(stream or ""), 0, DENIED, 0, why).encode()])

    def _commit(self, expire_before: int) -> str:
        """Why the turn's messages could not be committed; empty if they are."""
        cursors, owners = self._readers.moved, self._permits.claimed
        if not (self._intake or cursors or owners):
            return ""
        failed = ""
        try:
            self._readers.remember(self._intake.commit(cursors, expire_before, owners))
            cursors.clear()
            if owners:
                self._part_readers(owners)
                owners.clear()
        except JournalDamaged as error:
            if not expire_before:
                raise
            self._stop_expiry(error)
            failed = str(error)
        except JournalError as error:
            failed = str(error)
        if bool(failed) != self._failing:
            self._failing = bool(failed)
            log.warning("broker: %s", failed or "the journal can be written again")
        return failed

    def _answer(self, failed: str) -> None:
        head = self._journal.head
        for identity, stream in self._greeted:
            ack = Ack(str(stream), self._journal.next_seq(stream), OK, head)
            self._send([identity, *ack.encode()])
        for (identity, stream), status in self._confirm.items():
            next_seq = self._journal.next_seq(stream)
            ack = Ack(str(stream), next_seq, FULL if failed else status, head, failed)
            self._send([identity, *ack.encode()])
        for identity, name in self._unknown:
            self._send([identity, *Who(name).encode()])
        for identity in self._report:
            name, cursor = self._readers.place(identity)
            self._send([identity, *Ack(name, cursor, OK, head).encode()])
        self._greeted.clear()
        self._confirm.clear()
        self._unknown.clear()
        self._report.clear()

    def _sweep(self) -> int:
        """Once a second, forget the silent and see to the journal's size; what is to expire."""
        now = time.monotonic()
        if now < self._swept_at + _SWEEP_SECONDS:
            return 0
        silent = [i for i, peer in self._peers.items() if now - peer.heard > _SILENT_SECONDS]
        for identity in silent:
            self._forget(identity)
        if self._gate is not None and self._gate.sweep():
            self._look_again()
        self._housekeeping.audit(now)
        expire_before = 0
        try:
            if self._expiring:
                expire_before = self._housekeeping.turn(self._readers.names)
        except JournalDamaged as error:
            self._stop_expiry(error)
        except JournalError as error:
            log.warning("broker: housekeeping has to wait: %s", error)
        # While there is something to expire, a step a turn keeps up with any producer.
        self._swept_at = now if not expire_before else float("-inf")
        return expire_before

    def _look_again(self) -> None:
        """The list of keys has changed: whoever may do other things than before begins anew."""
        for identity, peer in list(self._peers.items()):
            if peer.proof and rights_at(self._gate, peer.proof) != peer.rights:
                self._forget(identity)

    def _part_readers(self, owners: Mapping[str, str]) -> None:
        """Runs are somebody's now that were nobody's: who subscribed to one meanwhile and may no
        longer is asked for its subscription again, and answered."""
        for identity, peer in self._peers.items():
            rights = peer.rights
            if (rights and peer.awaits) and any(
                run in peer.awaits and rights.is_foreign(run, owner)
                for run, owner in owners.items()
            ):
                self._readers.drop(identity)

    def _last_words(self) -> None:
        """What was refused and only counted so far."""
        self._housekeeping.audit(math.inf)
        self._commit(0)

    def _stop_expiry(self, error: JournalDamaged) -> None:
        # What is old may be damaged while all that is new can be kept and read.
        self._expiring = False
        log.warning("broker: nothing expires any more: %s", error)

    def _forget(self, identity: bytes) -> None:
        self._peers.pop(identity, None)
        self._readers.drop(identity)

    def _send(self, frames: Frames) -> Sent:
        try:
            for frame in frames[:-1]:
                self._socket.send(frame, _SEND_MORE)
            self._socket.send(frames[-1], _SEND_LAST)
        except zmq.Again:
            return Sent.BUSY
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._forget(frames[0])
            return Sent.GONE
        return Sent.YES
