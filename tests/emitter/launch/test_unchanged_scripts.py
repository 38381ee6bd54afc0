"""Scripts without Lineside are recorded under ``lineside run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lineside.bus.testing import read_all
from tests.emitter.launch.launched import Launched, exit_of
from tests.emitter.shipping import Bench
from tests.support.waiting import wait_until

PLAIN_TRAINER = str(Path(__file__).with_name("plain_trainer.py"))


def kinds(bench: Bench, producer: str) -> list[str]:
    return [event.kind for event in read_all(bench.address, [f"*/{producer}"])]


def trained(bench: Bench, one: Launched, code: int = 0) -> None:
    status, _, errors = one.end(110)
    assert status == code, errors
    assert exit_of(one)["exit_code"] == code
    wait_until(lambda: "run_end" in kinds(bench, "rank0"))
    first = kinds(bench, "rank0")
    assert first.count("step_end") == 4
    assert first.count("train_end") == 1
    assert len({run.name for run in bench.spool.iterdir() if run.is_dir()}) == 1


def test_an_unmodified_script_is_recorded_under_python(bench: Bench, launched: Any) -> None:
    bench.broker()
    one = launched(sys.executable, PLAIN_TRAINER, str(bench.folder / "out"), "3")
    trained(bench, one, code=3)


def test_an_unmodified_script_is_recorded_under_accelerate(bench: Bench, launched: Any) -> None:
    bench.broker()
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    one = launched(
        *(accelerate, "launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *(PLAIN_TRAINER, str(bench.folder / "out")),
        HF_HOME=str(bench.folder / "hf"),
    )
    trained(bench, one)
