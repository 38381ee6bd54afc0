"""Writes Lineside's messages in the training process, each only once, to stderr or a notebook."""

from __future__ import annotations

import contextlib
import html
import sys
from importlib import import_module

from lineside.bus.errors import LinesideError
from lineside.bus.local_stack import broker_listens, page_address
from lineside.bus.settings import Settings
from lineside.bus.terminal_text import printable
from lineside.emitter.spool.confirmation import explain_unusable

_UNREAD = (
    "values on a GPU are not sent, because reading one would wait for the GPU: "
    "log numbers, such as loss.item(), at the steps where that wait is fine"
)
_printed: set[str] = set()
_announced: set[str] = set()  # ids of runs


def print_once(text: str) -> None:
    """Write ``lineside: text`` to stderr unless it was written before; never raises.

    It does not use the warnings module: a script may have turned warnings into errors.
    """
    if text in _printed:
        return
    _printed.add(text)
    # stderr may be missing, closed, or replaced by an object that raises.
    with contextlib.suppress(Exception):
        sys.stderr.write(f"lineside: {text}\n")
        sys.stderr.flush()


def report_unread(array: str) -> None:
    """Print once that values on a device are not sent; ``array`` describes the first, if any."""
    if array and _UNREAD not in _printed:
        print_once(_UNREAD)
        print_once(f"the first one was {array}")


def announce_run(settings: Settings, run: str, name: str) -> None:
    """State which run begins, and where it is seen or kept; a second attempt of it adds nothing.

    Never raises or waits. In a notebook it is a link, if the page is known. LINESIDE_QUIET turns
    it off.
    """
    if settings.quiet or run in _announced:
        return
    _announced.add(run)
    with contextlib.suppress(Exception):
        unusable = explain_unusable(settings.broker, settings.spool)
        if unusable is not None:
            print_once(unusable)  # as at the exit, which adds nothing then
            return
        label = printable(name if name == run else f"{name} ({run})")
        listens = broker_listens(settings.broker)
        page = page_address(settings) if listens else None
        address = f"{page}/runs/{run}"
        if page and _displays(
            f'lineside: <a href="{html.escape(address)}">{html.escape(label)}</a>'
        ):
            return
        if page:
            print_once(f"{label}: {address}")
        elif listens is False:
            print_once(
                f"{label}: no broker at {settings.broker}; events are kept in {settings.spool} "
                "until one runs: lineside up"
            )
        else:
            print_once(f"{label}: its events go to {settings.broker.partition('?')[0]}")


def _displays(content: str) -> bool:
    """Show HTML in the notebook that runs this process; False outside of one."""
    shell = sys.modules.get("IPython")
    notebook = shell.get_ipython() if shell is not None else None
    if getattr(notebook, "kernel", None) is None:
        return False
    ipython = import_module("IPython.display")
    ipython.display(ipython.HTML(content))
    return True


def print_disabled(error: Exception) -> None:
    """Report that Lineside is off in this process because of ``error``."""
    ours = isinstance(error, (LinesideError, OSError))
    print_once(f"off: {error if ours else repr(error)}; training goes on without it")
