"""The segment reader on streams that are written, ended or damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import GapMessage, Put
from lineside.emitter.spool.segment_reader import (
    BATCH_BYTES,
    BATCH_RECORDS,
    SegmentReader,
    peek_seq,
    segments,
)

STREAM = Stream("run", "rank0", "a1")
encoder = wire.Encoder()


def record(seq: int, data: object = None) -> bytes:
    return encoder.encode(seq, 1.5, 2, "log", seq, None, 0, data)


def segment(folder: Path, first: int, *seqs: int, tail: bytes = b"") -> Path:
    path = folder / f"{first:016}.seg"
    path.write_bytes(b"".join(record(seq) for seq in seqs) + tail)
    return path


def read_all(segment_reader: SegmentReader, *, final: bool = True) -> list[Put | GapMessage]:
    found = []
    while (message := segment_reader.read(final=final)) is not None:
        found.append(message)
    return found


def seqs_of(messages: list[Put | GapMessage]) -> list[int]:
    seqs = []
    for message in messages:
        if isinstance(message, Put):
            bodies = list(wire.record_bodies(message.blob))
            assert [peek_seq(body) for body in bodies] == list(
                range(message.first_seq, message.first_seq + message.count)
            )
            seqs += [wire.decode_event(body).seq for body in bodies]
    return seqs


def gaps_of(messages: list[Put | GapMessage]) -> list[tuple[int, int]]:
    return [(m.first, m.end) for m in messages if isinstance(m, GapMessage)]


@pytest.mark.parametrize("seq", [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**62])
def test_the_seq_is_read_from_a_body_without_decoding_it(seq: int) -> None:
    assert peek_seq(memoryview(record(seq)[wire.HEADER.size :])) == seq


def test_a_body_that_is_not_an_event_has_no_seq() -> None:
    with pytest.raises(ValueError, match="expected an array"):
        peek_seq(memoryview(b"\x01"))


def test_a_stream_is_read_across_its_segments_in_order(tmp_path: Path) -> None:
    segment(tmp_path, 0, 0, 1, 2)
    segment(tmp_path, 3, 3, 4)
    segment(tmp_path, 5, 5)
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert seqs_of(messages) == [0, 1, 2, 3, 4, 5]
    assert not gaps_of(messages)


def test_a_batch_has_at_most_256_records(tmp_path: Path) -> None:
    segment(tmp_path, 0, *range(600))
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert [m.count for m in messages if isinstance(m, Put)] == [BATCH_RECORDS, BATCH_RECORDS, 88]


def test_a_batch_has_at_most_256_kib(tmp_path: Path) -> None:
    size = 100_000
    (tmp_path / f"{0:016}.seg").write_bytes(
        b"".join(record(seq, {"x": "y" * size}) for seq in range(7))
    )
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert seqs_of(messages) == list(range(7))
    assert all(len(m.blob) <= BATCH_BYTES for m in messages if isinstance(m, Put))


def test_a_record_larger_than_a_batch_is_sent_alone(tmp_path: Path) -> None:
    large = record(1, {"x": "y" * 900_000})
    (tmp_path / f"{0:016}.seg").write_bytes(record(0) + large + record(2))
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert seqs_of(messages) == [0, 1, 2]
    assert any(m.blob == large for m in messages if isinstance(m, Put))


def test_events_that_are_written_later_are_found(tmp_path: Path) -> None:
    segment_reader = SegmentReader(STREAM, tmp_path)
    assert segment_reader.read(final=False) is None
    path = segment(tmp_path, 0, 0)
    assert seqs_of(read_all(segment_reader, final=False)) == [0]
    with path.open("ab") as file:
        file.write(record(1))
    segment(tmp_path, 2, 2)
    assert seqs_of(read_all(segment_reader, final=False)) == [1, 2]


def test_a_half_written_record_is_waited_for(tmp_path: Path) -> None:
    whole = record(1, {"loss": 0.5})
    path = segment(tmp_path, 0, 0, tail=whole[:11])
    segment_reader = SegmentReader(STREAM, tmp_path)
    assert seqs_of(read_all(segment_reader, final=False)) == [0]
    with path.open("ab") as file:
        file.write(whole[11:])
    assert seqs_of(read_all(segment_reader, final=False)) == [1]


def test_a_record_that_was_truncated_and_written_again_is_read_once(tmp_path: Path) -> None:
    path = segment(tmp_path, 0, 0, tail=record(1)[:9])
    segment_reader = SegmentReader(STREAM, tmp_path)
    assert seqs_of(read_all(segment_reader, final=False)) == [0]
    with path.open("r+b") as file:
        file.truncate(len(record(0)))
    with path.open("ab") as file:
        file.write(record(2))
    messages = read_all(segment_reader, final=False)
    assert seqs_of(messages) == [2]
    assert gaps_of(messages) == [(1, 2)]


@pytest.mark.parametrize("cut", [1, 7, 8, 20])
def test_a_record_cut_short_by_a_writers_death_is_not_an_event(tmp_path: Path, cut: int) -> None:
    segment(tmp_path, 0, 0, 1, tail=record(2)[:cut])
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert seqs_of(messages) == [0, 1]
    assert not gaps_of(messages)


def test_events_that_were_dropped_become_a_gap(tmp_path: Path) -> None:
    segment(tmp_path, 0, 0, 1, 5, 6)
    segment(tmp_path, 9, 9)
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert seqs_of(messages) == [0, 1, 5, 6, 9]
    assert gaps_of(messages) == [(2, 5), (7, 9)]


@pytest.mark.parametrize("final", [True, False])
def test_a_damaged_record_is_skipped_and_logged(
    tmp_path: Path, final: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = segment(tmp_path, 0, *range(10))
    data = bytearray(path.read_bytes())
    start = len(record(0)) * 4
    data[start + wire.HEADER.size + 5] ^= 0xFF
    path.write_bytes(data)
    messages = read_all(SegmentReader(STREAM, tmp_path), final=final)
    assert seqs_of(messages) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert gaps_of(messages) == [(4, 5)]
    assert "damaged byte" in caplog.text


def test_a_damaged_length_that_reaches_beyond_the_end_does_not_stop_a_live_stream(
    tmp_path: Path,
) -> None:
    path = segment(tmp_path, 0, *range(5))
    data = bytearray(path.read_bytes())
    data[len(record(0)) : len(record(0)) + 4] = (500_000).to_bytes(4, "little")
    path.write_bytes(data)
    messages = read_all(SegmentReader(STREAM, tmp_path), final=False)
    assert seqs_of(messages) == [0, 2, 3, 4]
    assert gaps_of(messages) == [(1, 2)]


def test_a_sound_record_that_is_not_an_event_is_skipped(tmp_path: Path) -> None:
    body = b"\x93\x01\x02\x03"
    from zlib import crc32

    odd = wire.HEADER.pack(len(body), crc32(body)) + body
    (tmp_path / f"{0:016}.seg").write_bytes(record(0) + odd + record(1))
    assert seqs_of(read_all(SegmentReader(STREAM, tmp_path))) == [0, 1]


def test_after_damage_at_the_end_of_a_segment_the_next_is_read(tmp_path: Path) -> None:
    segment(tmp_path, 0, 0, 1, tail=bytes(50))
    segment(tmp_path, 3, 3)
    messages = read_all(SegmentReader(STREAM, tmp_path), final=False)
    assert seqs_of(messages) == [0, 1, 3]
    assert gaps_of(messages) == [(2, 3)]


def test_a_huge_file_of_garbage_is_skipped(tmp_path: Path) -> None:
    path = segment(tmp_path, 0, 0)
    with path.open("ab") as file:
        file.truncate(40 << 20)
    segment(tmp_path, 2, 2)
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert seqs_of(messages) == [0, 2]
    assert gaps_of(messages) == [(1, 2)]


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_costs_only_the_records_it_hit(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = segment(tmp_path, 0, *range(50))
    segment(tmp_path, 50, *range(50, 60))
    data = bytearray(path.read_bytes())
    begin = rng.randrange(len(data))
    for at in range(begin, min(begin + rng.randrange(1, 100), len(data))):
        data[at] = rng.randrange(256)
    path.write_bytes(data)
    messages = read_all(SegmentReader(STREAM, tmp_path), final=rng.random() < 0.5)
    seqs = seqs_of(messages)
    missing = {seq for first, end in gaps_of(messages) for seq in range(first, end)}
    assert sorted({*seqs, *missing}) == list(range(60))
    assert len(seqs) == len(set(seqs))
    assert seqs == sorted(seqs)
    assert len(missing) <= 2 + 100 // len(record(0))


def test_seeking_back_returns_the_same_batches_again(tmp_path: Path) -> None:
    segment(tmp_path, 0, *range(400))
    segment(tmp_path, 400, *range(400, 900))
    segment_reader = SegmentReader(STREAM, tmp_path)
    first = read_all(segment_reader)
    for seq in (899, 512, 300, 0):
        segment_reader.seek(seq)
        assert seqs_of(read_all(segment_reader)) == list(range(seq, 900))
    segment_reader.seek(0)
    assert read_all(segment_reader) == first


def test_a_discarded_position_can_still_be_sought(tmp_path: Path) -> None:
    segment(tmp_path, 0, *range(700))
    segment_reader = SegmentReader(STREAM, tmp_path)
    read_all(segment_reader)
    segment_reader.discard_before(600)
    segment_reader.seek(600)
    assert seqs_of(read_all(segment_reader)) == list(range(600, 700))
    segment_reader.seek(3)
    assert seqs_of(read_all(segment_reader)) == list(range(3, 700))


def test_seeking_past_the_end_skips_records_written_later(tmp_path: Path) -> None:
    path = segment(tmp_path, 0, *range(5))
    segment_reader = SegmentReader(STREAM, tmp_path)
    segment_reader.seek(7)
    assert segment_reader.read(final=False) is None
    with path.open("ab") as file:
        file.write(b"".join(record(seq) for seq in (5, 6, 7, 8)))
    assert seqs_of(read_all(segment_reader, final=False)) == [7, 8]


def test_a_segment_removed_before_the_sought_seq_is_a_gap(tmp_path: Path) -> None:
    segment(tmp_path, 0, 0, 1).unlink()
    segment(tmp_path, 2, 2, 3)
    messages = read_all(SegmentReader(STREAM, tmp_path))
    assert gaps_of(messages) == [(0, 2)]
    assert seqs_of(messages) == [2, 3]


def test_after_a_segment_removed_while_it_is_read_the_next_is_read(tmp_path: Path) -> None:
    path = segment(tmp_path, 0, *range(300))
    segment_reader = SegmentReader(STREAM, tmp_path)
    segment_reader.read(final=False)
    segment(tmp_path, 300, 300)
    path.unlink()
    messages = read_all(segment_reader, final=False)
    assert gaps_of(messages) == [(256, 300)]
    assert seqs_of(messages) == [300]


def test_a_missing_folder_has_no_events(tmp_path: Path) -> None:
    segment_reader = SegmentReader(STREAM, tmp_path / "gone")
    assert segment_reader.read(final=False) is None
    assert segment_reader.read(final=True) is None


def test_other_files_are_not_segments(tmp_path: Path) -> None:
    for name in ("page", "1.seg", f"{3:016}.seg.tmp", f"{3:016}.SEG", ".hidden"):
        (tmp_path / name).write_bytes(record(0))
    kept = segment(tmp_path, 4, 4)
    assert [found.path for found in segments(tmp_path)] == [kept]


def test_an_unreadable_segment_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / f"{0:016}.seg").mkdir()
    with pytest.raises(IsADirectoryError):
        SegmentReader(STREAM, tmp_path).read(final=True)
