"""What the page shows of runs: metrics within limits, statuses, ends, labels of any text."""

from __future__ import annotations

import json
import math

import pytest

from lineside.bus.protocol.events import INTERNAL_RUN
from lineside.bus.settings import Settings, make_private_folder
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.exporter.exporter import LINGER_SECONDS, SILENT_SECONDS
from lineside.subscribers.exporter.record import RunRecord
from tests.subscribers.exporter.conftest import StartExporter
from tests.subscribers.exporter.exporting import (
    OPENMETRICS,
    Clock,
    Samples,
    parse,
    parse_openmetrics,
    select,
    value,
)


def status(samples: Samples, run: str = "run") -> str:
    [found] = [
        dict(labels)["status"]
        for labels, is_so in select(samples, "lineside_run_status", run=run).items()
        if is_so
    ]
    return found


def test_a_metric_beyond_the_limit_of_a_run_is_counted_and_has_no_series(
    start_exporter: StartExporter, training: Producer
) -> None:
    for step in (1, 2):
        logs = {f"metric {n}": float(n) for n in range(7)}
        training.emit("log", step=step, data={"logs": logs})
    training.flush()
    harness = start_exporter(max_metrics=5)
    harness.read_all()
    samples = harness.samples()
    names = {dict(labels)["metric"] for labels in select(samples, "lineside_run_metric")}
    assert names == {f"metric {n}" for n in range(5)}
    assert value(samples, "lineside_run_metrics_dropped_total", run="run") == 4


def test_labels_of_any_text_come_back_from_both_formats(
    start_exporter: StartExporter, broker: BrokerProcess
) -> None:
    name, metric = 'a "quoted"\\ name\nof ünïcode\t', 'eval/"x"\nof \\n'
    with Producer(broker.address, "odd/rank0/a1") as producer:
        producer.emit("run_start", data={"name": name, "project": name})
        producer.emit("train_begin")
        producer.emit("log", data={"logs": {metric: 1.5}})
        producer.flush()
    harness = start_exporter()
    harness.read_all()
    for samples in (parse(harness.text()), parse_openmetrics(harness.text(OPENMETRICS))):
        assert value(samples, "lineside_run_metric", metric=metric, project=name) == 1.5
        assert value(samples, "lineside_run_info", name=name) == 1


def test_numbers_that_are_not_finite_are_shown_and_counted(
    start_exporter: StartExporter, training: Producer
) -> None:
    for found in (math.nan, math.inf, -math.inf):
        training.emit("log", data={"logs": {"loss": found}})
    training.emit("log", data={"logs": {"grad_norm": math.nan}})
    training.flush()
    harness = start_exporter()
    harness.read_all()
    for samples in (parse(harness.text()), parse_openmetrics(harness.text(OPENMETRICS))):
        assert value(samples, "lineside_run_nonfinite_total", metric="loss") == 3
        assert value(samples, "lineside_run_loss") == -math.inf
        assert math.isnan(value(samples, "lineside_run_grad_norm"))


def test_the_series_of_a_run_leave_ten_minutes_after_its_end(
    start_exporter: StartExporter, training: Producer, clock: Clock
) -> None:
    harness = start_exporter(clock=clock)
    training.emit("step_end", step=1)
    training.flush()
    harness.read_all()
    assert status(harness.samples()) == "running"
    training.emit("train_end", step=1)
    training.emit("run_end", step=1, data={"how": "exit"})
    training.flush()
    harness.read_all()
    assert status(harness.samples()) == "finished"
    clock.now += LINGER_SECONDS - 1
    harness.exporter.render()
    assert value(harness.samples(), "lineside_run_steps_total", run="run") == 1
    clock.now += 2
    harness.exporter.render()
    assert 'run="run"' not in harness.text()
    harness.exporter.flush()
    harness.exporter.render()
    assert not harness.exporter._tracker.records, "it stays in memory"


