"""The stopper's messages: one for each trigger, and only the last of those that are compacted."""

from __future__ import annotations

from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.testing import BrokerProcess, read_all
from lineside.subscribers.stopper import outbox
from lineside.subscribers.stopper.attempt_state import Trigger
from lineside.subscribers.stopper.outbox import Outbox
from lineside.subscribers.stopper.rule_parser import parse_rule

STREAM = Stream("run", "rank0", "a1")
RULE = parse_rule({"max_steps": 3, "action": "stop"}, "a test")
TRIGGER = Trigger(RULE, STREAM, 7, 3, 1000.0, "stop", "enough", {"save": False})


def evaluated(seq: int) -> Event:
    return Event(seq, 1000.0, 0, "evaluate", seq)


def test_a_trigger_that_is_found_again_is_the_same_command() -> None:
    first, second = outbox.message(TRIGGER, dry_run=False), outbox.message(TRIGGER, dry_run=False)
    assert first == second
    command = Command.from_data(first.data)
    assert (command.op, command.args, command.reason) == (
        "stop",
        {"save": False},
        "max_steps: enough",
    )
    assert command.expires_at == 1600.0
    assert command.attempt == "a1"
    dry = outbox.message(TRIGGER, dry_run=True)
    assert (dry.kind, dry.producer) == ("alert", "stopper")
    assert dry.id != first.id


def test_only_the_last_evaluation_is_answered_and_after_all_commands(
    broker: BrokerProcess,
) -> None:
    box = Outbox(broker.address)
    box.put(outbox.evaluation_reviewed(STREAM, evaluated(5)))
    box.put(outbox.message(TRIGGER, dry_run=False))
    box.put(outbox.evaluation_reviewed(STREAM, evaluated(9)))
    box.send()
    assert box.is_empty
    box.close()
    command, review = read_all(broker.address, ["run/control"])
    assert Command.from_data(command.data).op == "stop"
    assert (review.kind, review.data) == ("evaluation_reviewed", {"seq": 9, "attempt": "a1"})
