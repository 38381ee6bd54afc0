"""Reads the facts of a tokenizer and of loaders. No data is read."""

from __future__ import annotations

from typing import Any

from lineside.emitter.training.facts.collect import collect


def processing_facts(processing: Any) -> dict[str, Any]:
    """Class and size of a tokenizer, image processor or the like."""
    names = ("name_or_path", "vocab_size", "model_max_length", "padding_side", "is_fast")
    return collect(
        {
            "class": lambda: type(processing).__name__,
            **{name: lambda name=name: getattr(processing, name) for name in names},  # type: ignore[misc]
        }
    )


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
