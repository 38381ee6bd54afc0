"""A broker in this process for what needs to look inside, and short folders for its socket."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import zmq

from lineside.bus import sockets
from lineside.bus.auth import refusal_log
from lineside.bus.broker.service import Broker
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Message, decode
from lineside.bus.protocol.wire import Encoder
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker

# A slow machine is no fault of the code, and a test leaves nothing behind in the checkout.
hypothesis.settings.register_profile(
    "lineside",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("lineside")

STREAM = Stream("run", "rank0", "a")


def record(seq: int, data: dict[str, object] | None = None) -> bytes:
    return Encoder().encode(seq, 1.5, 7, "log", seq, 0.5, 0, data)


def records(first: int, end: int) -> bytes:
    return b"".join(record(seq) for seq in range(first, end))


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty folder whose path is short enough for a Unix socket, whatever the test is called."""
    path = Path(tempfile.mkdtemp(prefix="ls-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.from_env({"LINESIDE_HOME": str(home)})


@pytest.fixture
def broker(home: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(home) as process:
        yield process


class BrokerThread:
    """A Broker whose turns run in a thread of this process."""

    error: BaseException | None = None

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)
        if self.error is not None:
            self._thread.join()
            raise self.error

    def _run(self) -> None:
        try:
            self.broker.startup()
            self._ready.set()
            while not self.broker.should_exit:
                self.broker.run_once()
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.error = error
        finally:
            self.broker.shutdown()
            self._ready.set()

    def stop(self) -> None:
        self.broker.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


StartBroker = Callable[..., BrokerThread]


@pytest.fixture
def start_broker(settings: Settings) -> Iterator[Callable[..., BrokerThread]]:
    """Starts brokers in this process; those still running are stopped, and must not have failed."""
    running: list[BrokerThread] = []

    def start(**options: float) -> BrokerThread:
        broker_thread = BrokerThread(Broker(settings, **options))  # type: ignore[arg-type]
        running.append(broker_thread)
        return broker_thread

    yield start
    for broker_thread in running:
        broker_thread.stop()
    assert [broker_thread.error for broker_thread in running] == [None] * len(running)


class RawClient:
    """A bare connection: frames out, messages in."""

    def __init__(self, address: str) -> None:
        self.context: sockets.Context = zmq.Context()
        self.socket = sockets.dealer(self.context, address)
        assert self.socket.poll(5000, zmq.POLLOUT)

    def send(self, message: Message) -> None:
        self.socket.send_multipart(message.encode())

    def receive(self, timeout: float = 5.0) -> Message:
        assert self.socket.poll(int(timeout * 1000)), "no answer"
        return decode(self.socket.recv_multipart())

    def request(self, message: Message) -> Message:
        self.send(message)
        return self.receive()

    def receives_nothing(self, seconds: float = 0.3) -> bool:
        return not self.socket.poll(int(seconds * 1000))

    def close(self) -> None:
        self.socket.close()
        self.context.term()


Connect = Callable[[], RawClient]


@pytest.fixture
def peer(settings: Settings) -> Iterator[Callable[[], RawClient]]:
    """Connections to the broker at the test's home."""
    peers: list[RawClient] = []

    def connect() -> RawClient:
        peers.append(RawClient(settings.broker))
        return peers[-1]

    yield connect
    for each in peers:
        each.close()


@pytest.fixture
def secured(home: Path, monkeypatch: pytest.MonkeyPatch) -> SecuredBroker:
    """Keys of the test's home; a broker in this process reports refusals twice a second."""
    monkeypatch.setattr(refusal_log, "REPORT_INTERVAL_SECONDS", 0.5)
    return SecuredBroker(home)


@pytest.fixture
def start_secured(secured: SecuredBroker, start_broker: StartBroker) -> Callable[[], BrokerThread]:
    """Starts the broker once there are keys."""

    def start() -> BrokerThread:
        broker_thread = start_broker(listen=LISTEN)
        secured.endpoint = broker_thread.broker.endpoint
        return broker_thread

    return start


@pytest.fixture
def connect_with(secured: SecuredBroker) -> Iterator[Callable[[Path], RawClient]]:
    """Connections over TCP with a key."""
    peers: list[RawClient] = []

    def connect(file: Path) -> RawClient:
        peers.append(RawClient(secured.address(file)))
        return peers[-1]

    yield connect
    for each in peers:
        each.close()


@pytest.fixture
def small_disk(home: Path) -> Iterator[Callable[[], Path]]:
    """Mounts file systems of 16 MiB; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount() -> Path:
        path = home / f"disk{len(mounted)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "lineside-test", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)
