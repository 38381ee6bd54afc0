"""Reads what a tracker has stored, with the tracker's own reader where it has one."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trackers.comparison import Record


def tensorboard(folder: Path) -> Record:
    """The event files below ``folder``, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    record = Record()
    folders = sorted({file.parent for file in folder.rglob("events.out.tfevents.*")})
    record.details["runs"] = len(folders)
    for one in folders:
        events = EventAccumulator(str(one), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                record.add(tag, event.step, event.value, event.wall_time)
        for tag in events.Tags()["tensors"]:
            for event in events.Tensors(tag):
                text = make_ndarray(event.tensor_proto)[0].decode()
                record.add(tag, event.step, _json(text))
    return record


def wandb(folder: Path) -> Record:
    """The offline runs below ``folder``, together as `wandb sync` sends them."""
    from lineside.subscribers.callback_host.trackers.wandb_log import WandbLog

    record = Record()
    ids = set()
    for file in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.parent.name):
        if file.parent.is_symlink():
            continue
        for entry in WandbLog(file).records():
            kind = entry.WhichOneof("record_type")
            if kind == "run":
                ids.add(entry.run.run_id)
                for name in ("project", "entity", "display_name", "run_group", "job_type", "notes"):
                    record.details[f"run/{name}"] = getattr(entry.run, name)
                record.details["run/tags"] = sorted(entry.run.tags)
                _wandb_items(record, "config", entry.run.config.update)
            elif kind == "config":
                _wandb_items(record, "config", entry.config.update)
            elif kind == "summary":
                _wandb_items(record, "summary", entry.summary.update)
            elif kind == "metric" and (entry.metric.name or entry.metric.glob_name):
                name = entry.metric.name or entry.metric.glob_name
                record.details[f"metric/{name}"] = entry.metric.step_metric
            elif kind == "exit":
                record.details["status"] = entry.exit.exit_code
            elif kind == "history":
                row = {_wandb_key(item): json.loads(item.value_json) for item in entry.history.item}
                for key, value in row.items():
                    if key not in ("_timestamp", "_step", "_runtime"):
                        record.add(key, row["_step"], _json(value), row["_timestamp"])
    for points in record.points.values():
        points.sort(key=lambda point: point[0])
    record.details["runs"] = len(ids)
    return record


def _wandb_key(item: Any) -> str:
    return "/".join(item.nested_key) or item.key


def _wandb_items(record: Record, prefix: str, items: Any) -> None:
    for item in items:
        value = json.loads(item.value_json)
        key = _wandb_key(item)
        if not key.startswith("_wandb"):
            record.add_details(prefix, {key: value})


def mlflow(uri: str) -> Record:
    """All runs of all experiments at ``uri``."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    record = Record()
    client = MlflowClient(tracking_uri=uri)
    experiments = client.search_experiments()
    runs = client.search_runs([e.experiment_id for e in experiments], run_view_type=ViewType.ALL)
    record.details["runs"] = len(runs)
    for run in sorted(runs, key=lambda run: run.info.start_time):
        names = {e.experiment_id: e.name for e in experiments}
        prefix = "later/" if "status" in record.details else ""
        record.details |= {
            f"{prefix}status": run.info.status,
            f"{prefix}experiment": names[run.info.experiment_id],
            f"{prefix}name": run.info.run_name,
        }
        record.add_details(f"{prefix}param", run.data.params)
        record.add_details(f"{prefix}tag", run.data.tags)
        for key in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, key):
                record.add(key, point.step, point.value, point.timestamp / 1000)
    return record


def trackio(folder: Path) -> Record:
    """The projects in ``folder``."""
    from datetime import datetime

    record = Record()
    names = set()
    for file in sorted(folder.glob("*.db")):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.row_factory = sqlite3.Row
            for row in connection.execute("SELECT * FROM metrics ORDER BY id"):
                names.add(row["run_name"])
                time = datetime.fromisoformat(row["timestamp"]).timestamp()
                for key, value in json.loads(row["metrics"]).items():
                    record.add(key, row["step"], _json(value), time)
            for row in connection.execute("SELECT * FROM configs ORDER BY id"):
                record.add_details("config", json.loads(row["config"]))
        record.details["project"] = file.stem
    record.details["runs"] = len(names)
    record.details["name"] = sorted(names)
    return record


def dvclive(folder: Path) -> Record:
    """A folder ``dvclive`` and the ``dvc.yaml`` beside it."""
    from ruamel.yaml import YAML

    record = Record()
    for file in sorted((folder / "plots/metrics").rglob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows, delimiter="\t"):
                [(_, value)] = [(k, v) for k, v in row.items() if k not in ("step", "timestamp")]
                key = str(file.relative_to(folder / "plots/metrics").with_suffix(""))
                record.add(key, int(row["step"]), value)
    record.details["runs"] = 1
    yaml = YAML(typ="safe")
    record.add_details("summary", json.loads((folder / "metrics.json").read_text()))
    record.add_details("param", yaml.load((folder / "params.yaml").read_text()))
    description = (folder.parent / "dvc.yaml").read_text().replace(f"{folder.parent}/", "")
    record.add_details("dvc.yaml", yaml.load(description))
    return record


def _json(value: Any) -> Any:
    """A JSON text as its value; what a tracker calls "NaN" as a NaN."""
    if not isinstance(value, str):
        return value
    with contextlib.suppress(ValueError):
        return json.loads(value)
    return value


READERS: dict[str, Callable[[Any], Record]] = {
    f.__name__: f for f in (tensorboard, wandb, mlflow, trackio, dvclive)
}
