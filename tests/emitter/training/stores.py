"""A job's store that tests can freeze and close."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch.distributed as dist


class FakeJobStore:
    """A job's store in memory, whose server may be frozen or gone."""

    def __init__(self) -> None:
        self.inner = dist.HashStore()
        self.is_responding = threading.Event()
        self.is_responding.set()
        self.is_closed = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*given: Any) -> Any:
            self.is_responding.wait()
            if self.is_closed:
                raise RuntimeError("connection reset")
            return getattr(self.inner, name)(*given)

        return ask
