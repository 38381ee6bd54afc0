"""The broker: takes events, commits, acknowledges and delivers them. One thread, one loop."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack

import zmq

from lineside.bus import sockets
from lineside.bus.auth.keyring import Keyring, keys_folder, listen_key_pair
from lineside.bus.auth.refusal_log import Refusal
from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.broker.authorization import Authorization, is_shared_stream
from lineside.bus.broker.connection_monitor import ConnectionMonitor
from lineside.bus.broker.connections import Connection
from lineside.bus.broker.maintenance import Maintenance
from lineside.bus.broker.message_receiver import MessageReceiver
from lineside.bus.broker.pending_replies import PendingReplies
from lineside.bus.broker.storage.append_buffer import AppendBuffer
from lineside.bus.broker.storage.retention import Retention
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.broker.subscriptions import SendResult, Subscriptions
from lineside.bus.broker.zap_authenticator import ZapAuthenticator, principal_of, public_key_of
from lineside.bus.errors import BadMessage, JournalDamaged, JournalError, SettingsError
from lineside.bus.local_stack import UNFINISHED_RESTORE
from lineside.bus.protocol.addresses import check_tcp_address
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    DENIED,
    INVALID,
    MAX_FRAMES,
    MAX_MESSAGE,
    OK,
    Ack,
    Cur,
    Frames,
    GapMessage,
    Hi,
    Message,
    Put,
    Sub,
    decode,
)
from lineside.bus.service import Service
from lineside.bus.settings import Settings, make_private_folder

log = logging.getLogger("lineside")

# As plain integers: combining zmq's enums for each frame costs as much as sending it.
_SEND_LAST = int(zmq.NOBLOCK)
_SEND_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_RECEIVE_BYTES = 16 << 20  # in one transaction
_SWEEP_SECONDS = 1.0
_CLOSED_SECONDS = 1.0  # a closed connection is forgotten after this time without a message
_SILENT_SECONDS = 120.0  # a connection this long silent is forgotten; WHO answers its next message


class Broker(Service):
    """Keeps every event in the journal of ``settings.home`` and listens at ``settings.broker``.

    With ``listen``, a ``tcp://`` address, it also accepts the keys of the home's list there.
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
        self._listen = check_tcp_address(listen, to_listen=True) if listen else ""
        self._authenticator: ZapAuthenticator | None = None
        self._settings = settings
        self._keep_days = keep_days
        self._keep_bytes = keep_bytes
        self._resources = ExitStack()
        self._connections: dict[bytes, Connection] = {}
        self._identities: dict[int, bytes] = {}  # by the descriptor of the connection
        self._has_backlog = False  # whether a reader with credit is behind
        self._is_commit_failing = False
        self._is_expiry_enabled = True
        self._last_sweep = float("-inf")

    def startup(self) -> None:
        """Claim the address, open the journal, then listen.

        Raises:
            SettingsError: ``listen`` is set, and no key was ever made; or a restore of the home was
                interrupted.
        """
        opened = self._resources
        sockets.raise_file_limit()
        home = make_private_folder(self._settings.home)
        if (home / UNFINISHED_RESTORE).exists():
            why = "a restore was interrupted there: run `lineside restore FILE --force` again"
            raise SettingsError("LINESIDE_HOME", home, why)
        keyring = Keyring(keys_folder(self._settings.home))
        key_pair = listen_key_pair(keyring, self._listen) if self._listen else None
        address_lock = AddressLock(self._settings.broker)
        opened.callback(address_lock.release)
        self._journal = SqliteJournal(self._settings.journal)
        opened.callback(self._journal.close)
        context: sockets.Context = zmq.Context()
        opened.callback(context.destroy, linger=0)
        self._monitor = ConnectionMonitor(context, address_lock.address)
        self._monitor.on_closed.append(self._on_closed)
        opened.callback(self._monitor.close)
        self._socket = sockets.router(context, address_lock.address, self._monitor.follow)
        self._buffer = AppendBuffer(self._journal)
        self._subscriptions = Subscriptions(self._journal, self._send)
        self._replies = PendingReplies(self._journal, self._subscriptions, self._send)
        retention = Retention(self._journal, self._keep_days, self._keep_bytes)
        self._maintenance = Maintenance(self._buffer, retention)
        self._authorization = Authorization(self._journal, has_keys=key_pair is not None)
        opened.callback(self._flush_refusals)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor.events, zmq.POLLIN)
        if key_pair is not None:
            on_refusal = self._maintenance.refusal_log.add
            self._authenticator = ZapAuthenticator(
                context, self._socket, self._monitor, self._listen, keyring, key_pair, on_refusal
            )
            self._poller.register(self._authenticator.requests, zmq.POLLIN)
            opened.callback(self._authenticator.watch.close)
        watch = self._authenticator.watch if self._authenticator else None
        self._receiver = MessageReceiver(self._socket, watch)
        self._monitor.measure_room()
        log.info(
            "broker: listening at %s, journal at %d",
            f"{address_lock.address} and {self._authenticator.endpoint}"
            if self._authenticator
            else address_lock.address,
            self._journal.head,
        )

    @property
    def endpoint(self) -> str:
        """The network address at which it listens; empty without ``listen``."""
        return self._authenticator.endpoint if self._authenticator else ""

    def run_once(self) -> None:
        """Receive, commit, acknowledge and deliver once."""
        ready = dict(
            self._poller.poll(0 if self._has_backlog else int(self._receiver.idle_seconds * 1000))
        )
        if self._monitor.events in ready:
            self._monitor.handle_events()
        self._receiver.receive(self._receive)
        if self._authenticator is not None:
            self._authenticator.answer_handshakes()
        expire_before = self._sweep()
        self._replies.send_all(self._commit(expire_before))
        self._has_backlog = self._subscriptions.deliver()

    def shutdown(self) -> None:
        """Close the socket, then the journal, then release the address."""
        self._resources.close()

    def _on_closed(self, fd: int) -> None:
        """Deliver no more over a connection that was closed, and forget it soon.

        What its client sent before may still wait to be received.
        """
        identity = self._identities.pop(fd, b"")
        if connection := self._connections.get(identity):
            soon = time.monotonic() - _SILENT_SECONDS + _CLOSED_SECONDS
            connection.last_seen = min(connection.last_seen, soon)
            self._subscriptions.end_delivery(identity)

    def _receive(self, first_frame: zmq.Frame, frames: Frames | None, now: float) -> bool:
        identity = first_frame.bytes
        try:
            connection = self._connections.get(identity)
            public_key = public_key_of(first_frame) if self._authenticator else ""
            # A new connection may have the routing id of an old one.
            if connection is None or connection.public_key != public_key:
                # The end of an earlier one with the same descriptor must not be taken for its own.
                self._monitor.handle_events()
                self._forget(identity)
                connection = self._connections[identity] = Connection(
                    now, public_key, principal_of(self._authenticator, public_key)
                )
                self._identities[sockets.source_descriptor(first_frame)] = identity
            connection.last_seen = now
            self._handle(identity, connection, frames)
        except BadMessage as error:
            self._reject(identity, str(error))
        except Exception:
            log.exception("broker: a message could not be handled")
            self._reject(identity, "the broker failed on this message")
        return self._buffer.size <= _RECEIVE_BYTES

    def _handle(self, identity: bytes, connection: Connection, frames: Frames | None) -> None:
        if frames is None:
            raise BadMessage(
                f"a message has at most {MAX_FRAMES} frames and {MAX_MESSAGE} bytes together"
            )
        if identity[:1] != b"\0":
            raise BadMessage("the broker chooses routing ids itself: set no routing id")
        message = decode(frames)
        principal = connection.principal
        if principal is None:
            self._deny(identity, message, "its key was revoked")
        elif isinstance(message, (Put, GapMessage)):
            stream = message.stream
            if stream is None or stream not in connection.streams:
                self._replies.whos.add((identity, str(stream or "")))
                return
            blob = message.blob if isinstance(message, Put) else b""
            if why := self._authorization.append_denial(principal, stream, blob):
                self._deny(identity, message, why)
            elif self._append(identity, stream, message) == OK:
                self._authorization.claim_ownership(principal, stream, blob)
        elif isinstance(message, Hi):
            if why := self._authorization.open_denial(principal, message.stream):
                self._deny(identity, message, why)
                return
            connection.add_stream(message.stream)
            self._replies.hellos.add((identity, message.stream))
        elif isinstance(message, Cur):
            if identity in self._subscriptions:
                self._subscriptions.advance(identity, message)
                self._replies.cursors.add(identity)
            else:
                self._replies.whos.add((identity, ""))
        elif isinstance(message, Sub):
            if why := self._authorization.subscribe_denial(principal, message):
                self._deny(identity, message, why)
                return
            runs = {pattern.partition("/")[0] for pattern in message.streams}
            connection.provisional_runs = frozenset(runs if principal.is_emit_only else ())
            self._subscribe(identity, message)
        else:
            raise BadMessage(f"a broker takes no {frames[0].decode()}")

    def _subscribe(self, identity: bytes, message: Sub) -> None:
        displaced = self._subscriptions.subscribe(identity, message)
        position = self._subscriptions.position_of(identity)
        if position is None:  # an older subscription of a reader that has subscribed again
            return
        journal, names = self._journal, self._subscriptions.names_below(message.name)
        records, seconds = self._backlog(position)
        answer = Ack(
            message.name, position, OK, journal.head, journal.id, names, records, int(seconds * 1e3)
        )
        result = self._send([identity, *answer.encode()])
        if displaced is not None and result is not SendResult.GONE:
            why = f"another reader named {message.name!r} took over"
            self._send([displaced, *Ack(message.name, 0, DENIED, 0, why).encode()])

    def _backlog(self, position: int) -> tuple[int, float]:
        try:
            return self._journal.backlog(position)
        except JournalError:  # reading it will report that
            return 0, 0.0

    def _append(self, identity: bytes, stream: Stream, message: Put | GapMessage) -> str:
        try:
            if isinstance(message, Put):
                status = self._buffer.put(message)
            else:
                status = self._buffer.gap(stream, message)
        except BadMessage as error:
            self._reject(identity, str(error), stream)
            return INVALID
        self._replies.acks[identity, stream] = status
        return status

    def _reject(self, identity: bytes, why: str, stream: Stream | None = None) -> None:
        self._log_refusal(identity, "protocol", str(stream or ""), why)
        status, next_seq = (INVALID, self._journal.next_seq(stream)) if stream else (DENIED, 0)
        ack = Ack(str(stream or ""), next_seq, status, self._journal.head, why)
        self._send([identity, *ack.encode()])

    def _deny(self, identity: bytes, message: Message, why: str) -> None:
        stream: Stream | None = getattr(message, "stream", None)
        action = "publish" if stream else "subscribe"
        if isinstance(message, Put) and is_shared_stream(message.stream):
            action = "command"
        target = str(stream or ", ".join(getattr(message, "streams", ())))
        self._log_refusal(identity, action, target, why)
        self._send([identity, *Ack(str(stream or ""), 0, DENIED, 0, why).encode()])

    def _log_refusal(self, identity: bytes, action: str, target: str, why: str) -> None:
        connection = self._connections.get(identity)
        principal = connection.principal if connection else None
        if connection and self._authenticator and not principal:  # a revoked key
            principal = self._authenticator.find_principal(connection.public_key)
        name, role = (principal.name, principal.role_names) if principal else ("", "")
        self._maintenance.refusal_log.add(Refusal(name, role, action, target, why))

    def _commit(self, expire_before: int) -> str:
        """Commit what was received; return why that failed, or an empty string."""
        cursors, owners = self._subscriptions.moved_cursors, self._authorization.new_owners
        if not (self._buffer or cursors or owners):
            return ""
        failure = ""
        try:
            self._subscriptions.cache_entries(self._buffer.commit(cursors, expire_before, owners))
            cursors.clear()
            if owners:
                self._drop_unauthorized_readers(owners)
                owners.clear()
        except JournalDamaged as error:
            if not expire_before:
                raise
            self._disable_expiry(error)
            failure = str(error)
        except JournalError as error:
            failure = str(error)
        if bool(failure) != self._is_commit_failing:
            self._is_commit_failing = bool(failure)
            log.warning("broker: %s", failure or "the journal can be written again")
        return failure

    def _sweep(self) -> int:
        """Maintain connections and journal once a second; return the offset to expire before."""
        now = time.monotonic()
        if now < self._last_sweep + _SWEEP_SECONDS:
            return 0
        for identity, connection in list(self._connections.items()):
            if now - connection.last_seen > _SILENT_SECONDS:
                self._forget(identity)
        if self._authenticator is not None and self._authenticator.check_keys():
            self._drop_changed_keys()
        self._maintenance.publish_refusals(now)
        expire_before = 0
        try:
            if self._is_expiry_enabled:
                expire_before = self._maintenance.maintain(self._subscriptions.connected_names)
        except JournalDamaged as error:
            self._disable_expiry(error)
        except JournalError as error:
            log.warning("broker: maintenance has to wait: %s", error)
        # While entries expire, one step in each loop keeps up with any producer.
        self._last_sweep = now if not expire_before else float("-inf")
        return expire_before

    def _drop_changed_keys(self) -> None:
        """Forget connections whose roles are others than before; they begin again."""
        for identity, connection in list(self._connections.items()):
            if (
                connection.public_key
                and principal_of(self._authenticator, connection.public_key) != connection.principal
            ):
                self._forget(identity)

    def _drop_unauthorized_readers(self, owners: Mapping[str, str]) -> None:
        """End subscriptions to runs that another key owns now; WHO answers their next CUR."""
        for identity, connection in self._connections.items():
            principal = connection.principal
            if (principal and connection.provisional_runs) and any(
                run in connection.provisional_runs and principal.ownership_denial(run, owner)
                for run, owner in owners.items()
            ):
                self._subscriptions.drop(identity)

    def _flush_refusals(self) -> None:
        """Publish the refusals that were only counted so far."""
        self._maintenance.publish_refusals(math.inf)
        self._commit(0)

    def _disable_expiry(self, error: JournalDamaged) -> None:
        # Old entries may be damaged while new ones can be kept and read.
        self._is_expiry_enabled = False
        log.warning("broker: expiry is disabled: %s", error)

    def _forget(self, identity: bytes) -> None:
        self._connections.pop(identity, None)
        self._subscriptions.drop(identity)

    def _send(self, frames: Frames) -> SendResult:
        try:
            for frame in frames[:-1]:
                self._socket.send(frame, _SEND_MORE)
            self._socket.send(frames[-1], _SEND_LAST)
        except zmq.Again:
            return SendResult.BUSY
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._forget(frames[0])
            return SendResult.GONE
        return SendResult.SENT
