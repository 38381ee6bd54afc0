"""Rules about the space on disks: of the watchdog's machine, and of the machines that train."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from itertools import pairwise

from pydantic import Field

from lineside.subscribers.watchdog.observation import RunObservation, StackObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, StackRule, Undecided
from lineside.subscribers.watchdog.rules.wording import duration, percent, size
from lineside.subscribers.watchdog.series import Window

TREND_SECONDS = 1200.0
"""The shortest time that shows a trend."""
_PIECES = 12  # of the time; a burst takes two of them at most
_SAMPLES = "available_bytes", "size_bytes"


class DiskFilling(StackRule):
    name = "disk_filling"
    doc = (
        "a file system has little space left, or would have none soon if it went on as in the last "
        "hour: where home, spool and store are, and with the sampler where each training writes"
    )
    hours: float = Field(default=4.0, ge=0, description="Open if it is full within these hours.")
    critical_hours: float = Field(default=1.0, ge=0, description="From here on it is critical.")
    ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Open if less than this part of it is free."
    )
    free_gb: float = Field(
        default=20.0, ge=0, description="And less than these gibibytes; of a third of it, critical."
    )

    def judge(self, stack: StackObservation) -> Findings:
        return list(self._findings(stack))

    def _findings(self, stack: StackObservation) -> Iterator[Finding | Undecided]:
        sizes = set()
        for disk in stack.disks:
            sizes.add(disk.size)
            place = f"{disk.mount} ({disk.used_for}) of this machine"
            yield from self._judge(
                disk.mount, place, disk.size, disk.available, f"df -h {shlex.quote(disk.mount)}"
            )
        seen = set()
        for run in stack.runs:
            for host, name, total, available in _sampled(run):
                # Several trainings of a machine write to one disk, and this one may be ours.
                disk_id = (host, total)
                if disk_id in seen or (host == _own_host() and total in sizes):
                    continue
                seen.add(disk_id)
                subject = f"{host} {name} {size(total)}"
                place = f"the {name} of {run.run.name} on {host}"
                yield from self._judge(
                    subject, place, total, available, f"lineside show {run.run.id}"
                )

    def _judge(
        self, subject: str, place: str, total: int, available: Window, action: str
    ) -> Iterator[Finding | Undecided]:
        free = available.last
        if free is None or total <= 0:
            return
        left = time_left(available)
        is_low = free < self.ratio * total and free < self.free_gb * (1 << 30)
        is_soon = left is not None and left < 3600 * self.hours
        if not is_low and not is_soon:
            if not has_trend(available):
                yield Undecided(subject)
            return
        is_critical = (is_low and free < min(self.ratio * total, self.free_gb * (1 << 30)) / 3) or (
            left is not None and left < 3600 * self.critical_hours
        )
        full = "" if left is None else f", full in {duration(left)}"
        yield Finding(
            f"{size(free)} ({percent(free / total)}) free on {place}{full}",
            action,
            subject,
            "critical" if is_critical else None,
            {"available_bytes": free, "size_bytes": total, "seconds_left": left},
        )


def has_trend(available: Window) -> bool:
    """Whether it was watched for long enough: not so after a restart of the watchdog."""
    points = available.points
    return bool(points) and points[-1].time - points[0].time >= TREND_SECONDS


def time_left(available: Window) -> float | None:
    """Seconds until nothing is available, by the trend; None if there is no trend.

    The largest burst does not count: a download is no trend. What is written again and again is.
    """
    points = list(available.points)
    if not has_trend(available):
        return None
    start, length = points[0].time, (points[-1].time - points[0].time) / _PIECES
    ends = [points[0].value] * (_PIECES + 1)
    for point in points:
        ends[min(_PIECES, int((point.time - start) / length) + 1)] = point.value
    written = [before - after for before, after in pairwise(ends)]
    burst = max(sum(pair) for pair in pairwise(written))
    rate = (sum(written) - max(0.0, burst)) / ((_PIECES - 2) * length)
    return points[-1].value / rate if rate > 0 else None


def _sampled(run: RunObservation) -> Iterator[tuple[str, str, int, Window]]:
    """Host, name, size and free space of each file system that a sampler reports."""
    for host, metrics in run.disks.items():
        for name, window in metrics.items():
            place, _, what = name.rpartition("/")
            total = metrics.get(f"{place}/{_SAMPLES[1]}")
            if what == _SAMPLES[0] and total is not None and total.last:
                yield host, place.rpartition("/")[2], int(total.last), window


def _own_host() -> str:
    return platform.node()
