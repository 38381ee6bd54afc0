"""Import much once, then fork a process for each script or command that a test starts.

``fork_server.py FD trainer`` has imported torch and transformers, and runs scripts.
``fork_server.py FD commands`` has imported what the ``lineside`` commands need, and runs modules.
Both serve the listening Unix socket until stdin is closed. A client sends a job as JSON, with the
descriptors of stdin, stdout, stderr and of a socket, which is sent the pid and then the exit
status. A forked process returns to the end of this file and runs its job there, so that exceptions,
exit handlers and signals end it as they end any interpreter.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STDIN = 0
JOB_BYTES = 1 << 20
STATUS_BYTES = 4
STATUS_FLAG = 1 << 31
"""Set in an exit status, so that it differs from a pid."""
# No command imports these: two of a callback's process, which load torch, and one of an extra.
NOT_LOADED = {"migrations", "__main__", "sitecustomize", "rebuild", "hook_caller", "otlp"}


def load_trainer() -> None:
    """Train and evaluate one step: torch and transformers import much on first use."""
    from accelerate.state import AcceleratorState, GradientState
    from tqdm import tqdm  # type: ignore[import-untyped]

    import lineside.emitter.callback  # noqa: F401
    from tests.support.tiny_trainer import trainer

    interval, tqdm.monitor_interval = tqdm.monitor_interval, 0  # or saving starts a thread
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(Path(folder), max_steps=1, save_strategy="steps", save_steps=1)
        made.train()
        made.evaluate()
    tqdm.monitor_interval = interval
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    sys.path.append(sys.path.pop(0))  # scripts can import ``tests``


def load_commands() -> None:
    """Import all modules behind the commands, and make a store: Alembic imports much."""
    from lineside import bus, cli, dashboard, store, subscribers
    from lineside.emitter import launch, shipper

    for package in (bus, cli, dashboard, store, subscribers, launch, shipper):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not NOT_LOADED & {*module.name.split(".")}:
                importlib.import_module(module.name)
    for name in ("uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto"):
        importlib.import_module(name)
    from lineside.store.database.engine import open_store

    with tempfile.TemporaryDirectory() as folder:
        open_store(f"sqlite:///{folder}/store.db", create=True).dispose()
    del sys.path[0]


def freeze() -> None:
    """Leave the objects made so far to all forked processes, uncollected.

    Raises:
        RuntimeError: a thread runs, and a forked process would not have it.
    """
    gc.collect()
    gc.freeze()
    if threading.active_count() > 1:
        raise RuntimeError(f"a process with threads cannot fork safely: {threading.enumerate()}")


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork for each job: a child returns its job, the server None once stdin is closed."""
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    clients: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for fd in (STDIN, woken, listener.fileno()):
        selector.register(fd, selectors.EVENT_READ)
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if STDIN in ready:
            return None
        if woken in ready:
            os.read(woken, 4096)
            report_exits(children)
        if listener.fileno() in ready:
            client, _ = listener.accept()
            clients[client.fileno()] = client
            selector.register(client, selectors.EVENT_READ)
        for client in [clients[fd] for fd in ready & clients.keys()]:
            message, fds, _, _ = socket.recv_fds(client, JOB_BYTES, 4)
            if not message:
                selector.unregister(client)
                clients.pop(client.fileno()).close()
                continue
            *stdio, status = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for other in (listener, *clients.values(), *children.values()):
                    other.close()
                for fd in (woken, wake, status):
                    os.close(fd)
                job: dict[str, Any] = json.loads(message)
                return prepare(job, stdio)
            for fd in stdio:
                os.close(fd)
            children[pid] = socket.socket(fileno=status)
            send_number(children[pid], pid)


def report_exits(children: dict[int, socket.socket]) -> None:
    """Report the exit status of each child that has ended."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with children.pop(pid) as report:
                send_number(report, status | STATUS_FLAG)


def send_number(to: socket.socket, number: int) -> None:
    try:
        to.send(number.to_bytes(STATUS_BYTES, "big"), socket.MSG_NOSIGNAL)
    except OSError:
        return  # the process that started the script has ended


def prepare(job: dict[str, Any], stdio: list[int]) -> dict[str, Any]:
    """Give this forked process the descriptors, folder and environment of ``job``."""
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
        os.close(fd)
    if job["start_new_session"]:
        os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    # A service compares its supervisor with its parent, which is the server.
    if os.environ.get("LINESIDE_SUPERVISOR_PID") == str(job["client"]):
        os.environ["LINESIDE_SUPERVISOR_PID"] = str(os.getppid())
    more_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, more_paths), *sys.path]
    tempfile.tempdir = None
    random.seed()
    return job


def run_script(job: dict[str, Any]) -> None:
    """Run the job's script as ``__main__``."""
    import numpy as np
    import torch

    np.random.seed()
    torch.seed()
    script, *arguments = job["argv"]
    sys.argv = [script, *arguments]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path.insert(0, str(Path(script).parent))
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=__builtins__)
    sys.modules["fork_server"], sys.modules["__main__"] = sys.modules["__main__"], main
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)  # noqa: S102


def run_module(job: dict[str, Any]) -> None:
    """Run the job's module as ``__main__``, as ``python -m`` does."""
    module, *arguments = job["argv"]
    sys.argv = ["-m", *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    load, run = {
        "trainer": (load_trainer, run_script),
        "commands": (load_commands, run_module),
    }[sys.argv[2]]
    load()
    freeze()
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        assigned = serve(listening)
    if assigned is not None:
        run(assigned)
