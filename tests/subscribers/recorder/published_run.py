"""A run published by the test, and checks of what the recorder stored of it."""

from __future__ import annotations

from lineside.bus.errors import RunNotFound
from lineside.bus.testing import Producer
from lineside.store.history.history import History

ATTEMPT = "20261121T000000-0000"


class Training:
    """Publishes numbered steps, which the store is compared with."""

    def __init__(self, address: str, run: str = "run") -> None:
        self.producer = Producer(address, f"{run}/rank0/{ATTEMPT}")
        self.run = run
        self.steps = 0
        self.producer.emit("run_start", data={"name": run})

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.producer.close()

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.producer.emit("step_begin", step=self.steps)
            self.steps += 1
            self.producer.emit("step_end", step=self.steps)
            self.producer.emit("log", step=self.steps, data={"logs": {"loss": self.steps / 7}})

    def is_recorded(self, history: History) -> bool:
        try:
            account = history.run(self.run).loss_account
        except RunNotFound:
            return False
        return account.recorded + account.gaps >= self.producer.next_seq

    def check(self, history: History) -> None:
        """Assert that the store has each event once, in order."""
        run = history.run(self.run)
        assert run.loss_account.recorded == self.producer.next_seq
        assert run.loss_account.gaps == run.loss_account.lag == 0
        assert run.event_counts == {
            "run_start": 1,
            "step_begin": self.steps,
            "step_end": self.steps,
            "log": self.steps,
        }
        points = history.points(self.run, "loss", points=None)
        assert points.step == list(range(1, self.steps + 1))
        assert points.y == [step / 7 for step in points.step]
        assert history.timing(self.run).compute.total == self.steps
        assert history.timing(self.run).wait.total == self.steps - 1
        seqs = [event.seq for event in history.iter_events(self.run)]
        assert seqs == sorted(set(seqs))
        assert len(seqs) == self.steps + 1
