"""A real broker and a faulty network, for tests of processes on the bus. Only tests import it."""

from lineside.bus.client.producer import Producer
from lineside.bus.testing.broker_process import BrokerProcess, read_all
from lineside.bus.testing.faulty_proxy import FaultyProxy

__all__ = ["BrokerProcess", "FaultyProxy", "Producer", "read_all"]
