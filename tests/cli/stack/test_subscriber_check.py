"""Subscribers are checked before the stack starts; a check that hangs or leaves processes ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from lineside.bus.errors import UsageError
from lineside.cli.stack.subscriber_check import check_subscribers
from lineside.cli.stack.supervisor import Program
from tests.cli.stack.test_up import gone
from tests.support.waiting import wait_until


def program(name: str, code: str, *, is_required: bool = False) -> Program:
    argv = [sys.executable, "-c", code]
    return Program(name, argv, {"TEST_NAME": name}, is_required, has_check=not is_required)


def test_every_fault_is_reported_and_other_output_is_not() -> None:
    fault = (
        "import os, sys\n"
        "print('noise\\nlineside: fault of', os.environ['TEST_NAME'], file=sys.stderr)\n"
        "sys.exit(2)"
    )
    crash = "raise SystemExit(1)"
    with pytest.raises(UsageError) as error:
        check_subscribers([program("a", fault), program("b", crash), program("c", fault)])
    assert str(error.value) == "fault of a\nfault of c"


def test_a_process_of_the_stack_itself_is_not_checked() -> None:
    check_subscribers([program("broker", "import sys; sys.exit(2)", is_required=True)])


def test_an_import_that_hangs_is_not_waited_for_and_leaves_no_process(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os, pathlib, time; child = os.fork()\n"
        f"if not child: pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    began = time.monotonic()
    check_subscribers([program("a", code)], seconds=3)
    assert 3 <= time.monotonic() - began < 60
    wait_until(lambda: gone(int(pid.read_text())))
