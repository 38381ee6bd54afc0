"""A job's store that tests freeze and take away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch.distributed as dist


class Store:
    """A job's store in memory, whose server may be frozen or gone."""

    def __init__(self) -> None:
        self.kept = dist.HashStore()
        self.answers = threading.Event()
        self.answers.set()
        self.is_gone = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*given: Any) -> Any:
            self.answers.wait()
            if self.is_gone:
                raise RuntimeError("connection reset")
            return getattr(self.kept, name)(*given)

        return ask
