"""Events about checkpoints like those of a training, its archiver and a person."""

from __future__ import annotations

from typing import Any

from lineside.bus.protocol.checkpoints import CheckpointRequest
from lineside.bus.protocol.events import Event
from tests.store.trainer import ATTEMPT, START, FakeJournal, FakeProducer

FOLDER = "/out"


def path_of(step: int) -> str:
    return f"{FOLDER}/checkpoint-{step}"


def save(trainer: FakeProducer, step: int, **data: Any) -> Event:
    trainer.step = step
    return trainer.emit("save", {"checkpoint": path_of(step), **data})


def held(trainer: FakeProducer, step: int, **data: Any) -> Event:
    fields = {
        "checkpoint": path_of(step),
        "hold": f"{FOLDER}/_lineside/checkpoint-{step}",
        "why": None,
        "bytes": 100,
        "files": 3,
        "evicted": [],
        **data,
    }
    return trainer.emit("checkpoint_held", fields, step=step)


def state(step: Any, name: str, **data: Any) -> dict[str, Any]:
    return {
        "checkpoint": path_of(step),
        "attempt": ATTEMPT,
        "step": step,
        "state": name,
        "why": None,
        "retry_at": None,
        "bytes": 100,
        "sent": 0,
        "done": 0,
        "stored": 0,
        "files": 3,
        "archive": None,
        "metrics": {},
        "pinned": False,
        "best": False,
        "last": False,
        "keep": [],
        **data,
    }


class Archiver(FakeProducer):
    """The archiver's stream of a run."""

    def __init__(self, attempt: str = ATTEMPT, at: float = START + 100) -> None:
        super().__init__("run", "archiver", attempt, at)

    def report(self, step: int, name: str, **data: Any) -> None:
        kind = "checkpoint_progress" if name == "copying" else "checkpoint_state"
        self.emit(kind, state(step, name, **data))


def request(op: str, step: int, who: str = "ada@lab", number: str = "r1") -> FakeProducer:
    control = FakeProducer("run", "control", f"{who}-{number}", START + 200)
    made = CheckpointRequest(op, path_of(step), ATTEMPT, step, who, number)
    control.emit("checkpoint_request", made.to_data())
    return control


def begun(journal: FakeJournal, *steps: int) -> FakeProducer:
    trainer = FakeProducer()
    trainer.begin()
    for step in steps:
        save(trainer, step)
    journal.deliver(trainer)
    return trainer
