"""What an upload's receiver does to the training: nothing."""

from benchmarks.uploads.training import measure

__all__ = ["measure"]