def test_a_full_disk_does_not_end_the_page(
    start_exporter: StartExporter, training: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    training.emit("step_end", step=1)
    training.flush()
    harness = start_exporter()
    exporter = harness.exporter
    assert exporter._state_file is not None
    exporter._state_file.fetch("PRAGMA max_page_count = 1")  # no page more than there are
    harness.read_all()
    for number in range(200):
        exporter._tracker.subscriber_errors["x" * 100 + str(number)] = 1
    exporter.flush()
    exporter._prune_at = 0.0
    exporter.tick(1.0)
    assert value(harness.samples(), "lineside_run_steps_total", run="run") == 1
    assert any("free disk space" in record.getMessage() for record in caplog.records)
    exporter._state_file.fetch("PRAGMA max_page_count = 100000")
    exporter.flush()
    assert exporter._state_file.load("run") is not None, "it is saved when there is space again"


def test_an_exporter_whose_state_file_cannot_be_used_keeps_its_counters_in_memory(
    start_exporter: StartExporter,
    settings: Settings,
    training: Producer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    training.emit("step_end", step=1)
    training.flush()
    folder = make_private_folder(settings.home / "exporter")
    (folder / "state1.db").write_bytes(b"no database" * 100)
    harness = start_exporter()
    harness.read_all()
    assert value(harness.samples(), "lineside_run_steps_total", run="run") == 1
    assert any("or remove the file" in record.getMessage() for record in caplog.records)


def test_a_run_that_goes_on_after_it_left_continues_its_counters(
    start_exporter: StartExporter, training: Producer, broker: BrokerProcess, clock: Clock
) -> None:
    harness = start_exporter(clock=clock)
    for step in (1, 2, 3):
        training.emit("step_end", step=step)
    training.emit("train_end", step=3)
    training.emit("run_end", step=3, data={"how": "exit"})
    training.flush()
    harness.read_all()
    harness.exporter.flush()
    clock.now += LINGER_SECONDS + 1
    harness.exporter.render()
    assert not harness.exporter._tracker.records
    with Producer(broker.address, "run/rank0/a2") as resumed:
        resumed.emit("run_start", data={"resumed_from": {"run": "run", "attempt": "a1", "step": 2}})
        resumed.emit("train_begin", step=2)
        resumed.emit("step_end", step=3)
        resumed.flush()
    harness.read_all()
    samples = harness.samples()
    assert value(samples, "lineside_run_steps_total", run="run") == 4
    assert value(samples, "lineside_run_attempt", run="run") == 2
    assert status(samples) == "running"


def test_a_run_without_a_sign_of_life_leaves_after_a_day(
    start_exporter: StartExporter, training: Producer, clock: Clock
) -> None:
    harness = start_exporter(clock=clock)
    training.flush()
    harness.read_all()
    clock.now += 60
    harness.run_until(lambda: harness.exporter._level_at == clock.now)
    harness.exporter.render()
    assert status(harness.samples()) == "disconnected"
    clock.now += SILENT_SECONDS
    harness.run_until(lambda: harness.exporter._level_at == clock.now)
    harness.exporter.render()
    assert 'run="run"' not in harness.text()


def test_without_the_broker_the_page_keeps_its_statuses_and_is_not_healthy(
    start_exporter: StartExporter, training: Producer, broker: BrokerProcess, clock: Clock
) -> None:
    harness = start_exporter(clock=clock)
    training.flush()
    harness.read_all()
    broker.kill()
    harness.run_until(lambda: not harness.exporter.is_connected)
    clock.now += 3600
    harness.exporter.render()
    samples = harness.samples()
    assert value(samples, "lineside_exporter_connected") == 0
    assert status(samples) == "running"
    assert not harness.server.checks()["broker"]["ok"]


def test_waits_with_an_evaluation_or_a_save_are_none_for_data(
    start_exporter: StartExporter, training: Producer
) -> None:
    for step in range(1, 6):
        training.emit("step_begin", step=step - 1)
        training.emit("step_end", step=step)
        if step == 2:
            training.emit("evaluate", step=step, data={"metrics": {"eval_loss": 1.0}})
        if step == 3:
            training.emit("save", step=step, data={"checkpoint": "/out/checkpoint-3"})
    training.flush()
    harness = start_exporter()
    harness.read_all()
    samples = harness.samples()
    assert value(samples, "lineside_run_step_seconds_count") == 5
    assert value(samples, "lineside_run_data_wait_seconds_count") == 2


def test_checkpoints_commands_alerts_and_failures_of_subscribers_are_counted(
    start_exporter: StartExporter, training: Producer, broker: BrokerProcess, settings: Settings
) -> None:
    for step in (1, 2):
        training.emit("save", step=step, data={"checkpoint": f"/out/checkpoint-{step}"})
    training.emit(
        "epoch_end",
        step=2,
        data={
            "state": {"max_steps": 4, "best_metric": 0.5, "best_global_step": 1},
            "checkpoints": {"folder": "/out", "steps": [2]},
        },
    )
    training.flush()
    with Producer(broker.address, "run/control/c1") as control:
        for n, op in enumerate(("stop", "save", "unheard of")):
            control.emit("command", data={"id": f"c{n}", "op": op, "expires_at": 9e9})
        control.emit("control_applied", data={"id": "c0", "op": "stop"})
        control.flush()
    with Producer(broker.address, "run/stopper/s1") as stopper:
        for rule in ("a", "a", "b"):
            stopper.emit("alert", data={"rule": rule})
        stopper.flush()
    with Producer(broker.address, "run/slack/s1") as slack:
        for action in ("retrying", "recovered"):
            slack.emit("subscriber_error", data={"subscriber": "slack", "action": action})
        slack.flush()
    harness = start_exporter()
    harness.read_all()
    samples = harness.samples()
    assert value(samples, "lineside_checkpoints", state="local") == 1
    assert value(samples, "lineside_checkpoint_last_saved_step") == 2
    assert value(samples, "lineside_run_best_metric") == 0.5
    assert value(samples, "lineside_run_progress_ratio") == 0.5
    assert value(samples, "lineside_commands_total", op="stop", state="applied") == 1
    assert value(samples, "lineside_commands_total", op="other", state="requested") == 1
    assert value(samples, "lineside_commands_pending") == 2
    assert value(samples, "lineside_alerts_total", rule="a") == 2
    assert value(samples, "lineside_subscriber_errors_total", subscriber="slack") == 1


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("train_error", {"error": {"type": "ValueError", "message": "x"}}, "failed"),
        ("train_error", {"error": {"type": "KeyboardInterrupt", "message": ""}}, "interrupted"),
        ("run_end", {"how": "exit"}, "failed"),
        ("train_end", None, "finished"),
    ],
)
def test_the_status_is_the_one_of_the_stores_rules(
    start_exporter: StartExporter,
    training: Producer,
    kind: str,
    data: dict[str, object] | None,
    expected: str,
) -> None:
    training.emit(kind, data=data)
    training.flush()
    harness = start_exporter()
    harness.read_all()
    assert status(harness.samples()) == expected
    assert value(harness.samples(), "lineside_runs", status=expected) == 1


