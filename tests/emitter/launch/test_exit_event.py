"""What is said of a run when the command of ``lineside run`` has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.bus.settings import Settings
from lineside.emitter.launch import exit_event
from lineside.emitter.launch.exit_event import CommandExit
from lineside.emitter.spool import status_page, status_reader
from lineside.emitter.spool.status_page import CLOSED, FLAGS, HOOK_MONOTONIC_NS
from lineside.emitter.spool.status_reader import StatusFields
from tests.emitter.conftest import read_spool
from tests.emitter.spool.spools import MakeWriter
from tests.emitter.streams import data_of, only


@pytest.fixture(autouse=True)
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored into the page is in its file, wherever the tests run."""
    monkeypatch.setattr(status_page, "filesystem", lambda _: "ext4")


RANK_0, RANK_8 = Stream("run", "rank0", "attempt"), Stream("run", "rank8", "attempt")
ALIVE = {os.getpid()}


def ended(pages: Mapping[Stream, StatusFields | None]) -> CommandExit:
    now = time.monotonic()
    return CommandExit(["train"], 3, now - 5.0, now, time.time(), None, dict(pages))


def outlived(root: Path, end: CommandExit, alive: set[int]) -> bool:
    settings = Settings(home=root, spool=root, broker="", store="")
    exit_event.record(end, alive, settings)
    told = data_of(only(read_spool(root, exit_event.PRODUCER))[0])
    assert (told["attempt"], told["exit_code"], told["seconds"]) == ("attempt", 3, 5.0)
    return bool(told["outlived"])


@pytest.mark.parametrize(("alive", "is_so"), [(ALIVE, True), (set(), False)])
@pytest.mark.parametrize("stream", [RANK_0, RANK_8])
def test_a_training_that_lives_outlived_it_also_where_rank_0_is_on_another_machine(
    root: Path, make: MakeWriter, stream: Stream, alive: set[int], is_so: bool
) -> None:
    make(stream=stream)
    assert (
        outlived(root, ended({stream: status_reader.read_page(root.joinpath(*stream))}), alive)
        is is_so
    )


def test_rank_0_is_asked_before_others(root: Path, make: MakeWriter) -> None:
    make(stream=RANK_0)
    make(stream=RANK_8)
    pages = {RANK_0: None, RANK_8: status_reader.read_page(root.joinpath(*RANK_8))}
    assert outlived(root, ended(pages), ALIVE) is False


@pytest.mark.parametrize(("after", "is_so"), [(0.5, False), (1.5, True)])
def test_one_that_is_gone_outlived_it_if_it_trained_on_for_a_second(
    root: Path, make: MakeWriter, after: float, is_so: bool
) -> None:
    fields = make().fields
    end = ended({RANK_0: status_reader.read_page(root.joinpath(*RANK_0))})
    fields[HOOK_MONOTONIC_NS] = int((end.monotonic + after) * 1e9)
    assert outlived(root, end, set()) is is_so


@pytest.mark.parametrize(("before", "is_so"), [(0, True), (CLOSED, False)])
def test_one_that_is_gone_outlived_it_if_it_closed_its_run_since(
    root: Path, make: MakeWriter, before: int, is_so: bool
) -> None:
    fields = make().fields
    fields[FLAGS] = before
    end = ended({RANK_0: status_reader.read_page(root.joinpath(*RANK_0))})
    fields[FLAGS] = CLOSED
    assert outlived(root, end, set()) is is_so
