"""``python -m lineside.emitter.sampler``: samples this machine for the trainings of LINESIDE_SPOOL.

With ``--detach`` it goes on in the background and ends with the last training, as a training
process starts it.
"""

from __future__ import annotations

import logging
import math
import sys

from lineside.bus.errors import LinesideError
from lineside.bus.module_process import detach
from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.emitter.sampler.service import IDLE_SECONDS, Sampler
from lineside.emitter.sampler.starter import lock_name
from lineside.emitter.spool.sidecar_process import DETACH, lock_holder

log = logging.getLogger("lineside")


def main() -> None:
    """Sample until no training is left; without ``--detach`` until a signal."""
    configure_logging()
    logging.raiseExceptions = False  # a full disk under the log is no reason to fail
    try:
        spool = Settings.from_env().spool
        is_detached = DETACH in sys.argv[1:]
        if is_detached:
            detach(lambda: lock_holder(spool / lock_name()) is not None)
        Sampler(spool, idle_timeout=IDLE_SECONDS if is_detached else math.inf).serve()
    except LinesideError as error:
        log.error("sampler: %s", error)  # noqa: TRY400 - the sentence is complete
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
