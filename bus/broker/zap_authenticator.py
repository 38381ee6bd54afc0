"""The authentication of clients over a network: CURVE keys, checked over ZAP.

libzmq asks for each key over ZAP (ZeroMQ RFC 27), and marks the messages of the connection with the
user id in the answer, which here is the key itself. Without a ZAP handler it accepts any key.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable

import zmq
from zmq.utils import z85

from lineside.bus import sockets
from lineside.bus.auth.key_file import KeyFile
from lineside.bus.auth.keyring import KEY, Credential, Keyring
from lineside.bus.auth.refusal_log import Refusal
from lineside.bus.auth.roles import LOCAL, Principal
from lineside.bus.broker.connection_monitor import ConnectionMonitor
from lineside.bus.broker.connection_watch import ConnectionWatch
from lineside.bus.errors import AddressError, AddressInUse

log = logging.getLogger("lineside")

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_UNAUTHENTICATED = "none"  # shorter than any key
_HANDSHAKES_PER_CALL = 64
_HANDSHAKE_FAILED = "the handshake failed: no CURVE, or not with this broker's public key"


class ZapAuthenticator:
    """Makes ``router``, which ``monitor`` follows, accept the keys of ``keyring`` at ``address``.

    ``endpoint`` is the address with its real port. ``on_refusal`` is called with each refusal.

    Raises:
        AddressError: the address cannot be bound.
        AddressInUse: another process listens there.
    """

    def __init__(
        self,
        context: sockets.Context,
        router: sockets.Socket,
        monitor: ConnectionMonitor,
        address: str,
        keyring: Keyring,
        key_pair: KeyFile,
        on_refusal: Callable[[Refusal], None],
    ) -> None:
        self._keyring = keyring
        self._on_refusal = on_refusal
        self._generation = keyring.generation
        self.requests: sockets.Socket = context.socket(zmq.REP)
        """Readable when a handshake waits for an answer."""
        self.requests.bind(_ZAP_ADDRESS)  # before any client can connect
        self.watch = ConnectionWatch(self._report_cut)
        """Watches the connections to ``address``."""
        monitor.on_network_accepted.append(self.watch.add)
        monitor.on_closed.append(self.watch.drop)
        monitor.on_failed_handshake.append(self._refuse_handshake)
        router.curve_publickey, router.curve_secretkey = (
            key_pair.public.encode(),
            key_pair.secret.encode(),
        )
        router.curve_server = True
        router.zap_domain = b"lineside"
        router.setsockopt(
            zmq.ZAP_ENFORCE_DOMAIN, 1
        )  # refuse every client if no ZAP handler answers
        if "[" in address:
            router.ipv6 = True
        try:
            router.bind(address)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                hint = "another broker? choose another port with --listen"
                raise AddressInUse("the broker address", address, hint) from error
            raise AddressError(address, f"it cannot be bound: {error.strerror}") from error
        self.endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)

    def answer_handshakes(self) -> None:
        """Answer waiting handshakes, a bounded number."""
        for _ in range(_HANDSHAKES_PER_CALL):
            try:
                self._answer(self.requests.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return

    def check_keys(self) -> bool:
        """Whether the list of keys has changed since the last call."""
        self._keyring.refresh()
        previous, self._generation = self._generation, self._keyring.generation
        return previous != self._generation

    def principal(self, public_key: str) -> Principal | None:
        """The client with this key; None if the key is unknown or revoked."""
        credential = self._keyring.find(KEY, public_key)
        return credential.principal if credential is not None and not credential.revoked else None

    def find_principal(self, public_key: str) -> Principal | None:
        """The client with this key, revoked or not; None if the key is unknown."""
        credential = self._keyring.find(KEY, public_key)
        return credential.principal if credential is not None else None

    def _refuse_handshake(self) -> None:
        self._on_refusal(Refusal("", "", "connect", self.endpoint, _HANDSHAKE_FAILED))

    def _report_cut(self, why: str) -> None:
        log.warning("broker: %s", why)
        self._on_refusal(Refusal("", "", "protocol", self.endpoint, why))

    def _answer(self, request: list[bytes]) -> None:
        version, number, _domain, peer, _identity, mechanism, *credentials = request
        public_key = ""
        if mechanism == b"CURVE" and credentials:
            public_key = z85.encode(credentials[0]).decode()
        credential, why = None, "the list of keys cannot be read"
        try:
            credential = self._keyring.find(KEY, public_key)
            why = _denial(credential)
        except Exception:  # without an answer no client would be accepted any more
            log.exception("broker: a key could not be looked up")
        status, text, user_id = (
            (b"400", b"refused", b"") if why else (b"200", b"", public_key.encode())
        )
        self.requests.send_multipart([version, number, status, text, user_id, b""])
        if why:
            name, role = (
                (credential.name, credential.principal.role_names)
                if credential
                else (peer.decode(), "")
            )
            self._on_refusal(Refusal(name, role, "connect", self.endpoint, why))


def public_key_of(frame: zmq.Frame) -> str:
    """The key of the connection that ``frame`` came from; empty if that is a local socket.

    Messages from other transports are unauthenticated.
    """
    try:
        return str(frame.get("User-Id")) or _UNAUTHENTICATED
    except zmq.ZMQError:
        return "" if _is_local_peer(frame) else _UNAUTHENTICATED


def principal_of(authenticator: ZapAuthenticator | None, public_key: str) -> Principal | None:
    """The client with ``public_key``; None if the key is unknown or revoked."""
    if not public_key:
        return LOCAL
    return authenticator.principal(public_key) if authenticator is not None else None


def _is_local_peer(frame: zmq.Frame) -> bool:
    try:
        peer = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return False
    try:
        ipaddress.ip_address(peer)
    except ValueError:
        return bool(peer)  # of a Unix socket: localhost:UID:GID:PID
    return False


def _denial(credential: Credential | None) -> str:
    if credential is None:
        return "the key is not in the list"
    if credential.revoked:
        revoked_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(credential.revoked))
        return f"key {credential.name!r} was revoked at {revoked_at}"
    return ""
