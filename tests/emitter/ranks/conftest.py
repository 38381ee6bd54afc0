"""Jobs of several ranks under torchrun, with a real broker, shipper and client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.client.command_client import CommandClient, CommandStatus
from lineside.bus.client.producer import Producer
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.commands import CONTROL_PRODUCER, Command
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Event, Stream, new_attempt
from lineside.bus.protocol.messages import START
from lineside.bus.testing import BrokerProcess
from tests.emitter.streams import data_of
from tests.support.forked import TORCHRUN, ForkedScript
from tests.support.processes import kill_writer
from tests.support.waiting import DEADLINE

Line = tuple[str, str, int, float | None]
"""A command's id and op, the step at which it was applied, and the new learning rate."""
RUN = "ranks"


class Job:
    """``torchrun`` of ``job.py``, its broker and a client that sends commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.output.mkdir()
        self.broker = BrokerProcess(folder / "bus")
        self.ranks = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client: CommandClient | None = None

    @property
    def client(self) -> CommandClient:
        if self._client is None:
            self._client = CommandClient(self.broker.address)
        return self._client

    def start(
        self, ranks: int, *, restarts: int = 0, store_in_launcher: bool = False, **plan: Any
    ) -> None:
        """Start training with ``ranks`` processes; ``job.py`` reads ``plan``."""
        self.ranks = ranks
        usual: dict[str, Any] = {
            "seed": 0,
            "late": 0.02,
            "sets_up": 0.0,
            "without": [],
            "no_evaluation": [],
            "logs_on_main": False,
            "logging_steps": 7,
            "save_steps": None,
            "save_total_limit": None,
            "late_save": 0.0,
            "eval_steps": None,
            "waits": 0.0,
            "stop_on_sigterm": False,
            "steps": 100_000,
            "accumulation": 1,
            "timeout": 60,
        }
        sizes = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
        with (self.folder / "log").open("ab") as log:
            self._process = ForkedScript(
                [TORCHRUN, *sizes, Path(__file__).with_name("job.py"), self.output],
                env={
                    **os.environ,
                    "LINESIDE_SPOOL": str(self.folder / "spool"),
                    "LINESIDE_BROKER": self.broker.address,
                    "LINESIDE_RUN_ID": RUN,
                    "OMP_NUM_THREADS": "1",
                    # In the launcher, as torch 2.13 has it, it may give a restarted rank the
                    # address of one that is gone.
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(not store_in_launcher)),
                    "JOB": json.dumps(usual | plan),
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def run_command(self, op: str, **args: Any) -> CommandStatus:
        """Send a command; its final state."""
        return self.wait_for_result(self.send(op, **args))

    def send(self, op: str, **args: Any) -> Command:
        command = Command(op, args)
        self.client.send(RUN, command)
        return command

    def send_review(self, attempt: str, seq: int) -> None:
        """Publish, as the stopper does, that the evaluation ``seq`` of ``attempt`` is reviewed."""
        stream = Stream(RUN, CONTROL_PRODUCER, new_attempt())
        with Producer(self.broker.address, stream) as producer:
            producer.emit(EVALUATION_REVIEWED, data={"seq": seq, "attempt": attempt})
            producer.flush(DEADLINE)

    def wait_for_result(self, command: Command) -> CommandStatus:
        states = list(self.client.follow(RUN, command.id, DEADLINE))
        assert states, f"{command.op} was not even requested\n{self.log}"
        assert states[-1].is_final, (states, self.log)
        return states[-1]

    def kill_rank(self, rank: int, restart: int = 0) -> None:
        os.kill(int((self.output / f"pid{rank}-{restart}").read_text()), signal.SIGKILL)

    def terminate(self, *, only_rank: int | None = None) -> None:
        """SIGTERM to the launcher, or to one rank."""
        assert self._process is not None
        if only_rank is None:
            self._process.terminate()
        else:
            os.kill(int((self.output / f"pid{only_rank}-0").read_text()), signal.SIGTERM)

    def freeze(self) -> None:
        """Stop the launcher, which serves the job's store; its ranks continue."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait_for_ranks(self) -> None:
        """Return once every rank has trained to its end."""
        until = time.monotonic() + DEADLINE
        while not all((self.output / f"rank{rank}.json").exists() for rank in range(self.ranks)):
            assert time.monotonic() < until, self.log
            time.sleep(0.05)

    def end(self, *, is_terminated: bool = False) -> list[dict[str, Any]]:
        """The result of each rank: steps, a hash of the weights, the learning rate."""
        assert self._process is not None
        code = self._process.wait(DEADLINE)
        assert code == 0 or is_terminated, self.log
        return [
            json.loads((self.output / f"rank{rank}.json").read_text()) for rank in range(self.ranks)
        ]

    def events(self) -> dict[tuple[str, str], list[Event]]:
        """All events of the run once every rank has ended, by attempt and producer."""
        waiting = {f"rank{rank}" for rank in range(self.ranks)}
        found: dict[tuple[str, str], list[Event]] = {}
        until = time.monotonic() + DEADLINE
        with Reader(self.broker.address, start=START, streams=[RUN]) as reader:
            # ``process_lost`` may arrive before the last events of that process.
            while (batch := reader.poll(1.0)) is not None or waiting:
                assert time.monotonic() < until, f"{waiting} did not end"
                if batch is None or batch.stream is None:
                    continue
                attempt, producer = batch.stream.attempt, batch.stream.producer
                found.setdefault((attempt, producer), []).extend(batch.events)
                for event in batch.events:
                    if event.kind == "run_end":
                        waiting.discard(producer)
                    elif event.kind == "process_lost":  # by the launcher, after a SIGTERM
                        waiting.discard(data_of(event)["producer"])
        return found

    def applied_commands(self) -> dict[str, list[Line]]:
        """The commands that each producer applied, in order: ``control`` for rank 0."""
        applied: dict[str, list[Line]] = {"control": []}
        for (_, producer), events in sorted(self.events().items()):
            applied.setdefault(producer, []).extend(
                (data_of(e)["id"], data_of(e)["op"], e.step, data_of(e).get("to"))
                for e in events
                if e.kind == "control_applied"
            )
        return applied

    def checkpoints(self) -> list[Path]:
        return list(self.output.glob("checkpoint-*"))

    @property
    def complete_checkpoint(self) -> set[str]:
        """The files of a complete checkpoint of this job."""
        common = {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"}
        return common | {f"rng_state_{rank}.pth" for rank in range(self.ranks)}

    def wait_for_restart(self) -> None:
        """Return once every rank was started a second time."""
        until = time.monotonic() + DEADLINE
        while not all((self.output / f"pid{rank}-1").exists() for rank in range(self.ranks)):
            assert time.monotonic() < until, self.log
            time.sleep(0.05)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for file in self.output.glob("pid*"):  # torchrun starts each in a session of its own
            kill_writer(file)
        self.broker.stop()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    with made.broker:
        yield made
        made.close()
