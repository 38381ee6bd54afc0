"""A training and its controllers, each with a key of its own, over TCP."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.bus.client.command_client import CommandClient
from lineside.bus.errors import BusError, KeyRefused
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import Event
from lineside.bus.testing import BrokerProcess, read_all
from lineside.emitter.shipper.flush import ship
from lineside.emitter.spool.sidecar_process import LOG_NAME
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker
from tests.emitter.shipping import Bench, Producer
from tests.support.waiting import DEADLINE, wait_until

RUN = "steered"
Train = Callable[[Path, int], "subprocess.Popen[str]"]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[SecuredBroker]:
    """A broker that accepts keys, one of which exists already."""
    found = SecuredBroker(tmp_path / "bus")
    found.key("node7", "emit")
    with BrokerProcess(found.home, "--listen", LISTEN):
        found.wait()
        yield found


@pytest.fixture
def train(bench: Bench, secured: SecuredBroker) -> Train:
    """``train(key, steps)`` over the network, in a process of its own."""
    return lambda key, steps: bench.training(
        steps,
        LINESIDE_HOME=str(bench.folder / "home"),
        LINESIDE_BROKER=secured.endpoint,
        LINESIDE_KEY=str(key),
        LINESIDE_RUN_ID=RUN,
    )


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_training_with_a_refused_key_is_unharmed_and_shipped_with_a_valid_one(
    bench: Bench, secured: SecuredBroker, train: Train
) -> None:
    key = bench.folder / "my.key"
    key.write_bytes(secured.key("gone", "emit").read_bytes())
    key.chmod(0o600)
    secured.keyring.revoke("gone")
    training = train(key, 20)
    output, errors = training.communicate(timeout=DEADLINE)
    assert training.returncode == 0
    assert output.split()[-1] == "20"
    assert "refuses the key" in errors
    log = bench.spool / LOG_NAME
    assert "refuses the key: it is not in the broker's list, or was revoked" in log.read_text()
    assert read_all(secured.local, [RUN]) == []

    key.write_bytes((secured.keyring.folder / "node7.key").read_bytes())
    events = read_all(
        secured.local, [f"{RUN}/rank0"], until=lambda e: "run_end" in kinds(e), timeout=DEADLINE
    )
    assert [event.seq for event in events] == list(range(len(events)))
    assert kinds(events).count("step_end") == 20
    [refusal] = [one for one in secured.refusals() if one["action"] == "connect"]
    assert (refusal["who"], refusal["role"]) == ("gone", "emit")
    assert "accepts the key now" in log.read_text()


def test_commands_with_keys_are_applied_once_and_forged_or_expired_ones_never(
    bench: Bench, secured: SecuredBroker, train: Train
) -> None:
    pilot, reader = secured.key("pilot", "control"), secured.key("eyes", "read")
    training = train(secured.keyring.folder / "node7.key", 100_000)
    save = Command("save")
    with CommandClient(secured.address(pilot)) as client:
        client.send(RUN, save)
        states = [status.state for status in client.follow(RUN, save.id, DEADLINE)]
        assert states == ["requested", "delivered", "applied"]

        late = Command("stop", expires_at=time.time() - 5)
        client.send(RUN, late)
        assert [status.state for status in client.follow(RUN, late.id, DEADLINE)][-1] == "expired"
    with CommandClient(secured.address(pilot)) as replaying:
        replaying.send(RUN, save)
    forged = Command("stop")
    with (
        CommandClient(secured.address(reader)) as forging,
        pytest.raises(BusError, match="takes the role emit"),
    ):
        forging.send(RUN, forged)
    stop = Command("stop", {"save": False})
    with CommandClient(secured.address(pilot)) as client:
        client.send(RUN, stop)
        assert [p.state for p in client.follow(RUN, stop.id, DEADLINE)][-1] == "applied"
    training.communicate(timeout=DEADLINE)
    assert training.returncode == 0
    answers = [
        (event.kind, str((event.data or {})["id"]))
        for event in read_all(secured.local, [f"{RUN}/control"])
        if event.kind != "control_on"
    ]
    assert answers.count(("command", save.id)) == 2
    assert answers.count(("control_applied", save.id)) == 1
    assert answers.count(("control_expired", late.id)) == 1
    assert forged.id not in [name for _, name in answers]
    assert len(list((bench.folder / "out").glob("checkpoint-*"))) == 1
    [refusal] = secured.refusals()
    assert (refusal["who"], refusal["role"], refusal["action"]) == ("eyes", "read", "publish")


def test_ship_raises_when_the_key_is_refused(
    bench: Bench, secured: SecuredBroker, tmp_path: Path
) -> None:
    producer: Producer = bench.producer()
    producer.send("write 5")
    producer.end()
    key = tmp_path / "my.key"
    key.write_bytes(secured.key("gone", "emit").read_bytes())
    key.chmod(0o600)
    secured.keyring.revoke("gone")
    with pytest.raises(KeyRefused, match="does not let this key in"):
        ship(bench.spool, secured.address(key), 2.0)
    shipped = ship(bench.spool, secured.address(secured.keyring.folder / "node7.key"), 20.0)
    assert (shipped.events, shipped.left) == (6, 0)  # one is process_lost


def test_a_run_of_another_key_waits_in_the_spool_and_is_logged(
    bench: Bench, secured: SecuredBroker
) -> None:
    other = secured.key("node8", "emit")
    producer: Producer = bench.producer()
    producer.send("write 5")
    shipper = bench.shipper(secured.address(secured.keyring.folder / "node7.key"))
    wait_until(lambda: producer.acked == 5)
    shipper.stop()
    producer.send("write 5")
    shipper = bench.shipper(secured.address(other))
    wait_until(lambda: "belongs to key 'node7', and this is key 'node8'" in shipper.log_text())
    assert producer.acked == 5
    shipper.stop()
    bench.shipper(secured.address(secured.keyring.folder / "node7.key"))
    wait_until(lambda: producer.acked == 10)
    assert "nothing is lost" in shipper.log_text()
    assert {one["who"] for one in secured.refusals()} == {"node8"}


def test_a_removed_key_is_logged_and_waited_for(
    bench: Bench, secured: SecuredBroker, tmp_path: Path
) -> None:
    key = tmp_path / "my.key"
    good = (secured.keyring.folder / "node7.key").read_bytes()
    key.write_bytes(secured.key("gone", "emit").read_bytes())
    key.chmod(0o600)
    secured.keyring.revoke("gone")
    producer: Producer = bench.producer()
    producer.send("write 5")
    shipper = bench.shipper(secured.address(key))
    wait_until(lambda: "refuses the key: it is not in" in shipper.log_text())
    key.unlink()
    wait_until(lambda: "it cannot be read (No such file or directory)" in shipper.log_text())
    key.write_bytes(good)
    key.chmod(0o600)
    wait_until(lambda: producer.acked == 5)


def test_a_key_revoked_while_it_ships_is_logged_and_its_successor_used(
    bench: Bench, secured: SecuredBroker, tmp_path: Path
) -> None:
    key = tmp_path / "my.key"
    key.write_bytes(secured.key("mine", "emit").read_bytes())
    key.chmod(0o600)
    producer: Producer = bench.producer()
    producer.send("write 5")
    shipper = bench.shipper(secured.address(key))
    wait_until(lambda: producer.acked == 5)
    secured.keyring.revoke("mine")

    def is_denied() -> bool:
        producer.send("write 1")
        return "denied" in shipper.log_text() and "its key was revoked" in shipper.log_text()

    wait_until(is_denied)
    end = producer.send("write 5")
    assert producer.acked <= end - 5
    key.write_bytes(secured.key("mine", "emit").read_bytes())
    wait_until(lambda: producer.acked == end, seconds=60)
    assert [event.seq for event in read_all(secured.local, ["run/rank0"])] == list(range(end))
