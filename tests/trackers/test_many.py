"""One run goes to several trackers at once, and many runs at once go to two."""

from __future__ import annotations

import contextlib
import copy
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.protocol.events import Event
from lineside.bus.testing import Producer, read_all
from lineside.subscribers.callback_host.worker_spec import callback_folder
from tests.emitter.streams import data_of
from tests.support.waiting import DEADLINE, wait_until
from tests.trackers import stores
from tests.trackers.cases import CASES
from tests.trackers.comparison import differences, result
from tests.trackers.harness import HOSTED_SECONDS, RUN, Twins

THREE = [case for case in CASES if case.name in ("tensorboard", "mlflow", "trackio")]
RAISES = """
from transformers import TrainerCallback

class Raises(TrainerCallback):
    def on_train_begin(self, *_, **__):
        raise RuntimeError("no hook works")

    on_step_end = on_log = on_evaluate = on_save = on_train_end = on_train_begin
"""
RUNS = 20
STEPS = 12
CHUNK = 20  # events of a run that are published before the next run's
ATTEMPT = "20261121T000000.000-0000"


def test_a_callback_that_always_raises_leaves_three_trackers_as_they_would_be_in_process(
    twins: Twins,
) -> None:
    left, right = twins.folder / "in-process", twins.folder / "hosted"
    for folder in (left, right):
        folder.mkdir()
    (twins.folder / "raises.py").write_text(RAISES)
    raises = {"name": f"{twins.folder}/raises.py:Raises", "id": "raises", "torch": False}
    twins.start_host([*(case.entry(right) for case in THREE), raises])
    variables = {name: value for case in THREE for name, value in case.variables(left).items()}
    names = [case.name for case in THREE]
    twins.train("whole", names, variables)
    twins.wait_hosted(*names, "raises")
    for case in THREE:
        in_process = case.read(left)
        assert in_process.points
        result(differences(in_process, case.read(right)), case.explained)
    events = read_all(twins.broker.address)
    errors = {e.kind: data_of(e) for e in events if e.kind == SUBSCRIBER_ERROR}
    assert "no hook works" in str(errors)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_twenty_runs_at_once_reach_two_trackers_whole(twins: Twins) -> None:
    twins.train("whole")
    events = read_all(twins.broker.address, [f"{RUN}/rank0"])
    trackio = twins.folder / "trackio"
    entries: list[dict[str, Any]] = [
        {"name": "tensorboard", "id": "tensorboard"},
        {"name": "trackio", "id": "trackio", "environment": {"TRACKIO_DIR": str(trackio)}},
    ]
    twins.start_host(entries, max_processes=8)
    runs = [f"run-{number:02}" for number in range(RUNS)]
    with contextlib.ExitStack() as stack:
        address = twins.broker.address
        streams = [f"{run}/rank0/{ATTEMPT}" for run in runs]
        producers = [stack.enter_context(Producer(address, stream)) for stream in streams]
        for index in range(0, len(events), CHUNK):
            for number, (run, producer) in enumerate(zip(runs, producers, strict=True)):
                part = events[index : index + CHUNK]
                for kind, step, data in _of_run(number, run, twins.folder, part):
                    producer.emit(kind, step=step, data=data)
                producer.flush(DEADLINE)

    def missing() -> list[Path]:
        files = [
            callback_folder(twins.home, id_, r) for id_ in ("tensorboard", "trackio") for r in runs
        ]
        return [f for f in files if " is over: finished" not in _text(f / "output.log")]

    try:
        wait_until(lambda: not missing(), "all runs are over", 2 * HOSTED_SECONDS)
    except TimeoutError:
        pytest.fail("\n".join(f"{file}:\n{_text(file / 'output.log')}" for file in missing()))
    assert SUBSCRIBER_ERROR not in [event.kind for event in read_all(twins.broker.address)]
    rows = _trackio_losses(trackio)
    for number, run in enumerate(runs):
        losses = _losses(number)
        points = stores.tensorboard(twins.folder / run).points
        assert points["train/loss"] == [(step, pytest.approx(loss)) for step, loss in losses]
        assert rows.get(run) == losses


def _losses(number: int) -> list[tuple[int, float]]:
    """Steps and losses of the run with this number; those of each run differ."""
    return [(step, number + step / 100) for step in range(1, STEPS + 1)]


def _of_run(number: int, run: str, folder: Path, events: Sequence[Event]) -> Iterator[Any]:
    """Kind, step and data of the events of another run with this number."""
    losses = dict(_losses(number))
    for event in events:
        data = copy.deepcopy(dict(event.data or {}))
        if event.kind == "run_start":
            data["args"] |= {"output_dir": str(folder / run), "run_name": run}
        if event.kind == "log" and "loss" in data["logs"]:
            data["logs"]["loss"] = losses[event.step]
        yield event.kind, event.step, data


def _trackio_losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and losses by run, in the order in which they were stored."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in folder.glob("*.db"):
        with contextlib.closing(sqlite3.connect(file)) as store:
            for run, text in store.execute("SELECT run_name, metrics FROM metrics ORDER BY id"):
                metrics = json.loads(text)
                if "train/loss" in metrics:
                    step = int(metrics["train/global_step"])
                    found.setdefault(run, []).append((step, metrics["train/loss"]))
    return found


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
