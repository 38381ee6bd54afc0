"""``python -m lineside.emitter.shipper``: ships LINESIDE_SPOOL to LINESIDE_BROKER."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from lineside.bus.errors import LinesideError
from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.emitter.shipper.service import Shipper
from lineside.emitter.spool.shipper_process import DETACH, shipper_pid

log = logging.getLogger("lineside")


def main() -> None:
    """Ship until there is nothing left to do."""
    configure_logging()
    logging.raiseExceptions = False  # a full disk under the log is no reason to fail
    try:
        settings = Settings.from_env()
        if DETACH in sys.argv[1:]:
            _daemonize(settings.spool)
        Shipper(settings.spool, settings.broker).serve()
    except LinesideError as error:
        log.error("shipper: %s", error)  # noqa: TRY400 - the sentence is complete
        sys.exit(error.exit_code)


def _daemonize(spool: Path) -> None:
    """Go on in a child; this process ends once a shipper has the spool's lock."""
    try:
        shipper = os.fork()
    except OSError:
        return
    if not shipper:
        os.setsid()
        return
    with contextlib.suppress(OSError):
        while os.waitpid(shipper, os.WNOHANG) == (0, 0) and shipper_pid(spool) is None:
            time.sleep(0.02)
    os._exit(0)


if __name__ == "__main__":
    main()
