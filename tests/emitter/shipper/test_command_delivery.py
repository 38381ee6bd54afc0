"""Commands from the bus to a training in a process of its own."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.bus.client.command_client import CommandClient, CommandStatus
from lineside.bus.client.producer_pool import ProducerPool
from lineside.bus.protocol.commands import COMMAND, CONTROL_PRODUCER, Command
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Ack, Evt
from lineside.bus.testing import BrokerProcess, Producer, read_all
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.command_delivery import CommandDelivery
from lineside.emitter.spool import inbox
from lineside.emitter.spool.sidecar_process import shipper_pid
from tests.emitter.shipping import Bench
from tests.support.waiting import DEADLINE, wait_until

RUN = "steered"
Train = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def train(bench: Bench) -> Train:
    """``train(steps, seconds_before)`` in a process of its own."""

    def start(steps: int = 100_000, before: float = 0) -> subprocess.Popen[str]:
        return bench.training(steps, before, LINESIDE_RUN_ID=RUN)

    return start


@pytest.fixture
def broker(bench: Bench) -> BrokerProcess:
    return bench.broker()


@pytest.fixture
def client(bench: Bench, broker: BrokerProcess) -> Iterator[CommandClient]:
    with CommandClient(bench.address) as made:
        yield made


def ask(client: CommandClient, op: str, **args: object) -> CommandStatus:
    command = Command(op, args)
    client.send(RUN, command)
    return end_of(client, command)


def end_of(client: CommandClient, command: Command) -> CommandStatus:
    states = list(client.follow(RUN, command.id, DEADLINE))
    assert states, "the command was never requested"
    assert states[-1].is_final, states
    return states[-1]


def deliver_to_frozen(bench: Bench, client: CommandClient) -> Command:
    """A stop that is delivered to the inbox of a frozen training."""
    command = Command("stop", {"save": False})
    client.send(RUN, command)
    inbox = next(bench.spool.glob(f"{RUN}/control/*/inbox"))
    wait_until(lambda: command.id.encode() in inbox.read_bytes())
    return command


def steps_of(process: subprocess.Popen[str]) -> int:
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    return int(output.split()[-1])


def test_a_training_is_paused_changed_and_stopped_by_commands(
    client: CommandClient, train: Train, tmp_path: Path
) -> None:
    process = train()
    paused = ask(client, "pause")
    assert paused.state == "applied"
    rate = ask(client, "set_lr", lr=1e-3)
    assert (rate.state, rate.step) == ("applied", paused.step)
    assert ask(client, "resume").step == paused.step
    assert ask(client, "evaluate").state == "applied"
    stopped = ask(client, "stop")
    assert stopped.state == "applied"
    assert steps_of(process) == stopped.step > paused.step
    assert (tmp_path / "out" / f"checkpoint-{stopped.step}").is_dir()


def test_a_command_sent_before_training_waits_for_it_and_is_applied_once(
    client: CommandClient, train: Train
) -> None:
    command = Command("stop", {"save": False})
    client.send(RUN, command)
    first = train(before=1.0)
    assert end_of(client, command).state == "applied"
    assert steps_of(first) < 100
    assert steps_of(train(5)) == 5
    client.send(RUN, command)
    assert steps_of(train(5)) == 5


@pytest.mark.fault
def test_a_killed_shipper_and_broker_only_delay_a_command(
    bench: Bench, broker: BrokerProcess, client: CommandClient, train: Train
) -> None:
    process = train()
    assert ask(client, "pause").state == "applied"
    pid = shipper_pid(bench.spool)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    resume = Command("resume")
    client.send(RUN, resume)
    assert end_of(client, resume).state == "applied"
    broker.kill()
    broker.start()
    assert ask(client, "pause").state == "applied"
    assert ask(client, "stop", save=False).state == "applied"
    steps_of(process)


@pytest.mark.fault
def test_a_command_that_a_killed_training_had_not_read_waits_for_the_next(
    bench: Bench, client: CommandClient, train: Train
) -> None:
    process = train()
    assert ask(client, "log").state == "applied"
    os.kill(process.pid, signal.SIGSTOP)
    command = deliver_to_frozen(bench, client)
    process.kill()
    again = train()
    assert end_of(client, command).state == "applied"
    assert steps_of(again) < 1000


@pytest.mark.fault
def test_a_command_answered_without_a_broker_is_not_applied_by_the_next(
    bench: Bench, broker: BrokerProcess, client: CommandClient, train: Train
) -> None:
    process = train()
    assert ask(client, "pause").state == "applied"
    os.kill(process.pid, signal.SIGSTOP)
    stop = deliver_to_frozen(bench, client)
    broker.kill()
    os.kill(process.pid, signal.SIGCONT)
    first = steps_of(process) if process.wait(DEADLINE) == 0 else 0
    again = train(5)
    broker.start()
    assert steps_of(again) == 5
    assert end_of(client, stop).step == first


def test_a_training_without_commands_answers_nothing(bench: Bench, train: Train) -> None:
    bench.broker()
    assert steps_of(train(5)) == 5
    # The training ends before all is shipped if the machine is too busy.
    read_all(
        bench.address,
        [f"{RUN}/rank0"],
        until=lambda events: "run_end" in {event.kind for event in events},
        timeout=DEADLINE,
    )
    bench.events(f"{RUN}/control", 1)
    events = read_all(bench.address, [f"{RUN}/control"])
    assert [event.kind for event in events] == ["control_on"]


def review(seq: int, attempt: str = "a1") -> dict[str, object]:
    return {"seq": seq, "attempt": attempt}


def inbox_bytes(folder: Path) -> int:
    file = folder / "inbox"
    return file.stat().st_size if file.exists() else 0


def read_journal(bench: Bench, stream: Stream, folder: Path, entries: int) -> None:
    """Deliver everything of the run as a shipper does that has just started."""
    broker_connection = BrokerConnection(bench.address)
    command_delivery = CommandDelivery(broker_connection, lambda run, data: None)
    command_delivery.open_inbox(stream, folder)
    found = 0

    def subscribe() -> bool:  # the connection takes a moment
        command_delivery.poll(math.inf)
        return command_delivery._is_subscribing

    def receive() -> bool:
        nonlocal found
        for received in broker_connection.receive(0.1):
            if isinstance(received, Ack):
                command_delivery.on_ack(received)
            elif isinstance(received, Evt):
                command_delivery.on_delivery(received)
                found += received.count
        return found == entries

    wait_until(subscribe)
    wait_until(receive)
    broker_connection.close()


def test_a_review_follows_the_commands_before_it_and_only_in_its_attempt(
    bench: Bench, broker: BrokerProcess
) -> None:
    stream = Stream(RUN, CONTROL_PRODUCER, "a1")
    folder = bench.producer(str(stream)).folder
    old, new = Command("set_lr", {"lr": 1.0}), Command("stop")
    with ProducerPool(bench.address) as stopper:
        for kind, data in (
            (COMMAND, old.to_data()),
            (EVALUATION_REVIEWED, review(5)),
            (EVALUATION_REVIEWED, review(9, "another")),
            (EVALUATION_REVIEWED, {"attempt": "a1", "seq": "7"}),
            (COMMAND, new.to_data()),
            (EVALUATION_REVIEWED, review(7)),
            (EVALUATION_REVIEWED, review(6)),
        ):
            stopper.emit(RUN, CONTROL_PRODUCER, kind, data=data)
        stopper.flush(RUN, CONTROL_PRODUCER, DEADLINE)
    # Commands are delivered once the control stream of the attempt itself has been read.
    with Producer(bench.address, stream) as training:
        training.emit("control_on")
        training.flush(DEADLINE)
    for _ in range(2):  # a new shipper delivers all again, and the training ignores what it knows
        before = inbox_bytes(folder)
        read_journal(bench, stream, folder, 8)
        delivered = inbox.read(folder, before, inbox_bytes(folder))
        assert [event.data for event in delivered] == [old.to_data(), new.to_data(), review(7)]


def test_many_commands_are_read_without_another_poll(bench: Bench, client: CommandClient) -> None:
    sent = [Command("save") for _ in range(1_000)]
    for command in sent:
        client.send(RUN, command)
    broker_connection = BrokerConnection(bench.address)
    command_delivery = CommandDelivery(broker_connection, lambda run, data: None)
    producer = bench.producer(f"{RUN}/control/a1")
    command_delivery.open_inbox(producer.stream, producer.folder)
    command_delivery.poll(time.monotonic())
    messages = 0

    def receive() -> bool:
        nonlocal messages
        for received in broker_connection.receive(0.1):
            if isinstance(received, Ack):
                command_delivery.on_ack(received)
            elif isinstance(received, Evt):
                command_delivery.on_delivery(received)
                messages += 1
        return messages == len(sent)

    wait_until(receive)
    broker_connection.close()
