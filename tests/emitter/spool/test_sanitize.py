"""Every value that a script logs can be encoded, without waiting for a GPU."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import time
from collections import UserDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from lineside.bus.protocol.limits import MAX_RECORD
from lineside.emitter.spool.sanitize import LIMITS_BY_SIZE, Limits, Sanitizer


def sanitize(value: Any) -> Any:
    sanitized = Sanitizer().sanitize(value)
    msgpack.packb(sanitized)
    return sanitized


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    def __str__(self) -> str:
        return "another"


class Count(int):
    pass


@dataclasses.dataclass
class Point:
    x: float
    y: Any


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Panic(BaseException):
    """As Rust's extensions raise: no Exception."""


class Panicking:
    def __repr__(self) -> str:
        raise Panic


class Stopping:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Keyed:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        raise self.error


def test_nan_and_infinities_survive() -> None:
    nan, infinity, minus = sanitize([math.nan, math.inf, np.float32("-inf")])
    assert math.isnan(nan)
    assert (infinity, minus) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(1.5), 1.5),
        (np.float64(2.5), 2.5),
        (np.int64(-7), -7),
        (np.bool_(True), True),
        (np.longdouble(0.5), 0.5),
        (np.array([[4.0]]), 4.0),
        (np.arange(3), [0, 1, 2]),
        (np.str_("word"), "word"),
        (torch.tensor(1.25), 1.25),
        (torch.tensor([3]), 3),
        (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        (torch.tensor(2.0, requires_grad=True), 2.0),
        (torch.nn.Parameter(torch.tensor(3.0)), 3.0),
        (torch.tensor(2.5, dtype=torch.bfloat16), 2.5),
        (torch.bfloat16, "bfloat16"),
        (torch.device("cpu"), "cpu"),
        (Decimal("1.5"), 1.5),
        (Fraction(1, 4), 0.25),
        (Count(5), 5),
        (Text("mine"), "mine"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Path("/a/b"), "/a/b"),
        (datetime.date(2026, 11, 21), "2026-11-21"),
        ((1, (2, 3)), [1, [2, 3]]),
        (frozenset({4}), [4]),
        (Point(1.0, Point(2.0, None)), {"x": 1.0, "y": {"x": 2.0, "y": None}}),
        (UserDict(a=1), {"a": 1}),
        ({1: "a", None: "b", (1, 2): "c"}, {"1": "a", "None": "b", "(1, 2)": "c"}),
        (-(1 << 63), -(1 << 63)),
        ((1 << 64) - 1, (1 << 64) - 1),
        (1 << 70, float(1 << 70)),
    ],
)
def test_numbers_stay_numbers_and_containers_containers(value: object, expected: object) -> None:
    sanitized = sanitize(value)
    assert sanitized == expected
    assert type(sanitized) is type(expected)


def test_an_integer_beyond_a_float_is_described() -> None:
    assert sanitize(1 << 2000) == {"!": "<int of 2001 bits>"}


def test_a_value_that_cannot_be_encoded_is_described_in_at_most_200_characters() -> None:
    sanitizer = Sanitizer()
    assert sanitizer.sanitize(object) == {"!": "<class 'object'>"}
    assert sanitizer.lossy
    assert sanitize(b"bytes") == {"!": "b'bytes'"}
    assert sanitize(1 + 2j) == {"!": "(1+2j)"}
    assert len(sanitize(range(10**300))["!"]) == 200


@pytest.mark.parametrize("value", [Unprintable(), Panicking(), {"deep": [Panicking()]}])
def test_a_repr_that_raises_does_no_harm(value: object) -> None:
    assert "cannot be read" in str(sanitize(value))


def test_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        sanitize(Stopping())
    with pytest.raises(SystemExit):
        sanitize({Keyed(SystemExit()): 1})


def test_a_key_that_cannot_be_printed_is_named_by_its_class() -> None:
    [key] = sanitize({Keyed(ValueError()): 1})
    assert "Keyed" in key


def test_a_tensor_elsewhere_is_described_and_never_read() -> None:
    """A meta tensor cannot be read at all: item, tolist and repr of its values would raise."""
    described = sanitize({"loss": torch.tensor(1.0, device="meta")})["loss"]["!"]
    assert "shape=torch.Size([]) dtype=torch.float32 device=meta" in described


