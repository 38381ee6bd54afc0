"""A producer in a process of its own, driven by lines on stdin: ``producer.py SPOOL STREAM``.

``write N`` writes events, ``flow N SECONDS`` writes them that far apart, ``flags F`` sets the
page's flags, ``event K`` writes one event of that kind, ``maintain``, ``close`` and ``reopen`` call
the writer, ``read`` reads all files of the stream, ``fork`` leaves a child behind, ``exec`` runs
another program. The answer to each is a line with the next seq.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from lineside.bus.protocol.events import Stream
from lineside.emitter.spool.status_page import FLAGS, HOOK_MONOTONIC_NS, STEP
from lineside.emitter.spool.writer import SpoolWriter


def main() -> None:
    writer = SpoolWriter(
        Path(sys.argv[1]), Stream.parse(sys.argv[2]), segment=int(sys.argv[3]), rank=0
    )
    print(0, flush=True)
    for line in sys.stdin:
        instruction, *arguments = line.split()
        if instruction == "write":
            for _ in range(int(arguments[0])):
                writer.write("step_end", writer.next_seq)
        elif instruction == "flow":
            for _ in range(int(arguments[0])):
                writer.write("step_end", writer.next_seq)
                time.sleep(float(arguments[1]))
        elif instruction == "event":
            writer.write(arguments[0], writer.next_seq)
        elif instruction == "flags":
            writer.fields[FLAGS] = int(arguments[0])
            writer.fields[STEP] = 7
            writer.fields[HOOK_MONOTONIC_NS] = time.monotonic_ns()
        elif instruction == "maintain":
            writer.maintain()
        elif instruction == "read":
            for path in writer.folder.path.iterdir():
                path.read_bytes()
        elif instruction == "fork":
            if os.fork() == 0:
                os.close(0)
                os.close(1)  # or the test would wait for the end of this output
                time.sleep(5)
                os._exit(0)
        elif instruction == "exec":
            os.execv("/bin/sh", ["sh", "-c", "echo 0; read line"])  # noqa: S606
        elif instruction == "close":
            writer.close()
        elif instruction == "reopen":
            writer.reopen()
        print(writer.next_seq, flush=True)


main()
