"""The role annotate: metrics to any run under the key's own name, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.bus.auth.roles import is_reserved_producer
from lineside.bus.client.producer import Producer
from lineside.bus.errors import BusError, KeyNameError
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import START, GapMessage, Hi, Put, Sub
from lineside.bus.protocol.wire import Encoder
from lineside.bus.testing import read_all
from tests.bus.broker.secured_broker import (
    SecuredBroker,
    answer_of,
    command,
    denial_of,
    is_accepted,
)
from tests.bus.conftest import STREAM, BrokerThread, RawClient, record

StartSecured = Callable[[], BrokerThread]
ConnectWith = Callable[[Path], RawClient]

OWN = Stream("run", "eval-gpu2", "a")


def metrics(seq: int) -> bytes:
    return Encoder().encode(seq, 1.5, 7, "metrics", 3, None, 0, {"metrics": {"bleu": 0.5}})


def begin(peer: RawClient, stream: Stream = STREAM) -> None:
    assert is_accepted(peer.request(Hi(stream)))
    assert is_accepted(peer.request(Put(stream, 0, 1, record(0))))


def test_metrics_go_to_runs_of_other_keys_and_of_the_brokers_machine(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    trains, annotates = secured.key("node7", "emit"), secured.key("eval-gpu2", "annotate")
    start_secured()
    begin(connect_with(trains))
    with Producer(secured.local, "local/rank0/a") as producer:
        producer.emit("log")
        producer.flush()
    for run in ("run", "local"):
        with Producer(secured.address(annotates), f"{run}/eval-gpu2/a") as producer:
            producer.emit("metrics", step=3, data={"metrics": {"bleu": 0.5}})
            producer.skip(2)
            producer.flush()
        [event] = read_all(secured.local, [f"{run}/eval-gpu2"])
        assert (event.kind, event.step, event.data) == ("metrics", 3, {"metrics": {"bleu": 0.5}})
    assert secured.has_no_refusals()


def test_other_kinds_producers_and_commands_are_refused(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    key, trains = secured.key("eval-gpu2", "annotate"), secured.key("node7", "emit")
    start_secured()
    begin(connect_with(trains))
    peer = connect_with(key)
    for name in ("rank0", "rank1", "control", "shipper", "another"):
        text = denial_of(peer.request(Hi(STREAM._replace(producer=name))))
        assert "may write to run/eval-gpu2/... only" in text
    assert "is the broker's own" in denial_of(peer.request(Hi(OWN._replace(run="_bus"))))
    assert "belongs to the audit" in denial_of(peer.request(Hi(OWN._replace(run="audit"))))
    assert is_accepted(peer.request(Hi(OWN)))
    for blob, kind in (
        (record(0), "log"),
        (command(), "command"),
        (answer_of("run_end"), "run_end"),
    ):
        text = denial_of(peer.request(Put(OWN, 0, 1, blob)))
        assert text == f"the role annotate publishes metrics and subscriber_error, not {kind}"
    both = metrics(0) + Encoder().encode(1, 1.5, 7, "run_end", 0, None, 0, None)
    assert "not run_end" in denial_of(peer.request(Put(OWN, 0, 2, both)))
    assert "takes the role read" in denial_of(peer.request(Sub("", START, 0, ("run",), 64)))
    assert "takes the role read" in denial_of(peer.request(Sub("", START, 0, ("run/control",), 64)))
    assert [event.kind for event in read_all(secured.local, ["run"])] == ["log"]
    with Producer(secured.address(key), "run/control/a") as producer:
        producer.emit("command", data={})
        with pytest.raises(BusError, match="may write to run/eval-gpu2"):
            producer.flush()


def test_annotations_of_a_run_not_yet_begun_do_not_own_it_even_after_a_restart(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    annotates = secured.key("eval-gpu2", "annotate", "emit")
    trains, limited = secured.key("node7", "emit"), secured.key("some", "annotate", runs=("nlp-*",))
    broker_thread = start_secured()
    peer = connect_with(annotates)
    assert is_accepted(peer.request(Hi(OWN)))
    assert is_accepted(peer.request(Put(OWN, 0, 1, metrics(0))))
    assert is_accepted(peer.request(GapMessage(OWN, 1, 3)))
    assert broker_thread.broker._journal.owners == {str(OWN): "eval-gpu2"}
    text = denial_of(connect_with(limited).request(Hi(OWN._replace(producer="some"))))
    assert "is for runs nlp-*" in text

    broker_thread.stop()
    broker_thread = start_secured()
    begin(connect_with(trains))
    assert broker_thread.broker._journal.owners["run"] == "node7"
    peer = connect_with(annotates)
    assert is_accepted(peer.request(Hi(OWN)))
    assert is_accepted(peer.request(Put(OWN, 3, 1, metrics(3))))
    assert "belongs to key 'node7'" in denial_of(peer.request(Hi(STREAM)))
    # In a run of its own a key with the role emit publishes every kind.
    own_run = STREAM._replace(run="mine")
    begin(peer, own_run)
    assert is_accepted(peer.request(Hi(OWN._replace(run="mine"))))
    assert is_accepted(peer.request(Put(OWN._replace(run="mine"), 0, 1, record(0))))


def test_metrics_from_the_brokers_machine_do_not_take_a_run_that_has_not_begun(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    trains, chief = secured.key("node7", "emit"), secured.key("chief", "admin")
    broker_thread = start_secured()
    for run, address in (("run", secured.local), ("other", secured.address(chief))):
        with Producer(address, f"{run}/evaluator/a") as producer:
            producer.emit("metrics", data={"metrics": {"bleu": 0.5}})
            producer.flush()
    with Producer(secured.local, "own/evaluator/a") as producer:
        producer.emit("metrics", data={"metrics": {}})
        producer.emit("log")
        producer.flush()
    broker_thread.stop()
    start_secured()
    peer = connect_with(trains)
    begin(peer)
    begin(peer, STREAM._replace(run="other"))
    assert "the broker's own machine" in denial_of(peer.request(Hi(STREAM._replace(run="own"))))


@pytest.mark.parametrize("name", ["rank0", "rank-a", "control", "shipper", "stopper", "launcher"])
def test_a_key_to_annotate_cannot_have_the_name_of_a_process_of_lineside(
    secured: SecuredBroker, name: str
) -> None:
    assert is_reserved_producer(name)
    with pytest.raises(KeyNameError, match="another name"):
        secured.key(name, "annotate")
    secured.key(name, "read")
