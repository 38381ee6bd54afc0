"""No peer stops another: what a hostile one costs the broker, beside a producer that behaves."""

from __future__ import annotations

import zmq

from lineside.bus.testing import BrokerProcess
from tests.bus.broker.healthy_producer import HealthyProducer
from tests.bus.conftest import RawClient


def test_a_flood_of_malformed_messages_delays_no_producer(broker: BrokerProcess) -> None:
    with HealthyProducer(broker) as healthy:
        hostile = RawClient(broker.address)
        for _ in range(5_000):
            hostile.socket.send_multipart([b"PUT", b"no stream", b"x" * 1000])
            while hostile.socket.poll(0, zmq.POLLIN):
                hostile.socket.recv_multipart()
        hostile.close()
    healthy.assert_unharmed()
