"""What is counted as lost, and what is not."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import INTERNAL_RUN, RANK_0, Event, Gap, Stream
from lineside.subscribers.exporter.firing import MAX_RULES, OTHER, FiringAlerts
from lineside.subscribers.exporter.record import TEXT_LENGTH, RunRecord
from lineside.subscribers.exporter.samples import add_run, new_lines
from lineside.subscribers.exporter.tracker import MAX_METRICS, MAX_NAMES, MAX_RANKS, RunTracker
from tests.subscribers.exporter.exporting import Samples, parse, select, value

STREAM = Stream("run", RANK_0, "a1")
NOW = time.time()


class Feed:
    """Hands events to a tracker, each in a batch of its own."""

    def __init__(self, max_metrics: int = MAX_METRICS) -> None:
        self.tracker = RunTracker(lambda _run: None, max_metrics)
        self.now = NOW
        self._offset = 0

    def event(
        self,
        seq: int,
        kind: str = "step_end",
        stream: Stream = STREAM,
        step: int = 0,
        **data: object,
    ) -> None:
        self.read(stream, Event(seq, NOW, 0, kind, step, data=data))

    def gap(self, gap: Gap) -> None:
        self._read(gap.stream, (), (gap,))

    def lost(self) -> tuple[float, float]:
        """Events that are missing, and those dropped."""
        found = self.samples()
        return (
            value(found, "lineside_events_lost_total", reason="missing"),
            value(found, "lineside_events_lost_total", reason="dropped"),
        )

    def samples(self) -> Samples:
        lines = new_lines()
        add_run(lines, self.record, "running", self.now)
        return parse("".join(line for some in lines.values() for line in some))

    @property
    def record(self) -> RunRecord:
        return self.tracker.records["run"]

    def read(self, stream: Stream, event: Event) -> None:
        self._read(stream, (event,), ())

    def _read(
        self, stream: Stream | None, events: tuple[Event, ...], gaps: tuple[Gap, ...]
    ) -> None:
        self._offset += 1
        self.tracker.read(Batch(self._offset, stream, events, gaps), NOW)


@pytest.fixture
def feed() -> Feed:
    return Feed()


def test_events_that_never_come_are_missing_and_those_reported_are_dropped(feed: Feed) -> None:
    feed.event(0)
    feed.event(3)
    feed.gap(Gap(STREAM, 4, 9, True))
    feed.event(9)
    assert feed.lost() == (2, 5)


def test_events_that_expired_before_they_were_read_are_not_lost(feed: Feed) -> None:
    feed.event(50)
    feed.event(51)
    feed.gap(Gap(None, 10, 20))
    feed.event(80)
    assert feed.lost() == (0, 0)
    feed.event(82)
    assert feed.lost() == (1, 0)


def test_an_event_that_is_read_again_is_not_counted_again(feed: Feed) -> None:
    for seq in (0, 1, 2, 1, 2, 0, 3):
        feed.event(seq)
    assert feed.record.steps == 4


def test_labels_are_bounded(feed: Feed) -> None:
    feed.event(0, "run_start", name="n" * 5_000, project="p" * 5_000)
    for n in range(2 * MAX_NAMES):
        feed.event(n, "alert", Stream("run", "stopper", "s"), rule=f"rule {n}")
    for n in range(2 * MAX_RANKS):
        beat: dict[str, Any] = {"producer": f"rank{n}", "attempt": "a1", "phase": "training"}
        feed.event(n, "heartbeat", Stream("run", "shipper", "s"), **beat)
    samples = feed.samples()
    assert len(select(samples, "lineside_alerts_total")) == MAX_NAMES + 1
    assert value(samples, "lineside_alerts_total", rule="other") == MAX_NAMES
    assert len(select(samples, "lineside_rank_heartbeat_timestamp_seconds")) == MAX_RANKS
    for labels in select(samples, "lineside_run_info"):
        assert all(len(text) <= TEXT_LENGTH for _, text in labels)


def test_metrics_of_a_machine_have_families_and_leave_when_it_reports_no_more(feed: Feed) -> None:
    feed.event(0, "run_start")
    sampler = Stream("run", "sampler-node.1", "s")
    metrics = {"host/cpu_ratio": 0.5, "gpu11/xid_errors_total": 2, "filesystem/spool/size_bytes": 9}
    feed.event(0, "metrics", sampler, metrics=metrics | {"gpu0/of_a_later_version": 1.0})
    samples = feed.samples()
    assert value(samples, "lineside_host_cpu_ratio", host="node.1", run="run") == 0.5
    assert value(samples, "lineside_gpu_xid_errors_total", gpu="11") == 2
    assert value(samples, "lineside_filesystem_size_bytes", filesystem="spool") == 9
    assert value(samples, "lineside_run_metric", metric="gpu0/of_a_later_version") == 1
    feed.now += 61
    assert not select(feed.samples(), "lineside_host_cpu_ratio")


def test_a_loss_that_comes_after_too_many_metrics_is_shown_and_its_nan_counted() -> None:
    feed = Feed(max_metrics=3)
    feed.event(0, "run_start")
    feed.event(1, "log", logs={f"metric {n}": 1.0 for n in range(9)})
    feed.event(2, "log", logs={"loss": math.nan, "learning_rate": 0.5})
    samples = feed.samples()
    assert math.isnan(value(samples, "lineside_run_loss"))
    assert value(samples, "lineside_run_learning_rate") == 0.5
    assert value(samples, "lineside_run_nonfinite_total", metric="loss") == 1
    assert value(samples, "lineside_run_metrics_dropped_total") == 6


def test_no_two_names_of_a_sampler_lead_to_one_series(feed: Feed) -> None:
    feed.event(0, "run_start")
    names = ["gpu3/xid", "gpu03/xid", "gpu\u0663/xid", "gpu/xid", "filesystem/size_bytes"]
    metrics = {name: float(number) for number, name in enumerate(names)}
    feed.event(0, "metrics", Stream("run", "sampler-h", "s"), metrics=metrics)
    samples = feed.samples()
    assert value(samples, "lineside_gpu_xid", gpu="3") == 0.0
    assert len(select(samples, "lineside_run_metric")) == len(names) - 1


def test_an_event_that_no_handler_can_take_holds_up_no_other(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault in a handler")

    with monkeypatch.context() as patch:
        patch.setattr(feed.tracker, "add_point", fail)
        feed.event(0, "log", logs={"loss": 1.0})
    feed.event(1)
    assert feed.record.steps == 1
    assert feed.lost() == (0, 0)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"save_strategy": "epoch", "save_steps": 7}, 490),  # the most that there were
        ({"save_strategy": "steps", "save_steps": 600}, 600),
        ({"save_strategy": "steps", "save_steps": 0.05}, 250),  # a part of max_steps
        ({"save_strategy": "SaveStrategy.BEST", "save_steps": 500}, None),
        (None, 490),
    ],
)
def test_the_steps_between_checkpoints_are_those_of_the_arguments_or_the_most_there_were(
    feed: Feed, args: object, expected: float | None
) -> None:
    feed.event(0, "run_start", args=args)
    feed.event(1, "train_begin", state={"max_steps": 5_000})
    for seq, step in enumerate((10, 500), 2):
        feed.event(seq, "save", step=step, checkpoint=f"/out/checkpoint-{step}")
    if expected == 490:
        assert not select(feed.samples(), "lineside_checkpoint_interval_steps")
    feed.event(4, "save", step=900, checkpoint="/out/checkpoint-900")
    found = select(feed.samples(), "lineside_checkpoint_interval_steps").values()
    assert list(found) == ([] if expected is None else [expected])
    assert value(feed.samples(), "lineside_checkpoint_last_saved_step") == 900


def alert(alert_id: str, state: str, **changes: str) -> dict[str, Any]:
    return {"id": alert_id, "rule": "lost", "state": state, "severity": "critical", **changes}


def test_open_alerts_are_counted_by_rule_and_severity_and_a_known_rule_stays_at_0(
    feed: Feed,
) -> None:
    watchdog = Stream("run", "watchdog", "w1")
    internal = Stream(INTERNAL_RUN, "watchdog", "w1")
    feed.event(0, "run_start")
    feed.event(0, "alert", watchdog, **alert("a1", "open"))
    feed.event(1, "alert", watchdog, **alert("a2", "open"))
    feed.event(2, "alert", watchdog, **alert("a1", "open", severity="warning"))
    feed.event(0, "alert", internal, **alert("a1", "open", rule="disk_filling"))
    firing = feed.tracker.firing
    expected = {("lost", "critical"): 1, ("lost", "warning"): 1, ("disk_filling", "critical"): 1}
    assert firing.counts() == expected
    assert FiringAlerts(json.loads(json.dumps(firing.to_dict()))).counts() == expected
    feed.event(3, "alert", watchdog, **alert("a1", "closed"))
    feed.event(4, "alert", watchdog, **alert("a2", "closed"))
    feed.event(4, "alert", watchdog, **alert("a2", "open"))  # read again
    feed.event(5, "alert", watchdog, id="a3", state="open", severity="loud")
    assert firing.counts() == {**dict.fromkeys(expected, 0), ("disk_filling", "critical"): 1}
    assert value(feed.samples(), "lineside_alerts_total", rule="lost") == 2


def test_the_rules_of_open_alerts_are_bounded() -> None:
    firing = FiringAlerts()
    for number in range(MAX_RULES + 5):
        firing.read("run", alert(str(number), "open", rule=f"rule {number}"))
    assert len(firing.counts()) == MAX_RULES + 1
    assert firing.counts()[OTHER, "critical"] == 5


def test_events_that_the_broker_has_not_acknowledged_are_those_of_the_last_heartbeat(
    feed: Feed,
) -> None:
    feed.event(0)
    shipper = Stream("run", "shipper", "s")
    beat: dict[str, Any] = {"producer": "rank0", "attempt": "a1", "phase": "training"}
    for seq, emitted in enumerate((10, 25)):
        feed.event(seq, "heartbeat", shipper, **beat, emitted=emitted, acked=7)
    assert value(feed.samples(), "lineside_rank_unsent_events", rank="0") == 18
    feed.event(2, "heartbeat", shipper, **beat, emitted="many", acked=7)
    assert not select(feed.samples(), "lineside_rank_unsent_events")
