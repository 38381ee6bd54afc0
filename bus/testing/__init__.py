"""For tests of processes on the bus: a real broker, its faults, and its log."""

from lineside.bus.client.producer import Producer
from lineside.bus.testing.broker_process import BrokerProcess, read_all
from lineside.bus.testing.faulty_proxy import FaultyProxy

__all__ = ["BrokerProcess", "FaultyProxy", "Producer", "read_all"]
