"""Names of streams, gaps, and attempts that sort by their start."""

from __future__ import annotations

import time

import pytest

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol.events import Gap, Stream, is_run_id, new_attempt
from lineside.bus.protocol.patterns import Patterns, matches


def test_a_stream_reads_as_it_is_written() -> None:
    stream = Stream("my.run-1", "rank0", "20261121T082653-4f2a")
    assert str(stream) == "my.run-1/rank0/20261121T082653-4f2a"
    assert Stream.parse(str(stream)) == stream


@pytest.mark.parametrize(
    "name",
    [
        "",
        "run",
        "run/rank0",
        "run/rank0/a/b",
        "run//a",
        "../rank0/a",
        "-x/rank0/a",
        "r n/r/a",
        "é/r/a",
        "x" * 129 + "/r/a",
        "run/rank0/a\n",
        "run/./a",
        "run/.hidden/a",
    ],
)
def test_a_name_that_could_not_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(StreamNameError, match="is not a stream") as error_info:
        Stream.parse(name)
    assert error_info.value.name == name


def test_attempts_sort_by_their_start_and_are_parts_of_a_stream() -> None:
    earlier = new_attempt()
    time.sleep(0.002)
    later = new_attempt()
    assert earlier < later
    assert is_run_id(later)
    assert len({new_attempt() for _ in range(50)}) > 40


def test_a_gap_counts_what_is_missing() -> None:
    assert Gap(None, 3, 10).count == 7


@pytest.mark.parametrize("text", ["a/b/c/d", "", "a/", "/a", "a//b"])
def test_a_pattern_of_other_parts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected run\[/producer"):
        Patterns([text])


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        ("exp*-1", ["exp-1", "exp 2\n-1"], ["exp-10", "an exp-1"]),
        ("run", ["run"], ["Run", "run2"]),
        ("v[2]?", ["v[2]?"], ["v2x", "v[2]x"]),
        ("*", ["", "*", "[!a]"], []),
    ],
)
def test_only_a_star_stands_for_other_characters(
    pattern: str, fitting: list[str], other: list[str]
) -> None:
    assert all(matches(text, pattern) for text in fitting)
    assert not any(matches(text, pattern) for text in other)


def test_patterns_want_what_they_name_and_none_wants_all() -> None:
    stream = Stream("run", "rank0", "a")
    assert stream in Patterns()
    assert Patterns().all
    assert not Patterns(["run"]).all
    for wanted in ("run", "*", "run/rank0", "*/rank0", "run/*/a", "run/rank0/a"):
        assert stream in Patterns(["other", wanted])
        assert stream in Patterns([wanted])
    for other in ("ru", "run/rank1", "*/*/b", "rank0"):
        assert stream not in Patterns([other])
    assert None in Patterns(["other"])
