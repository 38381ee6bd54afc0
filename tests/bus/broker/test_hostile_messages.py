"""What messages beyond the limits cost the broker, beside a producer that behaves."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import pytest
import zmq

from lineside.bus.protocol.messages import DENIED, OK, Ack, Hi, Put
from lineside.bus.testing import BrokerProcess
from tests.bus.broker.healthy_producer import HealthyProducer
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker
from tests.bus.conftest import STREAM, RawClient, record


@pytest.mark.parametrize(
    ("frames", "size"),
    [
        pytest.param(1_000_000, 0, id="a million empty frames"),
        pytest.param(64, 1 << 20, id="64 MiB in frames of 1 MiB"),
    ],
)
def test_a_message_without_an_end_cuts_the_connection_of_a_reading_key(
    home: Path, secured: SecuredBroker, frames: int, size: int
) -> None:
    key = secured.key("spy", "read")
    with BrokerProcess(home, "--listen", LISTEN) as broker:
        secured.wait()
        with HealthyProducer(broker) as healthy:
            hostile = RawClient(secured.address(key))
            for _ in range(frames):
                hostile.socket.send(bytes(size), zmq.SNDMORE)
            hostile.socket.send(b"")
            [refusal] = secured.refusals()
            assert "the connection is cut" in refusal["why"]
            hostile.close()
        healthy.assert_unharmed()


@pytest.mark.parametrize(
    ("frames", "size", "why"),
    [
        pytest.param(30_000, 0, "at most 16 frames", id="many frames"),
        pytest.param(3, 1 << 20, "2097152 bytes together", id="more bytes than one frame may have"),
    ],
)
def test_a_message_that_is_too_large_is_denied_and_the_next_one_served(
    broker: BrokerProcess, frames: int, size: int, why: str
) -> None:
    with HealthyProducer(broker) as healthy:
        hostile = RawClient(broker.address)
        hostile.socket.send_multipart([bytes(size)] * frames)
        answer = hostile.receive()
        assert isinstance(answer, Ack)
        assert answer.status == DENIED
        assert why in answer.text
        assert hostile.request(Hi(STREAM)) == Ack(str(STREAM), 0, OK, ANY, ANY)
        hostile.close()
    healthy.assert_unharmed()


def test_thirty_messages_of_15_mib_cost_no_memory(broker: BrokerProcess) -> None:
    with HealthyProducer(broker) as healthy:
        hostile = RawClient(broker.address)
        for _ in range(30):
            hostile.socket.send(bytes(15 << 20))
        assert hostile.receives_nothing(1.0)
        hostile.close()
    healthy.assert_unharmed()


def test_a_producer_that_sends_much_at_once_over_a_network_is_not_cut(
    home: Path, secured: SecuredBroker
) -> None:
    key = secured.key("trainer", "emit")
    blobs = [record(seq, {"text": "x" * 1_000_000}) for seq in range(40)]
    with BrokerProcess(home, "--listen", LISTEN):
        secured.wait()
        producer = RawClient(secured.address(key))
        producer.request(Hi(STREAM))
        for seq, blob in enumerate(blobs):
            producer.send(Put(STREAM, seq, 1, blob))
        answer = producer.receive()
        while isinstance(answer, Ack) and answer.next < len(blobs):
            assert answer.status == OK
            answer = producer.receive(30)
        producer.close()
