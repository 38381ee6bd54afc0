"""The bus delivers and the store records exactly the hooks that the training process called."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.client.reader import Reader
from lineside.bus.errors import RunNotFound
from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS, STEP_KINDS
from lineside.bus.protocol.events import Event, Stream
from lineside.store.history.history import History
from lineside.store.history.records import EventRow, Run
from tests.faults.stack import Stack
from tests.support.forked import ForkedScript
from tests.support.processes import environment
from tests.support.waiting import DEADLINE, wait_until

pytest.importorskip("transformers")
SCRIPT = Path(__file__).with_name("hook_log_train.py")


class TruthStack(Stack):
    """A broker, a recorder and trainings."""

    def run_training(
        self, scenario: str, output: Path, run_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Run a scenario of ``hook_log_train.py`` to its end; the hooks that were called."""
        hook_log = output.with_suffix(".json")
        variables = {"LINESIDE_RUN_ID": run_id} if run_id else {}
        with ForkedScript(
            [SCRIPT, scenario, output, hook_log], env=environment(self.home, **variables)
        ) as process:
            assert process.wait(DEADLINE) == 0
        seen: list[dict[str, Any]] = json.loads(hook_log.read_text())
        return seen

    def wait_complete(self, run_id: str) -> Run:
        """Wait until the store has every rank's whole stream; the run."""

        def complete() -> Run | None:
            try:
                run = self.history().run(run_id)
            except RunNotFound:
                return None
            ends = run.event_counts.get("run_end", 0)
            return run if ends == len(run.attempts) and not run.loss_account.lag else None

        return wait_until(complete, f"the store has all of {run_id}")

    def delivered(self, run_id: str) -> dict[Stream, list[Event]]:
        """Every event that the broker delivers of the run, by stream."""
        found: dict[Stream, list[Event]] = {}
        with Reader(self.broker.address, start="start", streams=(run_id,)) as reader:
            reader.wait_connected(DEADLINE)
            head = reader.head
            while batch := reader.poll(1.0):
                assert not batch.gaps
                assert batch.stream is not None
                found.setdefault(batch.stream, []).extend(batch.events)
                reader.commit(batch.offset)
                if batch.offset >= head:
                    break
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthStack]:
    made = TruthStack(tmp_path_factory.mktemp("truth"))
    with made:
        made.start()
        yield made


def same(left: Any, right: Any) -> bool:
    """Whether both are equal to the last bit; NaN equals NaN."""
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def check_bus(seen: list[dict[str, Any]], lifecycle: list[Event]) -> None:
    assert [event.kind for event in lifecycle] == [hook["kind"] for hook in seen]
    for hook, event in zip(seen, lifecycle, strict=True):
        data = event.data or {}
        assert event.step == hook["step"], hook
        assert same(event.epoch, hook["epoch"]), hook
        assert event.control == hook["control"], hook
        assert same(data.get("logs"), hook["logs"]), hook
        assert same(data.get("metrics"), hook["metrics"]), hook
        if "state" in data:
            state = hook["state"]
            if event.kind == "log":  # only what a log may change
                state = {name: value for name, value in state.items() if name in data["state"]}
            assert same({name: data["state"].get(name) for name in state}, state), hook


def check_account(run: Run, delivered: list[Event]) -> None:
    assert run.event_counts == dict(Counter(event.kind for event in delivered))
    assert run.loss_account.emitted == run.loss_account.recorded == len(delivered)
    assert run.loss_account.gaps == run.loss_account.lag == 0


def check_events(rows: list[EventRow], delivered: list[Event]) -> None:
    rare = [event for event in delivered if event.kind not in STEP_KINDS]
    assert [(r.kind, r.seq, r.step) for r in rows] == [(e.kind, e.seq, e.step) for e in rare]
    for row, event in zip(rows, rare, strict=True):
        assert row.problem is None
        assert same(row.epoch, event.epoch)
        assert row.time.timestamp() == pytest.approx(event.time, abs=1e-5)
        assert row.control == event.control
        assert same(row.data or {}, dict(event.data or {})), event


