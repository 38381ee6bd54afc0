"""Reads the facts of a TrainingArguments."""

from __future__ import annotations

import dataclasses
from typing import Any


def argument_facts(args: Any) -> dict[str, Any]:
    """The fields of a TrainingArguments.

    Not by its ``to_dict``, which changes nested dicts of the arguments (transformers 5.23).
    """
    if not dataclasses.is_dataclass(args):
        return dict(vars(args))
    return {
        field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.init
    }
