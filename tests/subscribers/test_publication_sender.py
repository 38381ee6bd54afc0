"""What subscribers publish reaches the bus, and one event that it cannot take holds no other."""

from __future__ import annotations

from typing import Any

import pytest

from lineside.bus.protocol.events import Stream
from lineside.bus.testing import BrokerProcess, read_all
from lineside.subscribers.publication_sender import PublicationSender
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState

OWN = Stream("run", "counter", "a")
TOO_MANY_LISTS: dict[str, Any] = {"lists": [[] for _ in range(40_000)]}


def test_publications_that_the_broker_cannot_read_are_set_aside_and_the_others_sent(
    broker: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    file, errors = SubscriberState(), list[BaseException]()
    invalid = {3, 4, 70}
    for step in range(100):
        data = TOO_MANY_LISTS if step in invalid else None
        file.publish(Publication(OWN, "metrics", step, None, 1.0, data))
    sender = PublicationSender(broker.address, file, errors.append)
    sender.start()
    events = read_all(broker.address, ["run"], until=lambda events: len(events) == 97)
    sender.close(10)
    assert [event.seq for event in events] == list(range(97))
    assert [event.step for event in events] == [s for s in range(100) if s not in invalid]
    kept = file.fetch("SELECT step, why FROM invalid ORDER BY step")
    assert [step for step, _ in kept] == sorted(invalid)
    assert all("maps and lists" in why for _, why in kept)
    assert "is set aside in the table invalid of the state file, which has 3" in caplog.text
    assert file.pending_streams() == []
    assert not errors
    file.close()
