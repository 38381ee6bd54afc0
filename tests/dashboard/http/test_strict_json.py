import json
import math

import pytest

from lineside.dashboard import formatting
from lineside.dashboard.http.strict_json import strict


def test_values_that_json_lacks_become_null_with_a_flag() -> None:
    value = {"loss": math.nan, "deep": [{"a/b~c": math.inf}, -math.inf], "fine": 1.5}
    clean, flags = strict(value)
    assert clean == {"loss": None, "deep": [{"a/b~c": None}, None], "fine": 1.5}
    assert flags == {"/loss": "nan", "/deep/0/a~1b~0c": "inf", "/deep/1": "-inf"}


def test_odd_keys_bytes_and_lone_surrogates_become_text() -> None:
    clean, flags = strict({1: b"\x00\xff", "\ud800": ("x", {3}), "é": "\udfff"})
    assert clean == {"1": "00ff", "?": ["x", "{3}"], "é": "?"}
    assert not flags
    json.dumps(clean, allow_nan=False, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "NaN"),
        (math.inf, "\N{INFINITY}"),
        (-math.inf, "-\N{INFINITY}"),
        (0, "0"),
        (12345, "12,345"),
        (2.31415, "2.314"),
        (2.5, "2.5"),
        (123.456, "123.5"),
        (0.00123456, "0.001235"),
        (0.000123456, "1.23e-4"),
        (-0.00002, "-2e-5"),
        (12345678.9, "1.23e7"),
        (1e15, "1e15"),
    ],
)
def test_numbers_are_formatted_with_four_digits(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("host/memory_used_bytes", 1_500_000_000, "1.5 GB"),
        ("host/disk_read_bytes_per_second", 12.5, "12.5 B/s"),
        ("gpu0/sm_clock_hertz", 1.98e9, "1.98 GHz"),
        ("process/resident_memory_bytes", None, formatting.NO_VALUE),
        ("host/network_receive_bytes_total", math.inf, "\N{INFINITY}"),
        ("bytes", 1_500_000, "1,500,000"),
    ],
)
def test_bytes_and_hertz_are_formatted_in_their_unit(
    name: str, value: float | None, text: str
) -> None:
    assert formatting.quantity(value, name) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (192, "3m 12s"), (7500, "2h 05m"), (273600, "3d 04h"), (-5, "0s")],
)
def test_durations_are_formatted_in_two_units(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text
