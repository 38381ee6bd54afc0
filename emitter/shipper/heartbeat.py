"""Publishes a heartbeat a second for each rank, and ``process_lost`` when one ends unreported."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper.event_writer import EventWriter
from lineside.emitter.shipper.stream_sender import StreamSender
from lineside.emitter.spool.backlog import has_ended
from lineside.emitter.spool.directory import LOST_NAME
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.status_page import FILE_NAME as PAGE_NAME
from lineside.emitter.spool.status_reader import StatusFields, StreamInfo

log = logging.getLogger("lineside")

_RANK = re.compile(r"rank\d+")
_LOSS_RETRY_SECONDS = 10.0
_COPIED_FIELDS = ["rank", "pid", "step", "dropped", "hook_errors", "hook_ns", "hooks", "acked"]
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class RankReporter:
    """Publishes through ``event_writer`` how ranks are doing. Times are monotonic seconds."""

    def __init__(self, event_writer: EventWriter) -> None:
        self._event_writer = event_writer
        self._checked: set[Stream] = set()  # ended, and process_lost published if it was due
        self._retry_at: dict[Stream, float] = {}  # where process_lost could not be published

    @property
    def retrying_runs(self) -> set[str]:
        """The runs whose ``process_lost`` is still to be published."""
        return {stream.run for stream in self._retry_at}

    def publish_heartbeat(self, sender: StreamSender, info: StreamInfo, now_ns: int) -> None:
        """Publish a heartbeat if the stream is a rank's and has a page."""
        stream, fields = sender.stream, sender.fields()
        if fields is not None and _RANK.fullmatch(stream.producer):
            data = _name_stream(stream) | heartbeat_data(fields, info, now_ns)
            self._event_writer.write(stream.run, "heartbeat", fields.step, data)

    def check_loss(self, sender: StreamSender, now: float) -> None:
        """Publish ``process_lost`` for an ended rank that reported no end, once."""
        stream, folder = sender.stream, sender.folder
        if stream in self._checked or now < self._retry_at.get(stream, now):
            return
        fields = sender.fields()
        if (
            _RANK.fullmatch(stream.producer)
            and segments(folder)
            and not (folder / LOST_NAME).exists()
            and not has_ended(folder, fields)
        ):
            data = process_lost_data(folder, fields, StreamInfo.read(folder))
            log.warning("%s: its process %s ended without reporting why", stream, data["pid"])
            step = fields.step if fields else 0
            data = _name_stream(stream) | data
            if not self._event_writer.write(stream.run, "process_lost", step, data):
                self._retry_at[stream] = now + _LOSS_RETRY_SECONDS
                return
            # Without this mark, the next shipper publishes it a second time.
            with contextlib.suppress(OSError):
                (folder / LOST_NAME).touch(0o600)
        self._retry_at.pop(stream, None)
        self._checked.add(stream)

    def reset(self, stream: Stream, folder: Path) -> None:
        """Publish ``process_lost`` again once the stream's process ends: it lives."""
        self.forget(stream)
        with contextlib.suppress(OSError):
            (folder / LOST_NAME).unlink()

    def forget(self, stream: Stream) -> None:
        """Keep nothing about ``stream``."""
        self._checked.discard(stream)
        self._retry_at.pop(stream, None)


def heartbeat_data(fields: StatusFields, info: StreamInfo, now_ns: int) -> dict[str, Any]:
    """The state of a rank. ``hook_age`` in seconds and ``rss`` in bytes are None when it runs on
    another machine."""
    local = info.is_local
    hook_age = (now_ns - fields.hook_monotonic_ns) / 1e9
    return {
        "host": info.host,
        "phase": fields.phase_name,
        "hook_age": hook_age if local and fields.hook_monotonic_ns else None,
        "rss": _rss(fields.pid) if local else None,
        "emitted": fields.next_seq,
        **{name: getattr(fields, name) for name in _COPIED_FIELDS},
    }


def process_lost_data(
    folder: Path, fields: StatusFields | None, info: StreamInfo
) -> dict[str, Any]:
    """The last state of a producer that has ended; None for each unknown value.

    ``alive_at``, in seconds since the epoch, is its last sign of life: the shipper that watched it
    wrote into its page about once a second.
    """
    signs = []
    for path in (folder / PAGE_NAME, *(segment.path for segment in segments(folder)[-1:])):
        with contextlib.suppress(OSError):
            signs.append(path.stat().st_mtime)
    return {
        "pid": fields.pid if fields else info.pid or None,
        "host": info.host or None,
        "step": fields.step if fields else None,
        "phase": fields.phase_name if fields else None,
        "emitted": fields.next_seq if fields else None,
        "alive_at": max(signs, default=None),
    }


def _name_stream(stream: Stream) -> dict[str, Any]:
    return {"producer": stream.producer, "attempt": stream.attempt}


def _rss(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_SIZE
    except (OSError, ValueError, IndexError):
        return None
