"""Requests about checkpoints, as they are written to the bus."""

from __future__ import annotations

from typing import Any

import pytest

from lineside.bus.errors import UsageError
from lineside.bus.protocol.checkpoints import OPS, CheckpointRequest

FIELDS: dict[str, Any] = {
    "id": "0a1b2c",
    "op": "pin",
    "checkpoint": "/out/checkpoint-5",
    "attempt": "20261129T1-a",
    "step": 5,
    "issuer": "ada@lab",
}


@pytest.mark.parametrize("op", OPS)
def test_a_request_is_written_with_all_of_its_fields(op: str) -> None:
    fields = {**FIELDS, "op": op}
    assert CheckpointRequest(**fields).to_data() == fields


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("op", "burn", "op 'burn': expected one of pin, unpin, delete, verify"),
        ("checkpoint", "", "checkpoint '' cannot be used: expected a text of 1 to 4000"),
        ("attempt", None, "attempt None cannot be used"),
        ("id", "", "id '' cannot be used"),
        ("issuer", "a" * 1001, "expected a text of 1 to 1000 characters"),
        ("step", -1, "step -1 cannot be used: expected 0 to"),
        ("step", 2**63, "cannot be used: expected 0 to"),
    ],
)
def test_a_request_with_a_field_that_cannot_be_used_is_refused(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        CheckpointRequest(**{**FIELDS, field: value})
