"""Run torchrun with ranks that are forked from the server, as its own process is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.run import main

from tests.support.forked import ForkedScript


class ForkedRank(ForkedScript):
    """Takes what torchrun gives to Popen: ``python -u SCRIPT ARGUMENT...``."""

    def __init__(self, args: Sequence[str], **options: Any) -> None:
        super().__init__(args[2:], **options)


subprocess_handler.Popen = ForkedRank
main()
