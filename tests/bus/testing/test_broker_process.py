"""What bus.testing offers to tests of ours and of users."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.bus.broker.service import Broker
from lineside.bus.client import producer as producer_module
from lineside.bus.client.reader import Reader
from lineside.bus.errors import AddressError, BrokerUnreachable, BusError, StreamNameError
from lineside.bus.protocol.messages import START
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, FaultyProxy, Producer, broker_process, read_all
from tests.bus.conftest import BrokerThread

STREAM = "run/rank0/a"


def publish(producer: Producer, count: int, timeout: float = 20.0) -> None:
    for _ in range(count):
        producer.emit("log")
    producer.flush(timeout)


def test_a_broker_process_lives_as_long_as_its_context(home: Path) -> None:
    broker = BrokerProcess(home)
    assert broker.pid == 0
    with broker:
        pid = broker.pid
        os.kill(pid, 0)
        assert read_all(broker.address) == []
    assert broker.pid == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    broker.stop()
    broker.kill()


def test_a_broker_process_keeps_its_journal_over_kill_and_start(broker: BrokerProcess) -> None:
    with Producer(broker.address, STREAM) as producer:
        publish(producer, 100)
        broker.kill()
        broker.start()
        publish(producer, 100)
    assert [event.seq for event in read_all(broker.address, [STREAM])] == list(range(200))


def test_the_error_of_a_broker_that_cannot_start_has_its_log(home: Path) -> None:
    (home / "journal.db").write_bytes(b"no database" * 1000)
    with pytest.raises(BusError, match=r"exit code 1: .*is damaged"):
        BrokerProcess(home).start()


@pytest.mark.parametrize("use", ["stop", "kill", "freeze", "resume"])
def test_the_error_of_a_broker_that_ended_by_itself_has_its_exit_code_and_log(
    home: Path, use: str
) -> None:
    broker = BrokerProcess(home)
    broker.start()
    os.kill(broker.pid, signal.SIGABRT)
    assert broker._process is not None
    broker._process.wait()
    with pytest.raises(BusError, match=r"(?s)ended by itself with exit code -6: .*listening at"):
        getattr(broker, use)()
    broker.stop()


def test_a_broker_takes_the_options_of_the_command(home: Path) -> None:
    with pytest.raises(BusError, match="exit code 2"):
        BrokerProcess(home, "--no-such-option").start()


def test_the_error_of_a_second_broker_on_one_home_names_the_first(broker: BrokerProcess) -> None:
    with pytest.raises(BusError, match=rf"(?s)exit code 1: .*process {broker.pid} listens there"):
        BrokerProcess(broker.home).start()
    assert read_all(broker.address) == []


def test_a_broker_that_runs_is_not_started_again(broker: BrokerProcess) -> None:
    pid = broker.pid
    broker.start()
    assert broker.pid == pid


def test_a_home_too_long_for_a_socket_is_an_error(home: Path) -> None:
    with pytest.raises(AddressError, match="a Unix socket takes 107"):
        BrokerProcess(home / ("x" * 100)).start()


def test_a_broker_that_is_never_ready_is_an_error_and_killed(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_process, "READY_SECONDS", 0.0)
    broker.stop()
    with pytest.raises(BrokerUnreachable):
        broker.start()
    assert broker.pid == 0


def test_a_broker_that_does_not_heed_the_signal_is_killed(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_process, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(BrokerProcess, "resume", lambda self: None)
    broker.freeze()
    broker.stop()
    assert broker.pid == 0


def test_the_error_of_reading_too_few_has_their_number(broker: BrokerProcess) -> None:
    with Producer(broker.address, STREAM) as producer:
        publish(producer, 3)
    with pytest.raises(TimeoutError, match=r"3 events within 0.5 s"):
        read_all(broker.address, until=lambda events: len(events) > 3, timeout=0.5)


def test_reading_all_filters_streams(broker: BrokerProcess) -> None:
    for stream in ("a/rank0/x", "b/rank0/x"):
        with Producer(broker.address, stream) as producer:
            publish(producer, 3)
    assert len(read_all(broker.address, ["b"])) == 3
    assert read_all(broker.address, ["none"]) == []


def test_seqs_that_a_producer_skips_are_a_gap(broker: BrokerProcess) -> None:
    with Producer(broker.address, STREAM) as producer:
        assert producer.emit("log", step=1, data={"a": 1}) == 0
        producer.skip(3)
        assert producer.emit("log") == 4
        producer.flush()
        assert (producer.acked, producer.next_seq) == (5, 5)
    with Reader(broker.address, start=START) as reader:
        batches = [reader.poll(5) for _ in range(3)]
    assert [gap.count for batch in batches if batch for gap in batch.gaps] == [3]


def test_a_producer_forgets_acknowledged_events_and_continues(broker: BrokerProcess) -> None:
    with Producer(broker.address, "run/rank0/a") as producer:
        producer.emit("log")
        producer.flush()
        producer.emit("log")
        producer.drop_acked()
        producer.flush()
        producer.drop_acked()
        assert producer._records == []
        assert producer.emit("log") == 2
        producer.flush()
    found = read_all(broker.address, ["run"], until=lambda events: len(events) == 3)
    assert [event.seq for event in found] == [0, 1, 2]


def test_a_producer_refuses_what_is_no_stream(home: Path) -> None:
    with pytest.raises(StreamNameError):
        Producer(f"ipc://{home}/bus.sock", "run")


def test_a_producer_ends_its_context_when_the_address_is_wrong() -> None:
    with pytest.raises(Exception, match="cannot be used"):
        Producer("tcp://127.0.0.1:1", STREAM)


def test_a_producer_without_a_broker_raises(home: Path) -> None:
    with Producer(f"ipc://{home}/bus.sock", STREAM) as producer, pytest.raises(BrokerUnreachable):
        publish(producer, 1, timeout=0.2)


def test_a_producer_of_the_brokers_own_stream_is_refused(broker: BrokerProcess) -> None:
    with (
        Producer(broker.address, "_bus/broker/a") as producer,
        pytest.raises(BusError, match="is the broker's own"),
    ):
        publish(producer, 1)


def test_a_producer_outwaits_a_full_disk(small_disk: Callable[[], Path]) -> None:
    disk = small_disk()
    (disk / "ballast").write_bytes(bytes(12 << 20))
    broker_thread = BrokerThread(Broker(Settings.from_env({"LINESIDE_HOME": str(disk)})))
    address = f"ipc://{disk}/bus.sock"
    try:
        with Producer(address, STREAM) as producer:
            for _ in range(60):
                producer.emit("log", data={"x": "y" * 100_000})
            with pytest.raises(BrokerUnreachable):
                producer.flush(timeout=2)
            assert 0 < producer.acked < 60
            (disk / "ballast").unlink()
            producer.flush(timeout=20)
        assert [event.seq for event in read_all(address)] == list(range(60))
    finally:
        broker_thread.stop()


@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_producer_goes_on_over_a_broken_link(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(producer_module, "_SILENCE_SECONDS", 0.5)
    with (
        FaultyProxy(broker.home / "link", broker.address) as link,
        Producer(link.address, STREAM) as producer,
    ):
        publish(producer, 100)
        getattr(link, how)()
        with pytest.raises(BrokerUnreachable):
            publish(producer, 100, timeout=1.0)
        link.restore()
        producer.flush(20)
    assert [event.seq for event in read_all(broker.address)] == list(range(200))


def test_a_producer_goes_on_after_a_freeze(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "_SILENCE_SECONDS", 0.5)
    with Producer(broker.address, STREAM) as producer:
        publish(producer, 10)
        broker.freeze()
        with pytest.raises(BrokerUnreachable):
            publish(producer, 1000, timeout=2.0)
        broker.resume()
        producer.flush(20)
    assert [event.seq for event in read_all(broker.address)] == list(range(1010))


def test_a_proxy_without_a_target_closes_connections(home: Path) -> None:
    with FaultyProxy(home / "link", f"ipc://{home}/none"), socket.socket(socket.AF_UNIX) as near:
        near.connect(str(home / "link"))
        near.settimeout(5)
        assert near.recv(1) == b""


def test_a_link_that_is_cut_refuses_and_one_that_is_cut_twice_is_cut(home: Path) -> None:
    with FaultyProxy(home / "link", f"ipc://{home}/none") as link:
        link.cut()
        link.cut()
        with socket.socket(socket.AF_UNIX) as near, pytest.raises(OSError, match="No such file"):
            near.connect(link.address.removeprefix("ipc://"))


def test_the_broker_ends_with_the_process_that_started_it(home: Path) -> None:
    source = f"""
import sys, time
from pathlib import Path
from lineside.bus.testing import BrokerProcess
broker = BrokerProcess(Path({str(home)!r}))
broker.start()
print(broker.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
