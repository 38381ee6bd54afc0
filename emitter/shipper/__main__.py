"""``python -m lineside.emitter.shipper``: ships LINESIDE_SPOOL to LINESIDE_BROKER."""

from __future__ import annotations

import logging
import sys

from lineside.bus.errors import LinesideError
from lineside.bus.module_process import detach
from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.emitter.shipper.service import Shipper
from lineside.emitter.spool.sidecar_process import DETACH, shipper_pid

log = logging.getLogger("lineside")


def main() -> None:
    """Ship until there is nothing left to do."""
    configure_logging()
    logging.raiseExceptions = False  # a full disk under the log is no reason to fail
    try:
        settings = Settings.from_env()
        if DETACH in sys.argv[1:]:
            detach(lambda: shipper_pid(settings.spool) is not None)
        Shipper(settings.spool, settings.broker).serve()
    except LinesideError as error:
        log.error("shipper: %s", error)  # noqa: TRY400 - the sentence is complete
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
