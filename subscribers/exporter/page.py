"""The page of metrics in both formats of Prometheus, rendered once and served many times."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS

from lineside.subscribers.exporter.families import Family
from lineside.subscribers.exporter.samples import FAMILIES, escape, format_value

_EOF = b"# EOF\n"


class OwnMetrics:
    """Memory, CPU time and files of this process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def encode(self, accept: str) -> bytes:
        """In the format for a client that accepts ``accept``, without the end of OpenMetrics."""
        return choose_encoder(accept)[0](self._registry).removesuffix(_EOF)


class Variant(NamedTuple):
    """A form of the page: its format, and whether it is compressed."""

    is_openmetrics: bool
    is_compressed: bool

    @classmethod
    def of(cls, accept: str, accept_encoding: str) -> Variant:
        """What a client with these headers gets."""
        try:
            content_type = choose_encoder(accept)[1]
        except (TypeError, ValueError):  # the version is no number
            content_type = ""
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        return cls(is_openmetrics, "gzip" in accept_encoding)

    @property
    def content_type(self) -> str:
        return OPENMETRICS if self.is_openmetrics else CONTENT_TYPE_PLAIN_0_0_4


class Page:
    """One rendering. Any thread may encode it; each variant is encoded once."""

    def __init__(self, lines: Mapping[str, Sequence[str]], own: OwnMetrics) -> None:
        self._lines = lines
        self._own = own
        self._lock = threading.Lock()
        self._encoded: dict[Variant, bytes] = {}

    def encode(self, variant: Variant) -> bytes:
        """The page in this form."""
        with self._lock:
            return self._encode(variant)

    def _encode(self, variant: Variant) -> bytes:
        found = self._encoded.get(variant)
        if found is None:
            if variant.is_compressed:
                found = gzip.compress(self._encode(Variant(variant.is_openmetrics, False)), 1)
            else:
                found = self._plain(variant.is_openmetrics)
            self._encoded[variant] = found
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
