"""Exporters in this process and in processes of their own, and what their pages hold."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from lineside.bus.auth.listener import listen
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.messages import LIVE
from lineside.bus.settings import Settings
from lineside.subscribers.exporter.exporter import Exporter
from lineside.subscribers.exporter.page import Variant
from lineside.subscribers.exporter.server import PageServer
from tests.subscribers.conftest import ServiceProcess
from tests.support.waiting import DEADLINE, wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


class Clock:
    """Seconds since the epoch, set by the test."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Harness:
    """An exporter in this process, from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        kind: type[Exporter] = Exporter,
        **options: Any,
    ) -> None:
        self.server = PageServer(listen("127.0.0.1", 0), None)
        self.exporter = kind(settings, self.server, clock=clock, **options)
        self.exporter.startup()

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            self.exporter.run_once()

    def read(self, entries: int) -> None:
        """Read the journal up to this offset, and render."""
        exporter = self.exporter
        self.run_until(lambda: exporter.is_caught_up and exporter.offset >= entries)
        exporter.render()

    def read_all(self) -> None:
        """Read all that the broker has accepted, and render."""
        with Reader(self.exporter.settings.broker, start=LIVE) as reader:
            reader.wait_connected(DEADLINE)
            self.read(reader.head)

    def text(self, accept: str = "") -> str:
        page = self.server.page
        assert page is not None
        return page.encode(Variant.of(accept, "")).decode()

    def samples(self) -> Samples:
        return parse(self.text())


def parse(text: str) -> Samples:
    """The samples of a page in the text format."""
    return _samples(text_string_to_metric_families(text))


def parse_openmetrics(text: str) -> Samples:
    return _samples(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def _samples(families: Iterable[Metric]) -> Samples:
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice on the page: {key}"
            found[key] = sample.value
    return found


def value(samples: Samples, sample: str, /, **labels: str) -> float:
    """The value of the only series of this name with these labels and any others."""
    [found] = select(samples, sample, **labels).values()
    return found


def select(samples: Samples, name: str, /, **labels: str) -> Mapping[Labels, float]:
    """The series of this name with these labels and any others."""
    return {
        key: found
        for (sample, key), found in samples.items()
        if sample == name and labels.items() <= dict(key).items()
    }


class ExporterProcess(ServiceProcess):
    """``lineside exporter`` on a free port."""

    def __init__(self, settings: Settings, *options: str) -> None:
        super().__init__("exporter", settings, "--port", "0", "--interval", "0.3", *options)

    @property
    def url(self) -> str:
        """The address in the newest lines of the log; empty before there is one."""
        found = re.findall(r"exporter: (http://\S+)/metrics", self.log_text())
        return found[-1] if found else ""

    def wait_page(self) -> str:
        """The first page after the start."""
        self.wait_started()
        return wait_until(lambda: self.get()[1] if self.get()[0] == 200 else None, "a page")

    def get(self, path: str = "/metrics", **headers: str) -> tuple[int, str]:
        """The status and the body of a GET; the status is 0 if there is no answer."""
        request = urllib.request.Request(  # noqa: S310 - our own address
            self.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""
