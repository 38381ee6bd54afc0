"""Runs a callback host in a process of its own: ``run_host.py ENTRIES-AS-JSON MAX``."""

import json
import sys

from lineside.bus.callback_config import parse_entries
from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.subscribers.callback_host.manager import CallbackHost

if __name__ == "__main__":
    configure_logging()
    entries = parse_entries(json.loads(sys.argv[1]))
    CallbackHost(Settings.from_env(), entries, max_processes=int(sys.argv[2])).serve()
