"""Reads the facts of a tokenizer and of loaders. No data is read."""

from __future__ import annotations

from functools import partial
from typing import Any

from lineside.emitter.training.facts.collect import collect

_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def processing_facts(processing: Any) -> dict[str, Any]:
    """Class, size and special tokens of a tokenizer, image processor or the like."""
    names = ("name_or_path", "vocab_size", "model_max_length", "padding_side", "is_fast")
    facts = collect(
        {
            "class": lambda: type(processing).__name__,
            **{name: partial(getattr, processing, name) for name in names},
            "special_tokens": lambda: _special_tokens(processing),
        }
    )
    tokens: dict[str, Any] = facts.pop("special_tokens", {})
    return facts | tokens


def _special_tokens(processing: Any) -> dict[str, Any]:
    """``pad_token``, ``pad_token_id`` and so on of those that are set."""
    # Reading one that is not set makes older tokenizers log an error.
    tokens = {name: processing.special_tokens_map.get(name) for name in _SPECIAL_TOKENS}
    found = {name: str(token) for name, token in tokens.items() if token is not None}
    return found | {f"{name}_id": getattr(processing, f"{name}_id") for name in found}


def loader_facts(loader: Any) -> dict[str, Any]:
    """Length, batch size, workers and dataset of a DataLoader, which is not iterated."""
    return collect(
        {
            "class": lambda: type(loader).__name__,
            "length": lambda: len(loader),
            "batch_size": lambda: loader.batch_size,
            "workers": lambda: loader.num_workers,
            "dataset": lambda: type(loader.dataset).__name__,
            "dataset_length": lambda: len(loader.dataset),
        }
    )