def test_a_tensor_subclass_is_never_read() -> None:
    """Reading a DTensor is a collective."""

    class Distributed(torch.Tensor):
        def item(self) -> float:
            raise AssertionError

        tolist = item

        def __repr__(self, **_: object) -> str:
            raise AssertionError

    described = sanitize(torch.tensor(1.0).as_subclass(Distributed))["!"]
    assert described.endswith("Distributed shape=torch.Size([]) dtype=torch.float32 device=cpu>")


def test_an_object_that_holds_tensors_is_not_printed() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=torch.tensor(0.5))
    assert "lr" not in sanitize(optimizer)["!"]


def test_a_large_array_is_described() -> None:
    assert "shape=(1000,)" in sanitize(np.zeros(1000))["!"]
    assert "shape=torch.Size([1000])" in sanitize(torch.zeros(1000))["!"]
    assert sanitize(np.complex128(1j)) == {"!": "1j"}


def test_broken_text_is_escaped() -> None:
    assert sanitize("\ud800x") == "\\ud800x"
    assert sanitize({"\ud800": 1}) == {"\\ud800": 1}


def test_long_text_is_cut_and_marked_as_cut() -> None:
    sanitizer = Sanitizer(Limits(text=5))
    assert sanitizer.sanitize("abcdefgh") == "abcde… (8 characters)"
    assert sanitizer.lossy


def test_cyclic_and_deep_values_end() -> None:
    cycle: list[Any] = []
    cycle.append({"self": cycle})
    assert "nested too deeply" in str(sanitize(cycle))
    deep: Any = 0
    for _ in range(2000):
        deep = {"next": deep}
    assert "nested too deeply" in str(sanitize(deep))
    wide: list[Any] = []
    for _ in range(100):
        wide = [wide] * 100
    assert "values are left out" in str(sanitize(wide))


def test_a_large_branch_takes_nothing_from_the_others() -> None:
    """As the labels of a model's configuration."""
    labels = {f"label {n}": n for n in range(20_000)}
    config = {
        "id2label": labels,
        "label2id": {n: name for name, n in labels.items()},
        "n_layer": 1,
        "nested": {"deep": [{"a": [1, 2, 3]}] * 3},
        "words": ["a"] * 300,
    }
    sanitizer = Sanitizer(Limits(items=4_000))
    clean = sanitizer.sanitize({"class": "GPT2", "config": config, "parameters": 5})
    assert (clean["class"], clean["parameters"]) == ("GPT2", 5)
    assert {**clean["config"], "id2label": 0, "label2id": 0} == {
        **config,
        "id2label": 0,
        "label2id": 0,
    }
    first, second = clean["config"]["id2label"], clean["config"]["label2id"]
    assert 1_500 < len(first) < 2_000
    assert 1_500 < len(second) < 2_000
    assert first["!"] == f"{20_000 - len(first) + 1:,} of 20,000 names are left out"
    assert sanitizer.lossy


def test_what_is_left_out_of_a_list_is_marked_at_its_end() -> None:
    clean = Sanitizer(Limits(items=10)).sanitize({"a": list(range(100)), "b": 1})
    assert clean == {"a": [*range(8), {"!": "92 of 100 values are left out"}], "b": 1}


def test_sharing_out_the_limit_takes_time_linear_in_it() -> None:
    wide: list[Any] = []
    for _ in range(6):
        wide = [wide] * 100
    started = time.process_time()
    sanitize(wide)
    assert time.process_time() - started < 2


def test_within_the_last_limits_everything_fits_one_record() -> None:
    huge: Any = {"é" * 500 + str(i): ["é" * 10_000] * 1_000 for i in range(1_000)}
    sanitizer = Sanitizer(LIMITS_BY_SIZE[-1])
    assert len(msgpack.packb(sanitizer.sanitize(huge))) < MAX_RECORD // 2
    assert sanitizer.lossy


def test_a_name_that_becomes_equal_to_another_is_counted_as_left_out() -> None:
    sanitizer = Sanitizer()
    assert sanitizer.clean({1: "a", "1": "b"}) == {"1": "b", "!": "1 of 2 names are left out"}
    assert sanitizer.lossy
