"""Who is let in over a network: the answer to each CURVE handshake, and whose a message is.

libzmq asks about every key that is shown, over ZAP (ZeroMQ RFC 27), and stamps what the connection
sends with the answer's user id, which here is the key itself. Without somebody to ask it would let
any key in.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable

import zmq
from zmq.utils import z85

from lineside.bus import sockets
from lineside.bus.auth.audit import Refusal
from lineside.bus.auth.keyfile import KeyFile
from lineside.bus.auth.keyring import KEY, Entry, Keyring
from lineside.bus.auth.rights import LOCAL, Rights
from lineside.bus.errors import AddressError, AddressInUse

log = logging.getLogger("lineside")

_ZAP = "inproc://zeromq.zap.01"
_FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL) | int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_NOBODY = "nobody"  # no key is so short
_AT_ONCE = 64  # handshakes answered in one turn
_MISFIT = "the handshake failed: no CURVE, or not with this broker's public key"


class Gate:
    """Lets the keys of ``keyring`` in at ``address`` on ``router``; ``endpoint`` is where it really
    listens. ``note`` is told of each refusal.

    Raises:
        AddressError: it cannot be listened at.
        AddressInUse: somebody listens there already.
    """

    def __init__(
        self,
        context: sockets.Context,
        router: sockets.Socket,
        address: str,
        keyring: Keyring,
        own: KeyFile,
        note: Callable[[Refusal], None],
    ) -> None:
        self._keyring = keyring
        self._note = note
        self._changes = keyring.changes
        self.asked: sockets.Socket = context.socket(zmq.REP)
        """Readable when a handshake waits for an answer."""
        self.asked.bind(_ZAP)  # before anybody can connect
        where = f"inproc://{secrets.token_hex(8)}"
        router.monitor(where, _FAILED)
        self._failed: sockets.Socket = context.socket(zmq.PAIR)
        # libzmq's own thread would wait for room here, and everybody with it.
        self._failed.setsockopt(zmq.RCVHWM, 0)
        self._failed.connect(where)
        router.curve_publickey, router.curve_secretkey = own.public.encode(), own.secret.encode()
        router.curve_server = True
        router.zap_domain = b"lineside"
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # let nobody in if there is nobody to ask
        if "[" in address:
            router.ipv6 = True
        try:
            router.bind(address)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                hint = "another broker? choose another port with --listen"
                raise AddressInUse("the broker address", address, hint) from error
            raise AddressError(address, f"it cannot be listened at: {error.strerror}") from error
        self.endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)

    def turn(self) -> None:
        """Answer the handshakes that wait."""
        for _ in range(_AT_ONCE):
            try:
                self._answer(self.asked.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return

    def sweep(self) -> bool:
        """Note the handshakes that came to nothing before a key was shown; whether the list of keys
        has changed."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._failed.recv_multipart(zmq.NOBLOCK)
                self._note(Refusal("", "", "connect", self.endpoint, _MISFIT))
        self._keyring.refresh()
        known, self._changes = self._changes, self._keyring.changes
        return known != self._changes

    def rights(self, proof: str) -> Rights | None:
        """What the key may do now; None if it may be here no more."""
        entry = self._keyring.find(KEY, proof)
        return entry.rights if entry is not None and not entry.revoked else None

    def known(self, proof: str) -> Rights | None:
        """What the key may do, or might before it was revoked; None if it is not in the list."""
        entry = self._keyring.find(KEY, proof)
        return entry.rights if entry is not None else None

    def _answer(self, request: list[bytes]) -> None:
        version, number, _domain, peer, _identity, mechanism, *credentials = request
        proof = ""
        if mechanism == b"CURVE" and credentials:
            proof = z85.encode(credentials[0]).decode()
        entry, why = None, "the list of keys cannot be asked"
        try:
            entry = self._keyring.find(KEY, proof)
            why = _why_not(entry)
        except Exception:  # without an answer nobody would be let in any more
            log.exception("broker: a key could not be looked up")
        status, text, user = (b"400", b"refused", b"") if why else (b"200", b"", proof.encode())
        self.asked.send_multipart([version, number, status, text, user, b""])
        if why:
            name, role = (entry.name, entry.rights.said) if entry else (peer.decode(), "")
            self._note(Refusal(name, role, "connect", self.endpoint, why))


def proof_of(frame: zmq.Frame) -> str:
    """The key with which the message came that begins with ``frame``; empty if it came over a
    socket of this machine, where none is shown. What came neither so nor so is nobody's."""
    try:
        return str(frame.get("User-Id")) or _NOBODY
    except zmq.ZMQError:
        return "" if _is_from_here(frame) else _NOBODY


def rights_at(gate: Gate | None, proof: str) -> Rights | None:
    """What whoever showed ``proof`` may do now, if anything."""
    if not proof:
        return LOCAL
    return gate.rights(proof) if gate is not None else None


def _is_from_here(frame: zmq.Frame) -> bool:
    try:
        peer = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return False
    try:
        ipaddress.ip_address(peer)
    except ValueError:
        return bool(peer)  # of a Unix socket it is whose process it is: localhost:UID:GID:PID
    return False


def _why_not(entry: Entry | None) -> str:
    if entry is None:
        return "a key that is not in the list"
    if entry.revoked:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(entry.revoked))
        return f"key {entry.name!r} was revoked at {day}"
    return ""
