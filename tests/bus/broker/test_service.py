"""What the broker promises a producer: kept before it is confirmed, in order, once."""

from __future__ import annotations

import os
import time
from unittest.mock import ANY

import pytest

from lineside.bus.broker import service as broker_module
from lineside.bus.broker.service import Broker
from lineside.bus.errors import AddressInUse, SettingsError
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import HOLE, OK, Ack, Cur, GapMessage, Hi, Put, Who
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from tests.bus.conftest import STREAM, BrokerThread, Connect, StartBroker, record, records


def test_records_are_confirmed_after_the_last_one_kept(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    producer = peer()
    assert producer.request(Hi(STREAM)) == Ack(str(STREAM), 0, OK, 0, ANY)
    assert producer.request(Put(STREAM, 0, 3, records(0, 3))) == Ack(str(STREAM), 3, OK, 1)
    assert producer.request(Put(STREAM, 3, 2, records(3, 5))) == Ack(str(STREAM), 5, OK, 2)


def test_what_the_stream_has_already_is_trimmed(
    start_broker: StartBroker, peer: Connect, settings: Settings
) -> None:
    start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    producer.request(Put(STREAM, 0, 3, records(0, 3)))
    assert producer.request(Put(STREAM, 0, 3, records(0, 3))) == Ack(str(STREAM), 3, OK, 1)
    assert producer.request(Put(STREAM, 1, 4, records(1, 5))) == Ack(str(STREAM), 5, OK, 2)
    events = read_all(settings.broker)
    assert [event.seq for event in events] == [0, 1, 2, 3, 4]


def test_a_hole_is_refused_with_the_seq_that_is_wanted(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    assert producer.request(Put(STREAM, 2, 1, records(2, 3))) == Ack(str(STREAM), 0, HOLE, 0)
    assert producer.request(GapMessage(STREAM, 1, 2)) == Ack(str(STREAM), 0, HOLE, 0)


def test_a_gap_takes_the_place_of_records_that_cannot_be_had(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    assert producer.request(GapMessage(STREAM, 0, 10)) == Ack(str(STREAM), 10, OK, 1)
    assert producer.request(GapMessage(STREAM, 5, 12)) == Ack(str(STREAM), 12, OK, 2)
    assert producer.request(GapMessage(STREAM, 0, 12)) == Ack(str(STREAM), 12, OK, 2)
    assert producer.request(Put(STREAM, 12, 1, record(12))) == Ack(str(STREAM), 13, OK, 3)


def test_a_connection_that_has_sent_no_hi_gets_who(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    producer = peer()
    assert producer.request(Put(STREAM, 0, 1, record(0))) == Who(str(STREAM))
    assert producer.request(GapMessage(STREAM, 0, 1)) == Who(str(STREAM))
    assert producer.request(GapMessage(None, 0, 1)) == Who("")
    assert producer.request(Cur(0, 1)) == Who("")


def test_several_streams_share_a_connection(start_broker: StartBroker, peer: Connect) -> None:
    start_broker()
    producer = peer()
    streams = [Stream("run", f"rank{rank}", "a") for rank in range(3)]
    for stream in streams:
        producer.request(Hi(stream))
    for stream in streams:
        producer.send(Put(stream, 0, 2, records(0, 2)))
    acks = {producer.receive() for _ in streams}
    assert {(ack.key, ack.next) for ack in acks if isinstance(ack, Ack)} == {
        (str(stream), 2) for stream in streams
    }


def test_a_peer_that_is_silent_for_long_is_asked_who_it_is(
    start_broker: StartBroker, peer: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SILENT_SECONDS", 0.0)
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.1)
    start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    deadline = time.monotonic() + 5
    while producer.request(Put(STREAM, 0, 1, record(0))) != Who(str(STREAM)):
        assert time.monotonic() < deadline


def test_the_error_of_a_second_broker_at_the_address_names_the_first_process(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    with pytest.raises(AddressInUse, match=f"process {os.getpid()} listens there"):
        BrokerThread(Broker(settings))


def test_a_second_broker_on_the_journal_is_an_error(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    other = Settings.from_env(
        {"LINESIDE_HOME": str(settings.home), "LINESIDE_BROKER": f"ipc://{settings.home}/other"}
    )
    with pytest.raises(AddressInUse, match="another broker has it open"):
        BrokerThread(Broker(other))


def test_a_home_that_cannot_be_made_is_an_error(settings: Settings) -> None:
    (settings.home / "file").write_text("")
    inside = Settings.from_env({"LINESIDE_HOME": str(settings.home / "file" / "home")})
    with pytest.raises(SettingsError, match="cannot be made"):
        BrokerThread(Broker(inside))
