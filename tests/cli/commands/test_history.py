"""``runs``, ``show``, ``tail`` and ``export`` against a running stack."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cli.homes import RUN_ID, STEPS, Home
from tests.support.waiting import DEADLINE, wait_until


def test_runs_lists_the_runs(running_home: Home) -> None:
    listed = running_home.lineside("runs")
    assert listed.returncode == 0
    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["RUN", "NAME", "PROJECT", "STATUS", "STEP", "LOSS", "STARTED", "TOOK"]
    (row,) = (row for row in rows if row.startswith(RUN_ID))
    for word in ("a first run", "tests", "finished", str(STEPS), "0.003333"):
        assert word in row


def test_runs_as_json_equals_the_api(running_home: Home) -> None:
    document = json.loads(running_home.lineside("runs", "--json").stdout)
    (run,) = (item for item in document["items"] if item["id"] == RUN_ID)
    assert document["next"] is None
    assert run["event_counts"]["log"] == STEPS
    assert run["metrics"]["speed"] is None
    assert run["non_finite"] == {"/metrics/speed": "inf"}


@pytest.mark.parametrize(
    "options",
    [["--status", "failed"], ["--project", "elsewhere"], ["nowhere to be found"]],
)
def test_a_filter_without_matches_is_reported_on_stderr(
    running_home: Home, options: list[str]
) -> None:
    listed = running_home.lineside("runs", *options)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert listed.stderr == "no runs match\n"


def test_filters_find_a_run(running_home: Home) -> None:
    either = ["--status", "failed", "--status", "finished"]
    for options in (["--status", "finished"], either, ["--project", "tests"], ["FIRST"]):
        assert RUN_ID in running_home.lineside("runs", *options, "--sort", "name").stdout


@pytest.mark.parametrize(
    ("option", "value", "near"), [("--sort", "stpe", "step"), ("--status", "finish", "finished")]
)
def test_an_unknown_sort_order_or_status_is_a_usage_error(
    running_home: Home, option: str, value: str, near: str
) -> None:
    listed = running_home.lineside("runs", option, value)
    assert (listed.returncode, listed.stdout) == (2, "")
    assert value in listed.stderr
    assert f"did you mean {near}?" in listed.stderr


def test_a_long_list_continues_by_its_cursor(running_home: Home) -> None:
    for name in ("one", "two", "three"):
        running_home.train(
            "from lineside.emitter import start_run\n"
            f"start_run(run_id='{name}', project='pages').finish()"
        )
        wait_until(partial(is_recorded, running_home, name))
    seen: list[str] = []
    cursor: list[str] = []
    pages = ["runs", "--project", "pages", "--limit"]
    while True:
        document = json.loads(running_home.lineside(*pages, "1", "--json", *cursor).stdout)
        seen += [run["id"] for run in document["items"]]
        if document["next"] is None:
            break
        cursor = ["--cursor", document["next"]]
        assert document["next"] in running_home.lineside(*pages, str(len(seen))).stderr
    assert seen == ["three", "two", "one"]


def is_recorded(home: Home, run: str) -> bool:
    return home.lineside("show", run).returncode == 0


@pytest.mark.parametrize("word", [RUN_ID, "first", "a first run"])
def test_show_finds_a_run_by_id_beginning_or_name(running_home: Home, word: str) -> None:
    shown = running_home.lineside("show", word)
    assert shown.returncode == 0
    assert shown.stdout.startswith("a first run  (finished)\n")
    assert re.search(rf"log +{STEPS}\n", shown.stdout)
    assert re.search(r"emitted +(\S+)\n +recorded +\1\n +missing +0\n", shown.stdout)
    assert re.search(r"hooks +[\d.]+ us each", shown.stdout)
    assert "/somewhere/checkpoint-300" in shown.stdout


def test_show_as_json_has_streams_and_checkpoints_too(running_home: Home) -> None:
    run = json.loads(running_home.lineside("show", RUN_ID, "--json").stdout)
    (rank,) = (stream for stream in run["streams"] if stream["producer"] == "rank0")
    assert rank["emitted"] == rank["recorded"] > 3 * STEPS
    assert run["checkpoints"][0]["path"] == "/somewhere/checkpoint-300"


def test_show_counts_events_in_the_spool_and_states_what_is_not_known(home: Home) -> None:
    process, _ = home.up("--quiet")
    home.train()
    wait_until(lambda: '"status": "finished"' in home.lineside("show", RUN_ID, "--json").stdout)
    assert re.search(r"recorder +keeps up with", home.lineside("show", RUN_ID).stdout)
    process.close()
    home.train()  # another attempt, that nothing records
    shown = home.lineside("show", RUN_ID).stdout
    waiting = re.search(r"on its way +(\S+), \1 of them in the spool of this machine\n", shown)
    assert waiting is not None
    assert int(waiting[1]) > STEPS
    assert re.search(r"recorder +not known: no broker answers at ", shown)
    document = json.loads(home.lineside("show", RUN_ID, "--json").stdout)
    assert document["in_spool"] == document["loss_account"]["lag"] == int(waiting[1])
    assert document["recorder"]["keeps_up"] is None


@pytest.mark.parametrize("command", ["show", "tail", "export"])
def test_an_unknown_run_is_a_usage_error_that_names_known_ones(
    running_home: Home, command: str
) -> None:
    done = running_home.lineside(command, "nobody")
    assert done.returncode == 2
    assert re.fullmatch(r"lineside: no run 'nobody' in the store; the newest are .*\n", done.stderr)


@pytest.mark.parametrize("command", [["runs"], ["show", "x"], ["export", "x"]])
def test_a_missing_store_is_reported_with_a_remedy(home: Home, command: list[str]) -> None:
    done = home.lineside(*command)
    assert done.returncode == 1
    assert "start one with `lineside up`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_tail_from_the_start_prints_every_event_in_order(running_home: Home) -> None:
    tail = running_home.start("tail", RUN_ID, "--from-start", "--json", "--kinds", "all")
    tail.until('"kind": "run_end"')
    tail.send(signal.SIGINT)
    assert tail.wait() == 130
    events = [json.loads(line) for line in tail.out.splitlines()]
    seqs = [event["seq"] for event in events if event["producer"] == "rank0"]
    assert seqs == list(range(len(seqs)))
    assert {event["run"] for event in events} == {RUN_ID}
    (odd,) = (e for e in events if e["kind"] == "log" and e["step"] == 7)
    assert odd["data"]["logs"] == {"loss": None, "speed": None}


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {"run_start", "log", "save", "run_end"}),
        (["--kinds", "log,run_end"], {"log", "run_end"}),
        (["--kinds", "step_end, run_end"], {"step_end", "run_end"}),
    ],
)
def test_tail_shows_losses_but_step_events_only_on_request(
    running_home: Home, options: list[str], shown: set[str]
) -> None:
    tail = running_home.start("tail", RUN_ID, "--from-start", *options)
    tail.until("  run_end  ")
    tail.send(signal.SIGINT)
    assert tail.wait() == 130
    found = {line.split("  ")[2] for line in tail.out.splitlines() if "  rank0  " in line}
    assert found == shown


def test_tail_warns_of_a_kind_that_no_event_of_lineside_has(home: Home) -> None:
    tail = home.lineside("tail", "--kinds", "lg,evaluate")
    assert "--kinds: lg is no kind of Lineside's, only a script's; did you mean log?" in tail.stderr


def test_tail_shows_new_events(running_home: Home) -> None:
    tail = running_home.start("tail")
    # Tail prints only what happens once it is connected, so runs are made until it prints one.
    for _ in range(20):
        running_home.train(
            "from lineside.emitter import start_run\n"
            "with start_run(run_id='live') as run:\n"
            "    run.log(dict(loss=0.25), step=3)"
        )
        if "live" in running_home.lineside("runs").stdout and tail.peek():
            break
    tail.until(r"\d\d:\d\d:\d\d  live/rank0  log  step 3  loss 0.25\n")
    tail.send(signal.SIGINT)
    assert tail.wait() == 130
    assert "Traceback" not in tail.out


def test_a_reader_that_leaves_ends_tail_quietly(running_home: Home) -> None:
    pipe = f"{sys.executable} -m lineside.cli tail --from-start | head -n 2"
    piped = subprocess.run(
        ["bash", "-c", pipe + "; exit ${PIPESTATUS[0]}"],
        env=running_home.environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert piped.stdout.count("\n") == 2
    assert (piped.returncode, piped.stderr) == (141, "")


def test_tail_reports_a_missing_broker(home: Home) -> None:
    tail = home.lineside("tail")
    assert tail.returncode == 1
    assert re.fullmatch(r"lineside: no broker answered at ipc://.*\n", tail.stderr)


def test_tail_without_a_store_takes_run_as_an_id(home: Home) -> None:
    home.start("broker").until("listening")
    tail = home.start("tail", "anything")
    tail.until("taken as a run's id")
    tail.send(signal.SIGTERM)


def test_csv_has_every_point_with_nan_and_infinity(running_home: Home) -> None:
    done = running_home.lineside("export", RUN_ID)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["attempt", "producer", "name", "step", "epoch", "time", "value"]
    loss = {int(row["step"]): float(row["value"]) for row in rows if row["name"] == "loss"}
    assert math.isnan(loss.pop(7))
    assert loss == {step: 1 / step for step in range(1, STEPS + 1) if step != 7}
    assert {row["value"] for row in rows if row["name"] == "speed"} == {"inf"}
    assert done.stderr == f"{RUN_ID}: {len(rows)} points written\n"


def test_points_as_json_lines_are_strict(running_home: Home, tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    assert running_home.lineside("export", RUN_ID, "-o", str(file)).returncode == 0

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in file.read_text().splitlines()]
    (odd,) = (row for row in rows if row["name"] == "loss" and row["step"] == 7)
    assert odd["value"] is None
    assert odd["non_finite"] == {"/value": "nan"}


def test_points_as_parquet_have_types(running_home: Home, tmp_path: Path) -> None:
    file = tmp_path / "points.parquet"
    assert running_home.lineside("export", RUN_ID, "-o", str(file)).returncode == 0
    table = pq.read_table(file)
    types = {field.name: str(field.type) for field in table.schema}
    assert types["time"] == "timestamp[us, tz=UTC]"
    assert (types["step"], types["value"], types["name"]) == ("int64", "double", "string")
    values = table.to_pydict()
    speed = [v for name, v in zip(values["name"], values["value"], strict=True) if name == "speed"]
    assert speed == [math.inf] * STEPS


def test_timing_has_compute_and_wait_of_every_step(running_home: Home) -> None:
    done = running_home.lineside("export", RUN_ID, "--what", "timing")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    parts = [row["part"] for row in rows]
    assert parts.count("compute") == STEPS
    assert parts.count("wait") == STEPS - 1
    assert all(0 <= float(row["seconds"]) < 10 for row in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_export_has_every_event_with_its_data(
    running_home: Home, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "events"
    done = running_home.lineside(
        "export", RUN_ID, "--what", "events", "--format", kind, "--output", str(file)
    )
    assert done.returncode == 0
    rows: list[dict[str, Any]]
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
    elif kind == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pq.read_table(file).to_pylist()
    logs = [row for row in rows if row["kind"] == "log"]
    assert len(logs) == STEPS
    data = logs[1]["data"]
    logged = data if kind == "jsonl" else json.loads(data)
    assert logged["logs"]["loss"] == 0.5


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_export_has_every_checkpoint_with_its_metrics(
    running_home: Home, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "checkpoints"
    done = running_home.lineside(
        "export", RUN_ID, "--what", "checkpoints", "--format", kind, "--output", str(file)
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]]
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
    elif kind == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pq.read_table(file).to_pylist()
    last = rows[-1]
    metrics, is_last = (
        (last["metrics"], last["last"])
        if kind == "jsonl"
        else (json.loads(last["metrics"]), json.loads(last["last"]))
    )
    assert metrics["loss"] == 1 / STEPS
    assert (is_last, last["state"] or None) == (True, None)
    assert last["path"].endswith(f"-{last['step']}")


def test_an_existing_file_is_replaced_only_with_force(running_home: Home, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("precious")
    refused = running_home.lineside("export", RUN_ID, "-o", str(file))
    assert refused.returncode == 2
    assert "--force replaces it" in refused.stderr
    assert file.read_text() == "precious"
    assert running_home.lineside("export", RUN_ID, "-o", str(file), "--force").returncode == 0
    assert file.read_text().startswith("attempt,producer,name")


def test_an_unknown_attempt_is_reported_before_any_output(running_home: Home) -> None:
    result = running_home.lineside("export", RUN_ID, "--attempt", "7")
    assert result.returncode == 2
    assert "has no attempt '7'" in result.stderr
    assert result.stdout == ""


def test_a_failed_export_leaves_no_file(running_home: Home, tmp_path: Path) -> None:
    done = running_home.lineside("export", RUN_ID, "-o", str(tmp_path / "no" / "where.csv"))
    assert done.returncode == 1
    assert re.fullmatch(r"lineside: .*: No such file or directory\n", done.stderr)
    full = running_home.lineside("export", RUN_ID, "--format", "parquet", "-o", "/dev/full")
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert list(tmp_path.iterdir()) == []