def test_a_saved_run_is_loaded_as_it_was_also_by_another_version(
    start_exporter: StartExporter, training: Producer
) -> None:
    for step in (1, 2):
        training.emit("step_begin", step=step - 1)
        training.emit("step_end", step=step)
        training.emit("log", step=step, data={"logs": {"loss": math.inf}})
    training.flush()
    harness = start_exporter()
    harness.read_all()
    record = harness.exporter._tracker.records["run"]
    saved = json.loads(json.dumps(record.to_dict()))
    assert RunRecord.from_dict("run", saved).to_dict() == record.to_dict()
    del saved["steps"], saved["run"]["note"]
    saved["run"]["of_a_later_version"] = saved["attempts"]["a1"]["other"] = 1
    loaded = RunRecord.from_dict("run", saved)
    assert loaded.steps == 0
    assert loaded.metrics == record.metrics


def test_open_alerts_are_known_after_a_restart(
    start_exporter: StartExporter, training: Producer, broker: BrokerProcess
) -> None:
    training.emit("step_end", step=1)
    training.flush()
    data = {"id": "a1", "rule": "lost", "state": "open", "severity": "critical"}
    with Producer(broker.address, f"{INTERNAL_RUN}/watchdog/w1") as watchdog:
        watchdog.emit("alert", data=data)
        watchdog.flush()
        harness = start_exporter()
        harness.read_all()
        harness.exporter.shutdown()
        again = start_exporter()
        again.read_all()
        assert value(again.samples(), "lineside_alerts_firing", rule="lost") == 1
        watchdog.emit("alert", data={**data, "state": "closed"})
        watchdog.flush()
        again.read_all()
        assert value(again.samples(), "lineside_alerts_firing", severity="critical") == 0
