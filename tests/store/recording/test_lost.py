"""Processes that vanish, and signs of life after that, in whatever order and by whatever clocks."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from lineside.store.history.reads import History
from lineside.store.recording.writes import Writer
from tests.store.trainer import ATTEMPT, START, Journal, Teller, heartbeat

ERROR = {"type": "ValueError", "message": "bad: batch"}
SHIPPER = "20231114T221300-ssss"


@pytest.fixture
def journal(engine: Engine) -> Journal:
    return Journal(Writer(engine))


def test_a_process_that_vanished_is_so_since_then_in_whatever_order_that_is_recorded(
    journal: Journal, history: History
) -> None:
    teller, shipper = Teller(), Teller(producer="shipper", attempt=SHIPPER, at=START + 9)
    teller.begin()
    lost = shipper.tell("process_lost", heartbeat(teller))
    journal.deliver(shipper)
    journal.deliver(teller)
    run = history.run("run")
    assert run.status == "lost"
    assert run.ended_at is not None
    assert run.ended_at.timestamp() == pytest.approx(lost.time)


@pytest.mark.parametrize(
    ("alive", "ended"),
    [(40.0, 42.0), (99.0, 100.0), (101.0, 100.0), (-1e300, 100.0), ("late", 100.0)],
)
def test_a_process_that_was_found_late_ended_soon_after_it_lived_last(
    journal: Journal, history: History, alive: float | str, ended: float
) -> None:
    teller, shipper = Teller(), Teller(producer="shipper", attempt=SHIPPER, at=START + 100)
    teller.begin()
    at = START + alive if isinstance(alive, float) else alive
    shipper.tell("process_lost", heartbeat(teller, alive_at=at))
    journal.deliver(teller, shipper)
    run = history.run("run")
    assert run.status == "lost"
    assert run.ended_at is not None
    assert run.ended_at.timestamp() == pytest.approx(START + ended)


def test_a_rank_that_went_with_its_container_is_not_the_cause_of_what_ended_that(
    journal: Journal, history: History
) -> None:
    rank0, rank1 = Teller(), Teller(producer="rank1")
    rank0.begin()
    rank1.tell("run_start", {})
    rank0.tick(30)
    raised = rank0.tell("train_error", {"error": ERROR})
    shipper = Teller(producer="shipper", attempt=SHIPPER, at=START + 100)
    shipper.tell("process_lost", heartbeat(rank1, alive_at=raised.time - 0.7))
    journal.deliver(rank0, rank1, shipper)
    assert history.run("run").reason == "ValueError: bad: batch"


@pytest.mark.parametrize("by", ["rank0", "shipper"])
@pytest.mark.parametrize("ending", ["process_lost", "process_exit"])
def test_an_end_is_taken_back_when_the_process_is_heard_of_after_it(
    journal: Journal, history: History, engine: Engine, by: str, ending: str
) -> None:
    """What lost its lock, or the command that had started it, still trains."""
    teller, shipper = Teller(), Teller(producer="shipper", attempt=SHIPPER)
    teller.begin()
    journal.deliver(teller)
    before = [shipper.tell("heartbeat", heartbeat(teller))]
    teller.tick(10)
    ended = Teller(producer="shipper", attempt="20231114T221310-tttt", at=START + 10)
    if ending == "process_exit":
        ended = Teller(producer="launcher", attempt="20231114T221310-llll", at=START + 10)
    status = {"process_lost": "lost", "process_exit": "killed"}[ending]
    said = {"attempt": ATTEMPT, "producer": "rank0", "signal": "SIGTERM", "alive_at": START + 9}
    ended.tell(ending, said)
    journal.deliver(ended)
    journal.writer.apply("journal", [journal.batch(shipper.stream, before)])
    assert history.run("run").status == status, "what was said before it says nothing of it"
    journal = Journal(Writer(engine), "another")
    teller.tick(10)
    shipper.time = teller.time
    shipper.told.clear()
    told = {"rank0": teller, "shipper": shipper}[by]
    told.tell("heartbeat" if by == "shipper" else "step_begin", heartbeat(teller))
    journal.deliver(told)
    run = history.run("run")
    assert (run.status, run.reason, run.ended_at) == ("running", None, None)


def test_a_heartbeat_that_was_stamped_a_moment_after_the_end_takes_nothing_back(
    journal: Journal, history: History
) -> None:
    """The shipper looks whether the process lives, and then at the clock."""
    teller, shipper = Teller(), Teller(producer="shipper", attempt=SHIPPER, at=START + 10.1)
    launcher = Teller(producer="launcher", attempt="20231114T221310-llll", at=START + 10)
    teller.begin()
    launcher.tell("process_exit", {"attempt": ATTEMPT, "exit_code": None, "signal": "SIGKILL"})
    journal.deliver(teller, launcher)
    shipper.tell("heartbeat", heartbeat(teller))
    shipper.tell("process_lost", heartbeat(teller, alive_at=START + 10))
    journal.deliver(shipper)
    run = history.run("run")
    assert (run.status, run.reason) == ("killed", "SIGKILL")


@pytest.mark.parametrize(("code", "name"), [(0, None), (3, None), (None, "SIGTERM")])
def test_the_end_of_a_command_that_a_training_outlived_says_nothing_of_it(
    journal: Journal, history: History, code: int | None, name: str | None
) -> None:
    teller, launcher = Teller(), Teller(producer="launcher", attempt=SHIPPER, at=START + 10)
    teller.begin()
    teller.tick(10.5)
    said = {"attempt": ATTEMPT, "exit_code": code, "signal": name, "outlived": True}
    launcher.tell("process_exit", said)
    journal.deliver(teller, launcher)
    assert history.run("run").status == "running"
    teller.tell("train_end")
    teller.tell("run_end", {"how": "exit"})
    journal.deliver(teller)
    run = history.run("run")
    assert (run.status, run.reason) == ("finished", None)


@pytest.mark.parametrize("ending", ["process_lost", "process_exit"])
def test_what_a_process_had_said_before_its_end_is_no_sign_of_life_whatever_the_clocks_say(
    journal: Journal, history: History, ending: str
) -> None:
    """The clock of a file server is behind, or that of the machine with the launcher."""
    teller = Teller()
    teller.begin()
    journal.deliver(teller)
    teller.tick(30)
    teller.do_step()
    at = teller.time - 10
    ended = Teller(producer="launcher", attempt=SHIPPER, at=at)
    if ending == "process_lost":
        ended = Teller(producer="shipper", attempt=SHIPPER, at=teller.time + 0.5)
    ended.tell(ending, heartbeat(teller, alive_at=at, signal="SIGKILL"))
    journal.deliver(ended)
    journal.deliver(teller)
    assert history.run("run").status == {"process_lost": "lost", "process_exit": "killed"}[ending]


def test_a_training_that_outlived_its_command_ended_as_it_says(
    journal: Journal, history: History
) -> None:
    teller, launcher = Teller(at=START), Teller(producer="launcher", attempt=SHIPPER, at=START + 9)
    teller.begin()
    teller.tick(60)
    teller.tell("train_end")
    launcher.tell("process_exit", {"attempt": ATTEMPT, "exit_code": None, "signal": "SIGTERM"})
    for told in (teller, launcher):
        journal.deliver(told)
    assert history.run("run").status == "finished"
