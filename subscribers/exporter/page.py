"""The page of metrics in both formats of Prometheus, rendered once and served many times."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS

from lineside.subscribers.exporter.families import FAMILIES, Family
from lineside.subscribers.exporter.samples import escape, format_value

_OPENMETRICS, _EOF = "application/openmetrics-text", b"# EOF\n"


class OwnMetrics:
    """Memory, CPU time and files of this process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def encode(self, accept: str) -> bytes:
        """In the format for a client that accepts ``accept``, without the end of OpenMetrics."""
        return choose_encoder(accept)[0](self._registry).removesuffix(_EOF)


class Page:
    """One rendering; it is encoded when it is first asked for. Any thread may do that."""

    def __init__(self, lines: Mapping[str, Sequence[str]], own: OwnMetrics) -> None:
        self._lines = lines
        self._own = own
        self._lock = threading.Lock()
        self._encoded: dict[tuple[bool, bool], bytes] = {}

    def encode(self, accept: str, *, compress: bool) -> tuple[bytes, str]:
        """The body for a client that accepts ``accept``, and its content type."""
        is_openmetrics = choose_encoder(accept)[1].startswith(_OPENMETRICS)
        with self._lock:
            body = self._body(is_openmetrics, compress)
        return body, OPENMETRICS if is_openmetrics else CONTENT_TYPE_PLAIN_0_0_4

    def _body(self, is_openmetrics: bool, compress: bool) -> bytes:
        found = self._encoded.get((is_openmetrics, compress))
        if found is None:
            if compress:
                found = gzip.compress(self._body(is_openmetrics, False), 1)
            else:
                found = self._plain(is_openmetrics)
            self._encoded[is_openmetrics, compress] = found
        return found

    def _plain(self, is_openmetrics: bool) -> bytes:
        parts: list[str] = []
        for name, lines in self._lines.items():
            if lines:
                family = FAMILIES[name]
                declared = family.base_name if is_openmetrics else family.name
                parts.append(f"# HELP {declared} {family.help}\n# TYPE {declared} {family.type}\n")
                parts += lines
        body = "".join(parts).encode()
        own = self._own.encode(OPENMETRICS if is_openmetrics else "")
        return own + body + (_EOF if is_openmetrics else b"")


def sample_lines(family: Family, samples: Iterable[tuple[Sequence[str], float]]) -> list[str]:
    """The lines of a family without labels of a run; each sample has its labels' values."""
    lines = []
    for values, number in samples:
        pairs = zip(family.labels, values, strict=True)
        labels = ",".join(f'{name}="{escape(value)}"' for name, value in pairs)
        braces = f"{{{labels}}}" if labels else ""
        lines.append(f"{family.name}{braces} {format_value(number)}\n")
    return lines