def check_points(stack: TruthStack, run: Run, attempt: str, logs: list[Event]) -> None:
    expected: dict[str, list[tuple[int, float | None, float]]] = {}
    for event in logs:
        for name, value in (event.data or {})["logs"].items():
            expected.setdefault(name, []).append((event.step, event.epoch, value))
    series = {s.name for s in stack.history().metrics(run.id, attempt)}
    assert expected.keys() <= series
    for name, points in expected.items():
        kept = stack.history().points(run.id, name, points=None, attempt=attempt)
        assert [(s, e) for s, e, _ in points] == list(zip(kept.step, kept.epoch, strict=True))
        assert all(same(float(v), k) for (_, _, v), k in zip(points, kept.values, strict=True))


def iter_events(history: History, run_id: str) -> list[EventRow]:
    rows: list[EventRow] = []
    after = 0
    while True:
        page = history.events(run_id, after=after, limit=500)
        rows += page.items
        if page.next is None:
            return rows
        after = int(page.next)


def compare(stack: TruthStack, run_id: str, seen: list[dict[str, Any]]) -> Run:
    """Compare the hooks, the journal and the store of one run, value by value."""
    run = stack.wait_complete(run_id)
    delivered = stack.delivered(run_id)
    run = stack.wait_complete(run_id)
    check_account(run, [event for events in delivered.values() for event in events])
    rows = iter_events(stack.history(), run_id)
    published: list[Event] = []
    for attempt in (attempt.attempt for attempt in run.attempts):
        events = delivered[Stream(run_id, "rank0", attempt)]
        assert [event.seq for event in events] == list(range(len(events)))
        of_attempt = [row for row in rows if (row.producer, row.attempt) == ("rank0", attempt)]
        check_events(of_attempt, events)
        check_points(stack, run, attempt, [event for event in events if event.kind == "log"])
        published += [event for event in events if event.kind in LIFECYCLE_KINDS]
    check_bus(seen, published)
    return run


def test_a_run_with_accumulation_evaluation_and_prediction_is_recorded_exactly(
    stack: TruthStack, tmp_path: Path
) -> None:
    seen = stack.run_training("steps", tmp_path / "out", "steps")
    run = compare(stack, "steps", seen)
    assert run.status == "finished"
    assert run.step == run.max_steps == 12
    assert {hook["kind"] for hook in seen} >= set(LIFECYCLE_KINDS) - {"push_begin"}
    saved = [hook["step"] for hook in seen if hook["kind"] == "save"]
    assert sorted({c.step for c in stack.history().checkpoints("steps")}) == sorted(set(saved))


def test_a_run_by_epochs_is_recorded_exactly(stack: TruthStack, tmp_path: Path) -> None:
    compare(stack, "epochs", stack.run_training("epochs", tmp_path / "out", "epochs"))


def test_each_train_call_is_an_attempt_of_the_same_run(stack: TruthStack, tmp_path: Path) -> None:
    run = compare(stack, "twice", stack.run_training("twice", tmp_path / "out", "twice"))
    assert len(run.attempts) == 2


def test_a_resumed_run_keeps_its_id_and_gains_an_attempt(stack: TruthStack, tmp_path: Path) -> None:
    first = stack.run_training("steps", tmp_path / "out")
    (run_id,) = {r.id for r in stack.history().runs().items if r.id not in KNOWN}
    stack.wait_complete(run_id)
    second = stack.run_training("resume", tmp_path / "out")
    run = compare(stack, run_id, first + second)
    assert len(run.attempts) == 2
    assert run.attempts[1].resumed_step is not None
    assert run.attempts[1].resumed_attempt == run.attempts[0].attempt


KNOWN = {"steps", "epochs", "twice", "only"}


def test_evaluation_without_training_is_a_run(stack: TruthStack, tmp_path: Path) -> None:
    compare(stack, "only", stack.run_training("evaluate_only", tmp_path / "out", "only"))
