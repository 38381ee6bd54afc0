"""For tests of processes on the bus: a real broker, its faults, and its log."""

from lineside.bus.client.producer import Producer
from lineside.bus.testing.link import Link
from lineside.bus.testing.testing import BrokerProcess, read_all

__all__ = ["BrokerProcess", "Link", "Producer", "read_all"]
