"""Sends batches as JSON, as the how-to `upload-metrics.md` describes."""

from __future__ import annotations

from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.sinks.receiver import Receiver


class JsonPush:
    """POSTs each batch with its key as ``Idempotency-Key``."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def send(self, batch: Batch) -> None:
        self._receiver.post(batch.dump(), "application/json", {"Idempotency-Key": batch.key})
