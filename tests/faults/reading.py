"""Reads the bus under a durable name, notes each event, then commits it.

Run as ``reading.py ADDRESS NAME NOTES PAUSE``. ``NOTES`` gets a line
``stream seq kind step`` for each event; ``PAUSE`` are seconds between batches.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from lineside.bus.client.reader import Reader


def main(address: str, name: str, notes: Path, pause: float) -> None:
    """Read until killed."""
    kept = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Reader(address, name=name, credit=16) as reader:
        while True:
            batch = reader.poll(1.0)
            if batch is None:
                continue
            if batch.gaps:
                os.write(kept, f"gap 0 {batch.gaps} 0\n".encode())
            lines = [f"{batch.stream} {e.seq} {e.kind} {e.step}\n" for e in batch.events]
            os.write(kept, "".join(lines).encode())
            reader.commit(batch.offset)
            time.sleep(pause)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
