"""Records damaged in a spool or in the journal become gaps; all others are kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from lineside.bus.protocol.messages import Evt
from lineside.bus.protocol.wire import HEADER, read_record
from lineside.store.history.history import History
from tests.faults.accounts import entries
from tests.faults.conftest import Check
from tests.faults.stack import Stack

pytestmark = pytest.mark.fault

DAMAGE = ("a bit", "a length", "a stretch", "zeros")


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_a_spool_costs_the_damaged_records_and_is_a_gap(
    stack: Stack, rng: Random, check: Check, damage: str
) -> None:
    loop = stack.produce()
    loop.wait_noted(1000)
    loop.kill()
    stack.kill_shipper()
    [segment] = sorted((stack.spool / "run" / "rank0").glob("*/*.seg"))
    hurt = _damage(segment, rng, damage)
    stack.start()
    stack.ship()
    result = check("run", loop.items(), torn=True, exact=False)
    assert (result.lost, result.twice) == (0, 0)
    assert result.gaps == len(hurt)
    assert result.noted - result.recorded in (len(hurt), len(hurt) - 1)
    _are_gaps(stack.history(), hurt)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_the_journal_costs_the_damaged_records_and_is_a_gap(
    stack: Stack, rng: Random, check: Check, damage: str
) -> None:
    stack.broker.start()
    producer = stack.produce()
    producer.wait_noted(1000)
    assert producer.finish() == 0
    largest = max(_blobs(stack.broker.address), key=lambda message: message.count)
    stack.broker.stop()
    hurt = _damage_journal(stack.broker.home / "journal.db", largest, rng, damage)
    stack.start()
    stack.wait_recorded("run")
    result = check("run", producer.items(), exact=False)
    assert (result.lost, result.twice, result.surplus) == (0, 0, 0)
    assert result.gaps == len(hurt)
    assert result.noted - result.recorded == len(hurt)
    assert result.in_order
    _are_gaps(stack.history(), hurt)


def _damage(log: Path, rng: Random, damage: str) -> set[int]:
    """Damage records in the middle of a segment; their seqs."""
    data = bytearray(log.read_bytes())
    starts = _starts(data)
    begin, end = _spoil(data, starts, rng, damage)
    log.write_bytes(data)
    return _touched(starts, begin, end)


def _blobs(address: str) -> list[Evt]:
    """The entries of rank 0 in the journal."""
    found = (message for message in entries(address) if isinstance(message, Evt))
    return [message for message in found if message.stream.producer == "rank0"]


def _damage_journal(path: Path, entry: Evt, rng: Random, damage: str) -> set[int]:
    """Damage records in the middle of an entry in the journal's file; their seqs."""
    blob, starts = entry.blob, _starts(entry.blob)
    file = path.read_bytes()
    while True:
        spoiled = bytearray(blob)
        begin, end = _spoil(spoiled, starts, rng, damage)
        # A blob lies in several pages: only a stretch within one of them can be found.
        around = slice(max(0, begin - 40), end + 40)
        if file.count(blob[around]) == 1:
            break
    path.write_bytes(file.replace(blob[around], bytes(spoiled[around])))
    return {entry.first_seq + n for n in _touched(starts, begin, end)}


def _spoil(data: bytearray, starts: list[int], rng: Random, damage: str) -> tuple[int, int]:
    """Damage bytes in the second quarter of ``data``; their range."""
    begin = starts[rng.randrange(len(starts) // 4, len(starts) // 2)]
    if damage == "a bit":
        begin += HEADER.size + rng.randrange(20)
        end = begin + 1
        data[begin] ^= 1 << rng.randrange(8)
    elif damage == "a length":
        end = begin + 4
        data[begin:end] = rng.randbytes(4)
    else:
        begin += rng.randrange(HEADER.size)
        end = begin + rng.randrange(50, 400)
        fill = bytes(end - begin) if damage == "zeros" else rng.randbytes(end - begin)
        data[begin:end] = fill
    return begin, end


def _starts(data: bytes | bytearray) -> list[int]:
    """The start of each record, and the end of the last one."""
    starts = [0]
    while (found := read_record(data, starts[-1])) is not None:
        starts.append(found[1])
    return starts


def _touched(starts: list[int], begin: int, end: int) -> set[int]:
    """The indices of the records with bytes between ``begin`` and ``end``."""
    return {n for n, (at, to) in enumerate(pairwise(starts)) if at < end and begin < to}


def _are_gaps(history: History, hurt: set[int]) -> None:
    holes = [gap for gap in history.gaps("run") if gap.producer == "rank0"]
    assert {seq for gap in holes for seq in range(gap.first, gap.end)} == hurt
