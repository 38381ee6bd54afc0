"""Reads what trackers keep on disk for a later upload, and what stand-ins of servers received."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.trackers.comparison import Record


def comet(folder: Path) -> Record:
    """The archives of offline experiments, together as `comet upload` sends them."""
    record = Record()
    keys = set()
    for archive in sorted(folder.glob("*.zip"), key=lambda path: path.stat().st_mtime):
        with zipfile.ZipFile(archive) as files:
            names = files.namelist()
            if "experiment.json" not in names:
                continue
            about = json.loads(files.read("experiment.json"))
            lines = files.read("messages.json").decode().splitlines()
        keys.add(about["offline_id"])
        record.details["project"] = about["project_name"]
        record.details["error"] = about["customer_error_message"]
        for line in lines:
            message = json.loads(line)
            _add_comet(record, message["type"], message["payload"])
    record.details["runs"] = len(keys)
    return record


def _add_comet(record: Record, kind: str, payload: dict[str, Any]) -> None:
    if kind == "metric_msg":
        metric = payload["metric"]
        record.add(
            metric["metricName"],
            metric["step"],
            (metric["epoch"], metric["metricValue"]),
            payload["local_timestamp"] / 1000,
        )
    elif kind == "parameter_msg":
        param = payload.get("param") or payload["params"]
        record.details[f"parameter/{param['paramName']}"] = param["paramValue"]
    elif kind == "log_other":
        record.details[f"other/{payload['key']}"] = payload["value"]
    elif kind == "graph":
        record.details["graph"] = payload["graph"]
    else:
        record.details[f"kind/{kind}"] = True


def clearml(folder: Path) -> Record:
    """The sessions that `Task.import_offline_session` sends."""
    record = Record()
    sessions = sorted(folder.glob("offline/*.zip"))
    for session in sessions:
        with zipfile.ZipFile(session) as files:
            task = json.loads(files.read("task.json"))
            lines = files.read("metrics.jsonl").decode().splitlines()
        for event in (event for line in lines for event in json.loads(line)):
            path = f"{event['metric']}/{event['variant']}"
            if event["metric"] == "Summary":  # a single value: the last one counts
                record.details[path] = event["value"]
            else:
                record.add(path, event["iter"], event["value"], event["timestamp"] / 1000)
        for name in ("name", "project_name", "type"):
            record.details[name] = task[name]
        record.add_details("script", task["script"])
        for section, parameters in task["hyperparams"].items():
            for name, parameter in parameters.items():
                record.details[f"parameter/{section}/{name}"] = parameter["value"]
        for name, item in task["configuration"].items():
            record.details[f"configuration/{name}"] = item["value"]
    record.details["runs"] = len(sessions)
    return record


def swanlab(folder: Path) -> Record:
    """The runs below ``folder``, together as `swanlab sync` sends them."""
    from swanlab.proto.swanlab.run.v1.run_pb2 import RunState

    record = Record()
    ids = set()
    for file in sorted(folder.glob("run-*/*.swanlab"), key=lambda path: path.stat().st_mtime):
        for entry in _swanlab_entries(file):
            kind = entry.WhichOneof("record_type")
            if kind == "start":
                ids.add(entry.start.id)
                record.details["project"] = entry.start.project
            elif kind == "finish":
                record.details["status"] = RunState.Name(entry.finish.state)
                record.details["error"] = entry.finish.error
            elif kind == "scalar":
                scalar = entry.scalar
                record.add(
                    scalar.key,
                    scalar.step,
                    scalar.value.number,
                    scalar.timestamp.ToNanoseconds() / 1e9,
                )
            elif kind == "log":
                record.details["console"] = True
        _add_swanlab_config(record, file.parent / "files/config.yaml")
        for name in ("requirements.txt", "swanlab-metadata.json"):
            if (file.parent / "files" / name).exists():
                record.details[f"file/{name}"] = True
    record.details["runs"] = len(ids)
    return record


def _swanlab_entries(file: Path) -> Iterator[Any]:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record as Entry
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    reader.open(str(file))
    try:
        while (data := reader.scan()) is not None:
            entry = Entry()
            entry.ParseFromString(data)
            yield entry
    finally:
        reader.close()


def _add_swanlab_config(record: Record, file: Path) -> None:
    import yaml

    for name, item in (yaml.safe_load(file.read_text()) or {}).items():
        record.details[f"config/{name}"] = item["value"]


def codecarbon(file: Path) -> Record:
    """The rows of a file of emissions: its columns, and whether something was measured."""
    record = Record()
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    record.details["runs"] = len(rows)
    for row in rows:
        record.add("has duration", 0, float(row["duration"]) > 0)
        record.add("has energy", 0, float(row["energy_consumed"]) > 0)
        for name in ("project_name", "tracking_mode", "country_name", "os", "cpu_model"):
            record.details[name] = row[name]
        record.details["columns"] = ",".join(row)
    return record


def requests(file: Path) -> Record:
    """Kubeflow's first and last report; those between come at most every 5 seconds."""
    record = Record()
    lines = file.read_text().splitlines()
    for line in (lines[0], lines[-1]):
        status = json.loads(line)["trainerStatus"]
        record.add("progressPercentage", 0, status["progressPercentage"])
        for metric in status.get("metrics", ()):
            record.add(metric["name"], 0, metric["value"])
    record.details["runs"] = 1
    return record


def calls(file: Path) -> Record:
    """The calls that a stand-in of a package received."""
    record = Record()
    ids = set()
    for line in file.read_text().splitlines():
        call = json.loads(line)
        ids.add(call["id"])
        if call["call"] == "log":
            record.add(call["path"], call.get("step") or 0, call["value"])
        elif call["call"] == "assign":
            record.details[call["path"]] = call["value"]
    record.details["runs"] = len(ids)
    return record
