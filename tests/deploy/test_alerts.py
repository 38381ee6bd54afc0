"""Every shipped alert, from a run's events through Prometheus and Alertmanager to a webhook."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from lineside.bus.client.producer import ProducerConnection
from lineside.bus.client.reader import Batch
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.exporter.exporter import Exporter
from tests.deploy.healthy_run import HealthyRun
from tests.deploy.monitoring import Monitoring, Notification
from tests.deploy.scripted_runs import (
    TICK_SECONDS,
    Fault,
    ScriptedRun,
    all_faults,
    limit_fault,
)
from tests.deploy.shipped import rules
from tests.subscribers.exporter.exporting import ExporterProcess, Harness
from tests.subscribers.exporter.prometheus import free_address
from tests.support.waiting import DEADLINE

FACTOR = 60
"""A minute of the shipped rules is a second here."""
LONG_TICKS = 50
"""A long evaluation, save or pause: ten minutes of these rules."""


class BusyExporter(Exporter):
    """An exporter that does not get on while ``is_busy``, by a clock that the test sets on."""

    is_busy: ClassVar[bool] = False

    def handle(self, batches: Sequence[Batch]) -> bool:
        return not self.is_busy and super().handle(batches)


class SecondExporter:
    """A BusyExporter with a broker of its own, in a thread."""

    def __init__(self, folder: Path) -> None:
        self._broker = BrokerProcess(folder)
        self._settings = Settings.from_env({"LINESIDE_HOME": str(folder)})
        self._ahead = 0.0
        self._attempts = itertools.count()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SecondExporter:
        self._broker.start()
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._broker.stop()
        BusyExporter.is_busy = False

    @property
    def address(self) -> str:
        return self._harness.server.url.removeprefix("http://")

    def fall_behind(self) -> None:
        BusyExporter.is_busy = True
        self._publish()
        self._ahead = 100.0

    def catch_up(self) -> None:
        BusyExporter.is_busy = False
        self._publish()

    def _publish(self) -> None:
        with Producer(self._broker.address, f"_internal/test/t{next(self._attempts)}") as producer:
            producer.emit("metrics", data={"metrics": {}})
            producer.flush()

    def _run(self) -> None:
        self._harness = Harness(
            self._settings,
            kind=BusyExporter,
            clock=lambda: time.time() + self._ahead,
            render_seconds=0.2,
        )
        exporter = self._harness.exporter
        while not self._stop.is_set():
            exporter.run_once()
            if exporter.is_caught_up:
                self._ready.set()
        exporter.shutdown()


class World:
    """Publishes for all runs in their pace, and lets each fault happen and pass."""

    def __init__(self, connection: ProducerConnection, monitoring: Monitoring) -> None:
        self._connection = connection
        self._monitoring = monitoring
        self.healthy = HealthyRun(connection, "healthy", LONG_TICKS)
        self.faults = all_faults(connection)
        self.limit = limit_fault(connection)
        self.runs: list[ScriptedRun] = [
            self.healthy,
            self.limit.run,
            *(fault.run for fault in self.faults),
        ]
        self._ticks = 0
        self._due = time.monotonic()

    def run_until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (what, self.open_faults())
            self._tick()

    def _tick(self) -> None:
        self._ticks += 1
        for fault in [*self.faults, self.limit]:
            if self._ticks == fault.ready_ticks:
                fault.fail()
            if fault.each_tick:
                fault.each_tick()
            if not fault.is_over and self.notifications(fault, "firing"):
                fault.is_over = True
                if fault.recover:
                    fault.recover()
        for run in self.runs:
            run.tick()
        self._due = max(self._due + TICK_SECONDS, time.monotonic() - 5 * TICK_SECONDS)
        while (left := self._due - time.monotonic()) > 0:
            self._connection.poll(min(left, 0.01))

    def notifications(self, fault: Fault, status: str) -> list[Notification]:
        return [
            found
            for found in self._monitoring.webhook.received
            if (found.name, found.status) == (fault.alert, status)
        ]

    def open_faults(self) -> list[str]:
        return [f.alert for f in self.faults if not self.notifications(f, "resolved")]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_each_alert_arrives_once_and_again_when_it_resolves_and_a_healthy_run_has_none(
    tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    try:
        let_everything_go_wrong(tmp_path / "first", require_program)
    except AssertionError:
        # A machine that stalls for seconds makes gaps of minutes for these rules: once more.
        let_everything_go_wrong(tmp_path / "again", require_program)


def let_everything_go_wrong(folder: Path, require_program: Callable[[str], str]) -> None:
    settings = Settings.from_env({"LINESIDE_HOME": str(folder / "home")})
    port = free_address().rpartition(":")[2]
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(BrokerProcess(settings.home))
        exporter = stack.enter_context(
            ExporterProcess(settings, "--max-metrics", "20", "--port", port)
        )
        exporter.wait_page()
        second = stack.enter_context(SecondExporter(folder / "second"))
        targets = f'{exporter.url}", "{second.address}'
        monitoring = stack.enter_context(
            Monitoring(require_program, folder / "monitoring", targets, FACTOR)
        )
        webhook = monitoring.webhook
        connection = ProducerConnection(broker.address)
        stack.callback(connection.close)
        world = World(connection, monitoring)

        def arrived(alert: str, status: str) -> Callable[[], bool]:
            return lambda: any((n.name, n.status) == (alert, status) for n in webhook.received)

        def goes_wrong(alert: str, fail: Callable[[], object], mend: Callable[[], object]) -> None:
            fail()
            world.run_until(arrived(alert, "firing"), alert, DEADLINE)
            mend()
            world.run_until(arrived(alert, "resolved"), f"{alert} resolves", DEADLINE)

        goes_wrong("LinesideExporterBehind", second.fall_behind, second.catch_up)
        world.run_until(lambda: not world.open_faults(), "faults", DEADLINE)
        world.run_until(lambda: world.healthy.is_done, "the healthy run ends", DEADLINE)
        fires = 'ALERTS{alertname="LinesideMetricsOverLimit",alertstate="firing",project="limit"}'
        world.run_until(lambda: monitoring.prometheus.query(fires), fires, DEADLINE)
        goes_wrong("LinesideBrokerUnreachable", broker.stop, broker.start)
        goes_wrong("LinesideExporterDown", exporter.kill, exporter.start)

        # All of them, each once, nothing else, and none of the healthy run.
        expected = {name for name, rule in rules("alert").items() if is_sent(rule)}
        for status in ("firing", "resolved"):
            arrivals = Counter(n.name for n in webhook.received if n.status == status)
            assert arrivals == dict.fromkeys(expected, 1), status
        assert not [n for n in webhook.received if "healthy" in n.labels.values()]
        finished = 'lineside_run_status{run="healthy",status="finished"} == 1'
        world.run_until(lambda: monitoring.prometheus.query(finished), finished, DEADLINE)


def is_sent(rule: dict[str, dict[str, str]]) -> bool:
    """Whether Alertmanager sends it: notes stay on its page."""
    return rule["labels"]["severity"] != "info"
