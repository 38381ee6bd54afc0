"""A spool that several users share, as a container's root and the stack's own user may."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.emitter.shipper.service import Shipper
from lineside.emitter.spool.confirmation import explain_unusable
from lineside.emitter.spool.sidecar_process import ShipperStatus
from tests.support.waiting import wait_until

GUEST = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")


@pytest.fixture
def spool() -> Iterator[Path]:
    """A folder that any user may reach, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="lineside-users-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def shipper_of_another_user(spool: Path) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(GUEST)
            os.setuid(GUEST)
            Shipper(spool, f"ipc://{spool}/bus.sock").serve()
        finally:
            os._exit(0)
    wait_until(lambda: ShipperStatus.read(spool))
    yield
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.usefixtures("shipper_of_another_user")
def test_shipper_and_training_report_that_one_may_not_read_the_others_events(spool: Path) -> None:
    wait_until(lambda: explain_unusable(f"ipc://{spool}/bus.sock", spool))
    assert explain_unusable(f"ipc://{spool}/bus.sock", spool) == (
        f"events are kept in {spool}, whose shipper runs as user {GUEST} and may not read what "
        "user 0 writes: run both as one user, or set LINESIDE_SPOOL to another folder"
    )
    (spool / "run").mkdir(mode=0o700)

    def problem() -> str:
        status = ShipperStatus.read(spool)
        return status.problem if status else ""

    assert wait_until(problem) == (
        f"user {GUEST} may not read {spool}/run of user 0: run training and shipper as one user"
    )
    (spool / "run").chmod(0o755)
    wait_until(lambda: not problem())
