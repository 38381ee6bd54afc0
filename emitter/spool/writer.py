"""Appends one stream's events to its spool folder, with one ``os.write`` for each event.

A full spool or disk never stops the caller. The writer drops events by priority, numbers them all
the same, and later writes a ``gap`` record that lists the dropped ones.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import msgpack

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import VERSION, Stream
from lineside.bus.protocol.fields import INT_MAX, is_epoch, is_name
from lineside.bus.protocol.limits import MAX_RECORD, check_container_count
from lineside.bus.protocol.wire import F64, HEADER, NIL, START, STEP_BODIES, U8, U64, Encoder
from lineside.emitter.redaction.values import is_numeric
from lineside.emitter.spool.drop_policy import DROP_FIRST, DROP_LAST, DroppedRange, drop_level
from lineside.emitter.spool.protected_file import ProtectedFile
from lineside.emitter.spool.sanitize import LIMITS_BY_SIZE, Sanitizer, as_epoch, as_step, clean_data
from lineside.emitter.spool.script_errors import is_script_error, suppress_own_errors
from lineside.emitter.spool.status_page import ACKED_SEQ, DROPPED, NEXT_SEQ
from lineside.emitter.spool.stream_folder import StreamFolder

SEGMENT_BYTES = 8 << 20
CAP_BYTES = 1 << 30

# A longer record takes the slow path, which checks it against the limits of a record.
_LARGE = 64 << 10
_GAP_BYTES = 1 << 10  # more than a gap record takes
_MEASURE_EVERY_NS = 1_000_000_000  # of a full spool
# Between tries of a failing disk. Some file systems take milliseconds to refuse a write.
_FIRST_BACKOFF_NS, _LAST_BACKOFF_NS = 100_000_000, 1_000_000_000
# The script closed the descriptor, or its file is gone: a new descriptor may work.
_LOST_DESCRIPTOR = frozenset({errno.EBADF, errno.ESTALE})

_header = HEADER.pack

_EventTuple: TypeAlias = "tuple[float, int, str, int, float | None, int, Any]"


class SpoolWriter:
    """The only writer of ``stream``'s spool folder under ``root``. For one thread at a time.

    ``cap`` bounds the bytes of this producer's segments, older attempts of the run included. Step
    events are dropped at 15/16 of it, logs at 63/64 (16 MiB of 1 GiB remain in reserve), all
    others at ``cap`` itself. ``next_seq`` is the number of the next event. ``dropped`` counts the
    dropped events, ``encode_failures`` those that lost a value or a field that cannot be encoded.
    ``unread`` describes the first array on a device, which is never read.

    Raises (constructor only):
        SettingsError, OSError: the folder cannot be created, see ``StreamFolder``.
    """

    def __init__(
        self,
        root: Path,
        stream: Stream,
        *,
        role: str = "rank",
        rank: int = 0,
        cap: int = CAP_BYTES,
        segment: int = SEGMENT_BYTES,
    ) -> None:
        self.stream = stream
        self.folder = StreamFolder(root, stream, role=role, rank=rank)
        self.fields = self.folder.page.fields
        self.next_seq = 0
        self.dropped = 0
        self.encode_failures = 0
        self.unread = ""
        self._pack = msgpack.Packer().pack
        self._encode = Encoder().encode
        self._segment = segment
        self._limits = (cap - cap // 16, cap - cap // 64, cap)
        self._file: ProtectedFile | None = None
        self._fd = -1  # of that file
        self._position = 0  # bytes in the open segment; exact on the slow path only
        self._other_bytes = self.folder.usage()  # bytes in this producer's other segments
        self._free_bytes = 0  # bytes that the fast path may write
        self._measured_ns = 0
        self._retry_ns = 0
        self._backoff_ns = _FIRST_BACKOFF_NS
        self._dropped_ranges: dict[str, DroppedRange] = {}
        self._kinds = set(STEP_BODIES)  # known to be names

    @property
    def accounted_seq(self) -> int:
        """Every event before this number is on disk, or listed in a gap record on disk."""
        return min((drops.first for drops in self._dropped_ranges.values()), default=self.next_seq)

    def write(
        self,
        kind: str,
        step: int = 0,
        epoch: float | None = None,
        control: int = 0,
        data: Any = None,
        now_ns: int = 0,
        wall: float = 0.0,
    ) -> bool:
        """Append one event; False if it was dropped. Raises no error of the disk or of ``data``.

        ``now_ns`` (monotonic) and ``wall`` (seconds since the epoch) default to now. ``data`` is
        None or a dict; a description replaces each value that cannot be encoded, and secrets are
        redacted. A field that no reader accepts, such as an epoch of NaN, is left out.
        """
        now_ns = now_ns or time.monotonic_ns()
        wall = wall or time.time()
        seq = self.next_seq
        raw, lossy = data, False
        if data is not None and not is_numeric(data):
            data, lossy, unread = clean_data(kind, data)
            self.encode_failures += lossy
            self.unread = self.unread or unread
        if (
            kind not in self._kinds
            or type(step) is not int
            or not -INT_MAX <= step <= INT_MAX
            or (epoch is not None and (type(epoch) is not float or not is_epoch(epoch)))
        ):
            return self._write_slowly((wall, now_ns, kind, step, epoch, control, data), raw, lossy)
        try:
            # Encoder.encode, written out: each function on this path costs microseconds.
            step_body = STEP_BODIES.get(kind)
            if step_body is None or data is not None or epoch is None:
                body = self._pack((VERSION, seq, wall, now_ns, kind, step, epoch, control, data))
            else:
                pack, name = step_body
                body = pack(
                    START, seq, F64, wall, U64, now_ns, name, step, F64, epoch, U8, control, NIL
                )
            record = _header(len(body), crc32(body)) + body
        except Exception as error:  # msgpack raises a dozen types
            if is_script_error(error):
                raise
            return self._write_slowly((wall, now_ns, kind, step, epoch, control, data), raw, lossy)
        size = len(record)
        if size > self._free_bytes or size > _LARGE:
            return self._write_slowly((wall, now_ns, kind, step, epoch, control, data), raw, lossy)
        # Counted first: an interrupt leaves a hole, never two events with one number.
        self.next_seq = seq + 1
        self._free_bytes -= size
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            if is_script_error(error):
                raise
            return self._recover_write(error.errno, record, seq, kind, now_ns)
        if written != size:
            self._truncate_partial(written)
            return self._recover_write(errno.ENOSPC, record, seq, kind, now_ns)
        self.fields[NEXT_SEQ] = seq + 1
        return True

    def flush_gaps(self, step: int = 0, epoch: float | None = None) -> None:
        """Write the gap records now, even if more events may be dropped for the same reason."""
        now_ns = time.monotonic_ns()
        if self._dropped_ranges and self._refusal(_GAP_BYTES, DROP_LAST, now_ns) is None:
            self._write_gaps(DROP_FIRST, (time.time(), now_ns, "gap", step, epoch, 0, None))

    def maintain(self) -> None:
        """Replace files that were deleted or closed by the script.

        Takes a few microseconds. Call it about once a second.
        """
        self.folder.page.sync()
        with contextlib.suppress(LinesideError), suppress_own_errors(OSError):
            is_gone = not (self._file.path if self._file else self.folder.path).exists()
            if not self.folder.is_intact():
                self._close_segment()
                self.folder.rebuild()
                self.fields = self.folder.page.fields
            elif is_gone or (self._file is not None and not self._file.owns_descriptor):
                self._close_segment()
            if is_gone:
                self._count_removed()

    def close(self) -> None:
        """Close the files and release the lock: it holds nothing. ``fields`` stay readable."""
        self._close_segment()
        self.folder.close()

    def reopen(self) -> None:
        """Write on after ``close``, in the same stream, even if the shipper has removed its folder.

        Raises:
            SettingsError, OSError: as the constructor.
        """
        self.folder.reopen()
        self.fields = self.folder.page.fields
        self._other_bytes = self.folder.usage()

    def abandon(self) -> None:
        """Close the files of a forked child; the stream goes on in the parent."""
        self._close_segment()
        self.folder.abandon()

    # The slow path: a new segment, a large record, odd data, a reached limit or a failing disk.

    def _write_slowly(self, event: _EventTuple, raw: Any, lossy: bool) -> bool:
        event = self._encodable(event, raw, lossy)
        now_ns, kind = event[1], event[2]
        level = drop_level(kind)
        size = len(self._encode(self.next_seq, *event))
        why = self._refusal(size, level, now_ns)
        if why is None and not self._write_gaps(level, event):
            why = "disk"
        seq = self.next_seq
        self.next_seq = seq + 1
        if why is None and not self._append(self._encode(seq, *event), now_ns):
            why = "disk"
        if why is not None:
            return self._drop(seq, kind, why)
        self.fields[NEXT_SEQ] = seq + 1
        self._free_bytes = self._count_free_bytes()
        return True

    def _encodable(self, event: _EventTuple, raw: Any, lossy: bool) -> _EventTuple:
        """``event`` with fields that every reader accepts, and as much data as fits one record.

        ``raw`` is its data as the script gave it. ``lossy``: it is counted already as one that has
        lost something.
        """
        wall, now_ns, kind, step, epoch, control, data = event
        valid_step, valid_epoch = as_step(step), as_epoch(epoch)
        has_lost = valid_step is None or (valid_epoch is None and epoch is not None)
        if is_name(kind):
            self._kinds.add(kind)
        else:
            kind, has_lost = "unnamed", True
        event = (wall, now_ns, kind, valid_step or 0, valid_epoch, as_step(control) or 0, data)
        for limits in LIMITS_BY_SIZE if data is not None else ():
            if self._fits(event):
                break
            sanitizer = Sanitizer(limits)
            event = (*event[:-1], sanitizer.clean(raw))
            has_lost = has_lost or sanitizer.lossy
        self.encode_failures += has_lost and not lossy
        return event

    def _fits(self, event: _EventTuple) -> bool:
        try:
            record = self._encode(self.next_seq, *event)
            # The broker denies a record beyond the limits, and with it all that follow it.
            check_container_count(record[HEADER.size :])
            return len(record) <= HEADER.size + MAX_RECORD
        except Exception as error:  # msgpack raises a dozen types
            if is_script_error(error):
                raise
            return False

    def _refusal(self, size: int, level: int, now_ns: int) -> str | None:
        """Why ``size`` bytes of this level cannot be written now; None if they can."""
        if level < DROP_LAST and now_ns < self._retry_ns:
            return "disk"
        self._find_position()
        limit = self._limits[level] - size
        over = self._other_bytes + self._position > limit
        if over and now_ns - self._measured_ns >= _MEASURE_EVERY_NS:
            self._measured_ns = now_ns
            self._other_bytes = self.folder.usage() - self._position
            over = self._other_bytes + self._position > limit
        if over:
            return "cap"
        is_full = self._position > 0 and self._position + size > self._segment
        if (self._fd < 0 or is_full) and not self._open_segment(self.next_seq) and self._fd < 0:
            self._back_off(now_ns)
            return "disk"
        return None

    def _write_gaps(self, level: int, event: _EventTuple) -> bool:
        """Write the gap records of ranges that end because an event of ``level`` is accepted."""
        wall, now_ns, _, step, epoch, _, _ = event
        for why, drops in list(self._dropped_ranges.items()):
            if level > drops.level:
                continue
            seq = self.next_seq
            record = self._encode(seq, wall, now_ns, "gap", step, epoch, 0, drops.data())
            self.next_seq = seq + 1
            if not self._append(record, now_ns):
                self.next_seq = seq
                return False
            self.fields[NEXT_SEQ] = seq + 1
            del self._dropped_ranges[why]
        return True

    def _append(self, record: bytes, now_ns: int) -> bool:
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            if is_script_error(error):
                raise
            if error.errno in _LOST_DESCRIPTOR:
                self._close_segment()
            self._back_off(now_ns)
            return False
        if written != len(record):
            self._truncate_partial(written)
            self._back_off(now_ns)
            return False
        self._position += written
        self._retry_ns, self._backoff_ns = 0, _FIRST_BACKOFF_NS
        return True

    def _recover_write(
        self, code: int | None, record: bytes, seq: int, kind: str, now_ns: int
    ) -> bool:
        """After a failed write on the fast path, retry once if a new descriptor can help."""
        self._free_bytes = 0
        if code in _LOST_DESCRIPTOR:
            self._close_segment()
            if self._open_segment(seq) and self._append(record, now_ns):
                self.fields[NEXT_SEQ] = seq + 1
                return True
        self._back_off(now_ns)
        return self._drop(seq, kind, "disk")

    def _drop(self, seq: int, kind: str, why: str) -> bool:
        self._dropped_ranges.setdefault(why, DroppedRange(why, seq)).add(
            seq, kind, drop_level(kind)
        )
        self._free_bytes = 0
        if self._position == 0:
            self._discard_segment(seq)
        self.dropped += 1
        self.fields[DROPPED] = self.dropped
        self.fields[NEXT_SEQ] = seq + 1
        return False

    def _back_off(self, now_ns: int) -> None:
        """Stop using the disk for a while, except for events of the last drop level."""
        self._free_bytes = 0
        self._retry_ns = now_ns + self._backoff_ns
        self._backoff_ns = min(2 * self._backoff_ns, _LAST_BACKOFF_NS)

    def _truncate_partial(self, written: int) -> None:
        """Cut off a record of which only ``written`` bytes were written; readers also skip it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_END) - written)

    def _count_free_bytes(self) -> int:
        if self._dropped_ranges:
            return 0
        used = self._other_bytes + self._position
        return min(self._segment - self._position, self._limits[DROP_FIRST] - used)

    def _find_position(self) -> None:
        try:
            self._position = self._file.size if self._file is not None else 0
        except OSError:
            self._close_segment()

    def _open_segment(self, first_seq: int) -> bool:
        """Continue in a new segment; False, with the old one kept, if none can be created."""
        try:
            file = self.folder.open_segment(first_seq)
        except OSError:
            return False
        self._close_segment()
        self._file, self._fd = file, file.fd
        return True

    def _close_segment(self) -> None:
        if self._file is not None:
            self._file.close()
            self._other_bytes += self._position
        self._file, self._fd = None, -1
        self._position = self._free_bytes = 0

    def _discard_segment(self, seq: int) -> None:
        """Delete an empty segment: its name would state an event that is not in it."""
        if self._file is not None:
            self._close_segment()
            with contextlib.suppress(OSError):
                self.folder.segment_path(seq).unlink()

    def _count_removed(self) -> None:
        """Count events that were in deleted segments and were not confirmed by the bus."""
        self._other_bytes = self.folder.usage()
        self._retry_ns = 0
        first, end = self.fields[ACKED_SEQ], self.accounted_seq
        if first < end:
            self._dropped_ranges.setdefault("removed", DroppedRange("removed", first)).add_range(
                end
            )
            self.dropped += end - first
            self.fields[DROPPED] = self.dropped
