"""Several ranks apply a command at the same step, or none does."""

from __future__ import annotations

import random
import time

import pytest

from lineside.bus.client.reader import Reader
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.messages import START
from tests.emitter.ranks.conftest import Job
from tests.support.waiting import DEADLINE

COMMANDS = 60


@pytest.mark.fault
@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_apply_sixty_commands_alike(job: Job, ranks: int) -> None:
    chance = random.Random()
    job.start(ranks, accumulation=chance.choice([1, 3]), seed=chance.randrange(1_000_000))
    sent: list[Command] = []
    while len(sent) < COMMANDS - 1:
        burst = [job.send(op, **args) for op, args in _some(chance, COMMANDS - 1 - len(sent))]
        sent += burst
        for command in burst:
            job.wait_for_result(command)
    sent.append(job.send("stop"))
    ends = {command.id: job.wait_for_result(command) for command in sent}
    assert ends[sent[-1].id].state == "applied"
    results = job.end()
    assert len({(one["steps"], one["weights"], one["rate"]) for one in results}) == 1, results
    log = job.applied_commands()
    applied = [name for name, end in ends.items() if end.state == "applied"]
    assert len(applied) > COMMANDS / 3
    assert sorted(line[0] for line in log["control"]) == sorted(applied)
    assert all(log[f"rank{rank}"] == log["control"] for rank in range(1, ranks))
    saved = {line[2] for line in log["control"] if line[1] in ("save", "stop")}
    assert {int(path.name.split("-")[1]) for path in job.checkpoints()} == saved
    for path in job.checkpoints():
        assert {entry.name for entry in path.iterdir()} >= job.complete_checkpoint, path


def test_a_rank_without_the_callback_turns_control_off_and_training_continues(job: Job) -> None:
    job.start(2, without=[1], steps=60)
    refused = job.run_command("save")
    assert refused.state == "rejected"
    assert "no LinesideCallback on rank 1 answered in time" in refused.detail
    [one, other] = job.end()
    assert one["steps"] == other["steps"] == 60
    assert "commands are off" in job.log


def test_the_other_ranks_wait_for_a_slow_rank_0(job: Job) -> None:
    job.start(2, sets_up=7.0)
    stopped = job.run_command("stop", save=False)
    assert stopped.state == "applied"
    assert [one["steps"] for one in job.end()] == [stopped.step] * 2


def test_a_command_that_one_rank_cannot_apply_is_rejected_and_a_pause_outlasts_a_timeout(
    job: Job,
) -> None:
    job.start(2, timeout=4, no_evaluation=[1], logs_on_main=True, logging_steps=1)
    refused = job.run_command("evaluate")
    assert (refused.state, refused.detail) == (
        "rejected",
        "rank 1: the Trainer has no evaluation dataset",
    )
    paused = job.run_command("pause")
    assert "one rank may be all that logs" in job.run_command("log").detail
    time.sleep(7)
    saved = job.run_command("save")
    assert (saved.state, saved.step) == ("applied", paused.step)
    resumed = job.run_command("resume")
    assert (resumed.state, resumed.step) == ("applied", paused.step)
    again = job.run_command("pause")
    stopped = job.run_command("stop")
    assert (stopped.state, stopped.step) == ("applied", again.step)
    assert [one["steps"] for one in job.end()] == [stopped.step] * 2
    assert {path.name for path in job.checkpoints()} == {
        f"checkpoint-{step}" for step in (saved.step, stopped.step)
    }
    for path in job.checkpoints():
        assert {entry.name for entry in path.iterdir()} >= job.complete_checkpoint


@pytest.mark.long
def test_a_frozen_launcher_delays_no_rank(job: Job) -> None:
    job.start(2, steps=300, store_in_launcher=True)
    assert job.run_command("pause").state == "applied"
    job.freeze()  # this ends the pause, because no command can end it any more
    job.wait_for_ranks()
    assert "the job's store did not answer" in job.log
    job.thaw()
    assert [one["steps"] for one in job.end()] == [300, 300]


@pytest.mark.fault
def test_ranks_agree_after_one_is_killed_during_commands(job: Job) -> None:
    chance = random.Random()
    job.start(2, restarts=1, save_steps=10, seed=chance.randrange(1_000_000))
    job.run_command("log")
    sent = [job.send("set_lr", lr=chance.choice([1e-3, 2e-3, 5e-3])) for _ in range(8)]
    time.sleep(chance.random() * 1.5)
    job.kill_rank(1)
    job.wait_for_restart()
    ends = [job.wait_for_result(command) for command in sent]
    assert {end.state for end in ends} <= {"applied", "superseded", "rejected"}
    last = job.run_command("set_lr", lr=7e-4)
    assert last.state == "applied"
    assert job.run_command("stop").state == "applied"
    results = job.end()
    assert len({(one["steps"], one["weights"], one["rate"]) for one in results}) == 1
    log = job.applied_commands()
    names = [line[0] for line in log["control"]]
    assert len(names) == len(set(names)), "a command was applied twice"
    # The killed rank could not publish the last command that it applied.
    assert set(log["rank1"]) <= set(log["control"])
    assert len(log["control"]) - len(log["rank1"]) <= 1


def test_ranks_stop_at_the_evaluation_at_which_they_wait(job: Job) -> None:
    job.start(2, eval_steps=5, waits=60.0)
    with Reader(job.broker.address, start=START, streams=["ranks/rank0"]) as reader:
        for _ in range(3):
            attempt, seq, step = _evaluation(reader)
            if step == 15:
                job.send("stop", save=False)
            job.send_review(attempt, seq)
    assert [one["steps"] for one in job.end()] == [15, 15]
    assert [line[1:3] for line in job.applied_commands()["rank1"]] == [("stop", 15)]


@pytest.mark.parametrize("who", ["the launcher", "one rank"])
def test_a_sigterm_saves_and_stops_all_ranks(job: Job, who: str) -> None:
    job.start(2, stop_on_sigterm=True)
    assert job.run_command("log").state == "applied"
    job.terminate(only_rank=1 if who == "one rank" else None)
    [one, other] = job.end(is_terminated=who == "the launcher")
    assert one["steps"] == other["steps"]
    [path] = job.checkpoints()
    assert path.name == f"checkpoint-{one['steps']}"
    assert {entry.name for entry in path.iterdir()} >= job.complete_checkpoint
    log = job.applied_commands()
    assert log["control"] == log["rank1"]
    [(name, _, step, _)] = [line for line in log["control"] if line[1] == "stop"]
    assert name.startswith("sigterm-")
    assert step == one["steps"]


def _evaluation(reader: Reader) -> tuple[str, int, int]:
    """The attempt, seq and step of the next evaluation on the bus."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        batch = reader.poll(0.2)
        for event in batch.events if batch else ():
            if event.kind == "evaluate":
                assert batch is not None
                assert batch.stream is not None
                return batch.stream.attempt, event.seq, event.step
    raise AssertionError("no evaluation came")


def _some(chance: random.Random, most: int) -> list[tuple[str, dict[str, object]]]:
    """A burst of random commands; a pause ends by itself."""
    made: list[tuple[str, dict[str, object]]] = []
    for _ in range(min(chance.randint(1, 6), most)):
        op = chance.choice(["save", "evaluate", "log", "set_lr", "set_lr", "pause", "resume"])
        args: dict[str, object] = {}
        if op == "set_lr":
            args["lr"] = chance.choice([1e-4, 3e-4, 1e-3, 3e-3])
        elif op == "pause":
            args["seconds"] = round(chance.uniform(0.05, 0.4), 2)
        made.append((op, args))
    return made
