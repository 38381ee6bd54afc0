"""``lineside run`` and ``lineside ship``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.cli.homes import Home
from tests.support.waiting import wait_until

RUN = """
from lineside.emitter import start_run

with start_run() as run:
    run.log(dict(x=1), step=1)
"""


def document(home: Home, run: str) -> dict[str, object]:
    """The run as ``show --json`` prints it; empty while the store lacks it."""
    shown = home.lineside("show", run, "--json")
    found: dict[str, object] = json.loads(shown.stdout) if shown.returncode == 0 else {}
    return found


@pytest.mark.parametrize("code", [0, 3])
def test_run_ends_as_its_command_did_and_records_it(running_home: Home, code: int) -> None:
    name = f"ends with {code}"
    script = f"{RUN}\nraise SystemExit({code})"
    done = running_home.lineside(
        "run", "--name", name, "--project", "launched", "--", sys.executable, "-c", script
    )
    assert done.returncode == code
    wait_until(lambda: "process_exit" in str(document(running_home, name).get("event_counts")))
    assert document(running_home, name)["project"] == "launched"


def test_options_after_the_command_belong_to_it(running_home: Home) -> None:
    done = running_home.lineside(
        "run", sys.executable, "-c", "import sys; print(sys.argv)", "--name", "x"
    )
    assert done.stdout == "['-c', '--name', 'x']\n"


def test_a_missing_command_is_one_sentence(home: Home) -> None:
    done = home.lineside("run", "--", "/no/such/program")
    assert done.returncode == 127
    assert "/no/such/program" in done.stderr
    assert "Traceback" not in done.stderr


SHOW_CALLBACKS = "import os; print(os.environ.get('LINESIDE_CALLBACKS'))"


def test_callbacks_of_the_file_that_run_in_training_go_to_the_command(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "lineside.yaml"
    file.write_text(
        "custom_callbacks:\n"
        "- wandb\n"
        "- {name: my.Live, where: training, args: {key: '${UNSET}', every: 5}}\n"
        "dashboard: {port: '${UNSET}'}\n"
    )
    command = (sys.executable, "-c", SHOW_CALLBACKS)
    done = home.lineside("run", "--config", str(file), "--", *command)
    [entry] = json.loads(done.stdout)
    assert entry == {
        "name": "my.Live",
        "id": "Live",
        "where": "training",
        "args": {"key": "${UNSET}", "every": 5},
        "folder": str(tmp_path),
    }


def test_a_faulty_file_keeps_training_from_starting_only_if_the_option_names_it(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "lineside.yaml"
    file.write_text("custom_callbacks: [{name: my.Live, where: traning}]")
    command = (sys.executable, "-c", SHOW_CALLBACKS)
    done = home.lineside("run", "--config", str(file), "--", *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 1: custom_callbacks[0].where: 'traning' is invalid" in done.stderr
    done = home.lineside("run", "--", *command, env={"LINESIDE_CONFIG": str(file)})
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert "the training runs without callbacks of LINESIDE_CONFIG" in done.stderr


def test_run_without_a_command_is_a_usage_error(home: Home) -> None:
    done = home.lineside("run")
    assert done.returncode == 2
    assert "CMD" in done.stderr


def test_a_left_spool_is_shipped_once_a_broker_is_up(home: Home) -> None:
    home.train(f"import os\nos.environ['LINESIDE_RUN_ID'] = 'left'\n{RUN}")
    doctor = home.lineside("doctor")
    assert doctor.returncode == 1
    assert re.search(r"[1-9]\d* events of \d+ streams? wait in", doctor.stdout)
    home.up("--quiet")
    shipped = home.lineside("ship", "--json", "--spool", str(home.path / "spool"))
    assert shipped.returncode == 0
    assert json.loads(shipped.stdout)["left"] == 0
    wait_until(lambda: "run_end" in str(document(home, "left").get("event_counts")))


def test_an_empty_spool_is_not_a_failure(home: Home, tmp_path: Path) -> None:
    home.up("--quiet")
    done = home.lineside("ship", "--spool", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout == "0 events of 0 streams shipped\n"


def test_shipping_without_a_broker_gives_up_after_its_timeout(home: Home) -> None:
    home.train(RUN)
    done = home.lineside("ship", "--timeout", "1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_missing_spool_is_a_usage_error(home: Home) -> None:
    done = home.lineside("ship", "--spool", "/no/such/spool")
    assert done.returncode == 2
    assert done.stderr == (
        "lineside: there is no spool at /no/such/spool: "
        "expected a folder, as LINESIDE_SPOOL names it\n"
    )
