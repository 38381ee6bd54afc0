"""Fuzzes the codec: ``python -m tests.bus.protocol.fuzz SECONDS``.

With atheris installed its coverage guides the search, otherwise hypothesis makes the inputs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time

MAX_BYTES = 2_000


def _fuzz_with_hypothesis(seconds: float) -> int:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from tests.bus.protocol.codec_fuzzing import fuzz_one

    count, deadline = 0, time.monotonic() + seconds

    @settings(
        max_examples=1_000, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.binary(max_size=MAX_BYTES))
    def fuzz(data: bytes) -> None:
        nonlocal count
        count += 1
        fuzz_one(data)

    while time.monotonic() < deadline:
        fuzz()
    return count


def _fuzz_with_atheris(seconds: float) -> None:
    atheris = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["lineside.bus.protocol"]):
        from tests.bus.protocol.codec_fuzzing import fuzz_one

    options = [f"-max_total_time={seconds:.0f}", f"-max_len={MAX_BYTES}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options], fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    if importlib.util.find_spec("atheris") is not None:
        _fuzz_with_atheris(float(sys.argv[1]))
    else:
        print(f"{_fuzz_with_hypothesis(float(sys.argv[1]))} inputs, no crash")
