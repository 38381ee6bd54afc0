"""Whether a file of a checkpoint is there to its end, from its first and last bytes alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

# What writes these writes no empty ones.
_NEVER_EMPTY = frozenset({".safetensors", ".bin", ".pt", ".pth", ".json"})
# torch.save writes a zip into these, torch.distributed.checkpoint one behind the other.
_ZIPS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".distcp"})
# Written by transformers and peft; others may have another form than their name promises.
_JSON_NAMES = frozenset(
    {"trainer_state.json", "config.json", "generation_config.json", "adapter_config.json"}
)
_ZIP_MAGIC = b"PK\x03\x04"
_TOO_MUCH = (OverflowError, RecursionError)  # an infinite number, brackets without end
_LONGEST_HEADER = 100_000_000  # safetensors refuses a longer one


def damage(file: Path) -> str | None:
    """What is wrong with ``file``; None if nothing is, or if its form is unknown.

    Raises:
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    if not size:
        return "empty" if file.suffix in _NEVER_EMPTY else None
    if file.suffix == ".safetensors":
        return _safetensors_damage(file, size)
    if file.suffix in _ZIPS:
        with file.open("rb") as opened:
            is_zip = opened.read(4) == _ZIP_MAGIC
        return f"cut short, {size:,} bytes" if is_zip and not zipfile.is_zipfile(file) else None
    if file.name in _JSON_NAMES or file.name.endswith(".index.json"):
        return "no JSON" if read_json(file) is None else None
    return None


def read_json(file: Path) -> Any:
    """The content of ``file``; None if it is no JSON."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None


def _safetensors_damage(file: Path, size: int) -> str | None:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        begin = 8 + length
        if begin > size or length > _LONGEST_HEADER:
            return f"cut short, {size:,} bytes"
        try:
            header = json.loads(opened.read(length))
            ends = [
                int(tensor["data_offsets"][1])
                for name, tensor in header.items()
                if name != "__metadata__"
            ]
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            return "no header"
    needed = begin + max(ends, default=0)
    return f"cut short, {size:,} of {needed:,} bytes" if size < needed else None
