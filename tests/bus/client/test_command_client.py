"""Sending commands and following them, with a training played by the test."""

from __future__ import annotations

import threading

import pytest

from lineside.bus.client.command_client import CommandClient
from lineside.bus.errors import BrokerUnreachable, StreamNameError
from lineside.bus.protocol.commands import APPLIED, DELIVERED, REJECTED, Command
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer, read_all
from tests.bus.conftest import StartBroker


def test_a_command_is_followed_to_its_end(start_broker: StartBroker, settings: Settings) -> None:
    start_broker()
    command = Command("set_lr", {"lr": 0.5}, reason="a try")
    with (
        CommandClient(settings.broker) as client,
        Producer(settings.broker, "run/control/training") as training,
    ):
        client.send("run", command)
        training.emit("control_on", data={"ops": []})
        training.emit(DELIVERED, step=3, data={"id": command.id})
        training.emit(APPLIED, step=4, data={"id": command.id, "from": 0.25, "to": 0.5})
        training.emit(DELIVERED, step=9, data={"id": "another"})
        training.flush()
        states = list(client.follow("run", command.id, 10))
    assert [(p.state, p.step, p.detail, p.is_final) for p in states] == [
        ("requested", 0, "", False),
        ("delivered", 3, "", False),
        ("applied", 4, "from 0.25 to 0.5", True),
    ]
    [sent] = [e for e in read_all(settings.broker, ["run/control"]) if e.kind == "command"]
    assert sent.data == command.to_data()


def test_following_ends_when_time_is_up(start_broker: StartBroker, settings: Settings) -> None:
    start_broker()
    command = Command("stop")
    with CommandClient(settings.broker) as client:
        client.send("run", command)
        assert [p.state for p in client.follow("run", command.id, 1.0)] == ["requested"]


def test_a_later_client_follows_from_the_start(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    command = Command("stop")
    with CommandClient(settings.broker) as client:
        client.send("run", command)
    with Producer(settings.broker, "run/control/training") as training:
        training.emit(REJECTED, step=4, data={"id": command.id, "why": "because"})
        training.flush()
    with CommandClient(settings.broker) as client:
        states = list(client.follow("run", command.id, 10))
        assert [p.state for p in states] == ["requested", "rejected"]
        assert states[-1].detail == "because"
        assert list(client.follow("run", command.id, 10)) == states


def test_an_answer_that_comes_meanwhile_is_received(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    command = Command("save")

    def answer() -> None:
        with Producer(settings.broker, "run/control/training") as training:
            training.emit(APPLIED, step=4, data={"id": command.id})
            training.flush()

    with CommandClient(settings.broker) as client:
        client.send("run", command)
        later = threading.Timer(0.5, answer)
        later.start()
        assert [p.state for p in client.follow("run", command.id, 20)] == ["requested", "applied"]
        later.join()


def test_sending_without_a_broker_is_an_error(settings: Settings) -> None:
    with (
        CommandClient(settings.broker) as client,
        pytest.raises(BrokerUnreachable),
    ):
        client.send("run", Command("stop"), timeout=0.5)


def test_a_run_that_cannot_be_one_is_refused(settings: Settings) -> None:
    with CommandClient(settings.broker) as client, pytest.raises(StreamNameError):
        client.send("a/b", Command("stop"))
