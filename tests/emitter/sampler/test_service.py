"""A real sampler beside real trainings: what it publishes, when it starts and when it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lineside.bus.errors import MissingExtra, RunNotFound
from lineside.bus.protocol.events import Event
from lineside.bus.testing import read_all
from lineside.cli.commands import services
from lineside.emitter.sampler.starter import lock_name, log_name, sampler_name, stopped_sampler
from lineside.emitter.spool.sidecar_process import lock_holder
from lineside.store.database.engine import open_store
from lineside.store.history.curves.records import Series
from lineside.store.history.history import History
from tests.emitter.conftest import read_spool
from tests.emitter.launch.launched import LOOP, python
from tests.emitter.shipping import Bench
from tests.support.processes import Child, supervised
from tests.support.waiting import DEADLINE, wait_until

SAMPLED = {"LINESIDE_SAMPLER": ""}  # as where it is not set
WAIT = "sys.stdin.read()"
NO_PSUTIL = """
import sys
class NoPsutil:
    def find_spec(self, name, path=None, target=None):
        if name == "psutil":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPsutil())
"""


def samples(bench: Bench, count: int = 1) -> list[Event]:
    return read_all(
        bench.address,
        [f"*/{sampler_name()}"],
        until=lambda events: len(events) >= count,
        timeout=DEADLINE,
    )


def stored_samples(history: History, run: str) -> dict[str, Series]:
    try:
        return {one.name: one for one in history.metrics(run, producer=sampler_name())}
    except RunNotFound:
        return {}


def sampler_pid(spool: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return lock_holder(spool / lock_name())
    return None


def sampler_log(spool: Path) -> str:
    return (spool / log_name()).read_text()


@pytest.fixture
def training(bench: Bench) -> Any:
    """Starts a loop that trains until its input ends: ``training(body, **environment)``."""
    started = []

    def start(body: str = WAIT, prologue: str = "", **env: str) -> subprocess.Popen[str]:
        places = {"LINESIDE_SPOOL": str(bench.spool), "LINESIDE_BROKER": bench.address}
        process = subprocess.Popen(
            [sys.executable, "-c", prologue + LOOP % body],
            env={**os.environ, **places, "LINESIDE_SAMPLER": "1", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_launched_training_has_the_metrics_of_its_machine_and_processes(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    done = bench.folder / "done"
    body = (
        f"block = bytearray(b'1') * (64 << 20)\n    while not os.path.exists({str(done)!r}): pass"
    )
    one = launched(*python(LOOP % body), **SAMPLED)
    (sample,) = samples(bench)
    assert sample.kind == "metrics"
    assert sample.step == 1
    assert sample.data is not None
    metrics = sample.data["metrics"]
    assert metrics["host/memory_total_bytes"] == psutil.virtual_memory().total
    assert 0 < metrics["host/cpu_ratio"] <= 1
    assert metrics["filesystem/output/size_bytes"] == psutil.disk_usage(str(Path.cwd())).total
    assert metrics["filesystem/spool/size_bytes"] == psutil.disk_usage(str(bench.spool)).total
    assert metrics["process/resident_memory_bytes"] > 64 << 20
    assert 0 < metrics["process/cpu_cores"] <= (os.cpu_count() or 1) + 0.5
    assert metrics["process/count"] == 1
    assert sample.data["machine"]["cpus"] == os.cpu_count()
    done.touch()
    assert one.end()[0] == 0
    wait_until(lambda: sampler_pid(bench.spool) is None, "the sampler ended")
    assert [event.kind for event in one.exits()] == ["process_exit"]


def test_samples_are_in_the_store_as_metrics_of_their_producer(bench: Bench, training: Any) -> None:
    bench.broker()
    home = bench.folder / "home"
    store = f"sqlite:///{home}/store.db"
    places = {"LINESIDE_BROKER": bench.address, "LINESIDE_STORE": store}
    home.mkdir()
    engine = open_store(store, create=True)
    history = History(engine)
    recorder = Child(
        ["-m", "lineside.cli", "recorder"], supervised(home, **places), home / "recorder.log"
    )
    with recorder:
        process = training()
        (sample,) = samples(bench)
        (run,) = [folder.name for folder in bench.spool.iterdir() if folder.is_dir()]
        stored = wait_until(lambda: stored_samples(history, run), "the sample is stored")
        process.communicate()
        wait_until(lambda: history.run(run).status == "finished", "the end is stored")
    assert sample.data is not None
    for name, value in sample.data["metrics"].items():
        assert stored[name].producer == sampler_name()
        assert stored[name].last == pytest.approx(value)
        assert stored[name].last_step == 1
    assert history.run(run).metrics == {"loss": 1.0}
    engine.dispose()


def test_children_of_a_training_are_counted(bench: Bench, training: Any) -> None:
    bench.broker()
    child = "import sys; b = bytearray(b'1') * (64 << 20); sys.stdin.read()"
    training(
        "import subprocess\n"
        f"    child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=0)\n"
        "    sys.stdin.read()"
    )
    (first,) = samples(bench)
    assert first.data is not None
    assert first.data["metrics"]["process/count"] == 2
    assert first.data["metrics"]["process/resident_memory_bytes"] > 64 << 20


def test_a_sampler_ends_when_the_training_is_killed(bench: Bench, training: Any) -> None:
    process = training()
    pid = wait_until(lambda: sampler_pid(bench.spool), "a sampler runs")
    process.kill()
    process.wait()
    killed_at = time.monotonic()
    wait_until(lambda: not psutil.pid_exists(pid), "the sampler ended")
    assert time.monotonic() - killed_at < 30
    assert "ERROR" not in sampler_log(bench.spool)


def test_a_sampler_that_was_killed_is_started_again(bench: Bench, training: Any) -> None:
    training("while True:\n        time.sleep(0.2)\n        run.log({'loss': 1.0}, step=2)")
    first = wait_until(lambda: sampler_pid(bench.spool), "a sampler runs")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: sampler_pid(bench.spool) not in (None, first), "another sampler runs")


def test_trainings_of_one_machine_share_a_sampler(bench: Bench, training: Any) -> None:
    bench.broker()
    training()
    training()
    found = samples(bench, 2)
    assert len(found) == 2
    assert len({folder.parent for folder in bench.spool.glob(f"*/{sampler_name()}/*")}) == 2
    assert len(list(bench.spool.glob(f"*/{sampler_name()}/*"))) == 2


def test_ranks_of_one_run_are_summed_in_one_stream(bench: Bench) -> None:
    bench.broker()
    bench.shipper()
    bench.producer("run/rank0/a1").send("flags 1")  # which also sets the step
    bench.producer("run/rank1/a1")
    bench.producer("run/evaluator/a1")
    places = {"LINESIDE_SPOOL": str(bench.spool), "LINESIDE_BROKER": bench.address}
    command = ["-m", "lineside.cli", "sampler", "--interval", "1"]
    with Child(command, {**os.environ, **places}, bench.folder / "sampler.log") as service:
        first, second = samples(bench, 2)[:2]
        assert service.stop() == 0
    assert first.data is not None
    assert first.data["metrics"]["process/count"] == 2
    assert first.step == 7
    assert second.seq == 1
    assert 0.5 < second.time - first.time < 60
    assert len(list(bench.spool.glob("*/sampler-*/*"))) == 1


def test_a_service_waits_while_another_sampler_runs(bench: Bench, training: Any) -> None:
    one = training()
    wait_until(lambda: sampler_pid(bench.spool) is not None)
    log = bench.folder / "service.log"
    environment = supervised(bench.folder, LINESIDE_SPOOL=str(bench.spool))
    service = Child(["-m", "lineside.cli", "sampler"], environment, log)
    service.start()
    try:
        wait_until(lambda: "another one samples for" in log.read_text())
        one.communicate("")
        wait_until(lambda: sampler_pid(bench.spool) == service.pid)
    finally:
        service.kill()


def test_a_stopped_sampler_is_named_to_the_next_training_and_service(
    bench: Bench, training: Any
) -> None:
    training()
    pid = wait_until(lambda: sampler_pid(bench.spool), "a sampler runs")
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        _, errors = training().communicate("", timeout=DEADLINE)
        log = bench.folder / "service.log"
        environment = supervised(bench.folder, LINESIDE_SPOOL=str(bench.spool))
        with Child(["-m", "lineside.cli", "sampler"], environment, log):
            wait_until(
                lambda: f"WARNING sampler: {stopped_sampler(bench.spool)}" in log.read_text()
            )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert errors.count(f"process {pid}, is stopped; `kill -CONT {pid}` lets it go on") == 1
    wait_until(lambda: stopped_sampler(bench.spool) is None)


def test_without_a_broker_samples_wait_in_the_spool(bench: Bench, training: Any) -> None:
    process = training()
    wait_until(lambda: any(read_spool(bench.spool, sampler_name()).values()), "there is a sample")
    process.kill()
    bench.broker()
    bench.shipper()
    assert [event.kind for event in samples(bench)] == ["metrics"]


def test_a_training_without_psutil_prints_one_line_and_goes_on(bench: Bench, training: Any) -> None:
    bench.broker()
    process = training(
        "for step in range(5):\n        run.log({'loss': 1.0}, step=step); time.sleep(0.3)",
        prologue=NO_PSUTIL,
    )
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert errors.count("no psutil") == 1
    assert "pip install 'lineside[system]'" in errors
    assert not (bench.spool / lock_name()).exists()


def test_no_sampler_starts_unless_it_is_asked_for(bench: Bench, training: Any) -> None:
    bench.broker()
    training("pass", LINESIDE_SAMPLER="").communicate(timeout=DEADLINE)
    training("pass", LINESIDE_SAMPLER="0").communicate(timeout=DEADLINE)
    assert not (bench.spool / lock_name()).exists()


def test_the_training_process_loads_neither_psutil_nor_nvml(bench: Bench, training: Any) -> None:
    bench.broker()
    process = training(
        "loaded = [name for name in ('psutil', 'pynvml') if name in sys.modules]\n"
        "    print('loaded', loaded, file=sys.stderr)"
    )
    _, errors = process.communicate(timeout=DEADLINE)
    assert "loaded []" in errors


def test_a_driver_that_hangs_ends_the_sampler(bench: Bench) -> None:
    bench.producer("run/rank0/a1")
    code = (
        "import threading\n"
        "from pathlib import Path\n"
        "from lineside.emitter.sampler import service\n"
        "service._HANG_SECONDS = 0.5\n"
        "held = threading.Lock()\n"
        "held.acquire()\n"
        "service.GpuMetrics.read = lambda self: held.acquire()\n"
        f"service.Sampler(Path({str(bench.spool)!r}), interval=0.1).serve()"
    )
    hanging = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert hanging.returncode == 1
    assert "Timeout" in hanging.stderr
    assert "_sample" in hanging.stderr


def test_the_service_without_psutil_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"lineside\[system\]"):
        services.sampler()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_a_missing_gpu_driver_is_reported_once(bench: Bench, training: Any) -> None:
    training()
    wait_until(lambda: any(read_spool(bench.spool, sampler_name()).values()), "there is a sample")
    assert sampler_log(bench.spool).count("no GPU metrics") == 1


def test_the_sampler_loads_nothing_heavy() -> None:
    code = (
        "import sys, lineside.emitter.sampler.__main__\n"
        "heavy = {'torch', 'transformers', 'numpy', 'zmq', 'sqlalchemy', 'typer', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
