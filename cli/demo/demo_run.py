"""The demo: a stack, a training beside it, and an account of its events."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lineside.bus.errors import AddressError, LinesideError, MissingExtra, SettingsError
from lineside.bus.log_file import LogFile
from lineside.bus.module_process import WORKING_FOLDER, module_command, module_environment
from lineside.bus.protocol.addresses import ipc_path
from lineside.bus.settings import Settings, make_private_folder
from lineside.bus.wording import describe_exit, plural
from lineside.cli.demo.demo_controller import STOP_FRACTION, DemoController
from lineside.cli.output import StatusLine, pairs, warn
from lineside.cli.stack.http_probe import get_json
from lineside.cli.stack.packages import check_packages
from lineside.cli.stack.programs import environment
from lineside.cli.stack.stack import Stack
from lineside.cli.stack.up_service import UpService
from lineside.dashboard import formatting

if TYPE_CHECKING:
    from lineside.store.history.history import History
    from lineside.store.history.records import StreamAccount

REQUIRED_PACKAGES = ("torch", "transformers", "accelerate")
SUCCESS_STATUSES = ("finished", "stopped")
"""Statuses of a training that ended well."""
DRAIN_SECONDS = 30.0
"""Seconds after training within which the last events must be recorded."""
PAGE_SECONDS = 60.0
"""Seconds for which the page stays up on a terminal once the account is printed."""
_TTY_INTERVAL, _LOG_INTERVAL = 1.0, 10.0  # seconds between progress lines


class TrainingFailed(LinesideError):
    """The demo's training failed; the message has its last output."""


class DemoRun(UpService):
    """One demo. ``succeeded`` is True if training succeeded and no event was lost."""

    name = "demo"

    def __init__(self, settings: Settings, *, seconds: float, keep: bool) -> None:
        for package in REQUIRED_PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise MissingExtra("the demo", package, "demo")
        check_packages()
        from lineside.cli.configuration import loading

        configuration = loading.load(None, settings.home)
        stack = Stack(settings, configuration, allow_any_port=True, report=warn)
        super().__init__(stack, quiet=True)
        self.succeeded = False
        self.run_id = f"demo-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
        self._seconds = seconds
        self._page_seconds = page_seconds(keep, on_terminal=sys.stdout.isatty())
        self._page_until = math.inf
        self._output = settings.home / "runs" / self.run_id
        self._training: subprocess.Popen[bytes] | None = None
        self._demo_controller = DemoController(settings.broker, self.run_id, self._fraction_done)
        self._progress = StatusLine()
        self._reported_at = 0.0

    def on_ready(self) -> None:
        """Print the page's address and start the training."""
        make_private_folder(self._output)
        typer.echo(
            "A GPT-2 of 370,000 parameters learns Python from the standard library, for about\n"
            f"{formatting.duration(self._seconds)} once torch is imported. Watch it at\n\n"
            f"  {self._page}\n"
        )
        self._training = self._start()
        self._demo_controller.start()

    def run_once(self) -> None:
        """Supervise the training; print the account when it has ended."""
        super().run_once()
        if time.monotonic() > self._page_until:
            self.should_exit = True
        if self._training is None:
            return
        self._show_progress()
        code = self._training.poll()
        if code is None:
            return
        self._training = None
        self._demo_controller.stop()
        self._progress.clear()
        if code != 0:
            raise TrainingFailed(
                f"the training ended with {describe_exit(code)}: {self._last_output()}"
            )
        self._print_summary()
        self._page_until = time.monotonic() + self._page_seconds
        if self._page_seconds:
            until = "until" if math.isinf(self._page_seconds) else "for a minute, or until"
            typer.echo(f"\nThe page stays up {until} Ctrl-C:\n\n  {self._page}\n")

    def shutdown(self) -> None:
        """End the training if it still runs, then the stack."""
        self._progress.clear()
        if self._training is not None:
            self._training.terminate()
            try:
                self._training.wait(5)
            except subprocess.TimeoutExpired:
                self._training.kill()
                self._training.wait()
            self._demo_controller.stop()
        super().shutdown()

    @property
    def _page(self) -> str:
        return f"{self.stack.dashboard}/runs/{self.run_id}"

    @property
    def _log(self) -> LogFile:
        return LogFile(self._output / "training.log")

    def _start(self) -> subprocess.Popen[bytes]:
        planned = str(self._seconds / STOP_FRACTION)
        options = ("--output", str(self._output), "--seconds", planned)
        names = {
            "LINESIDE_RUN_ID": self.run_id,
            "LINESIDE_RUN_NAME": "byte-level GPT-2",
            "LINESIDE_PROJECT": "demo",
            "LINESIDE_DISABLED": "0",
            "HF_HUB_OFFLINE": "1",
        }
        with self._log.open_append() as out:
            return subprocess.Popen(
                module_command("lineside.examples.train_gpt2", *options),
                cwd=WORKING_FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=module_environment({**os.environ, **environment(self.stack.settings), **names}),
                start_new_session=True,
            )

    def _document(self) -> dict[str, Any] | None:
        """The run as the API has it; None while it does not know it."""
        try:
            status, document = get_json(f"{self.stack.dashboard}/api/runs/{self.run_id}")
        except OSError:
            return None
        return document if status == 200 else None

    def _fraction_done(self) -> float | None:
        """How much of its steps the training has done; None while that is not known."""
        run = self._document()
        if run is None or not run["step"] or not run["max_steps"]:
            return None
        return float(run["step"] / run["max_steps"])

    def _show_progress(self) -> None:
        every = _TTY_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL
        if time.monotonic() < self._reported_at + every:
            return
        self._reported_at = time.monotonic()
        run = self._document()
        if run is None or run["step"] is None:
            return
        loss = (run["loss"] or {}).get("value")
        text = (
            f"step {run['step']:,} of {run['max_steps']:,}, loss {formatting.number(loss)}, "
            f"{plural(run['loss_account']['recorded'], 'event')} recorded"
        )
        if sys.stderr.isatty():
            self._progress.update(text)
        else:
            warn(text)

    def _print_summary(self) -> None:
        """Compare the events emitted with those in the store and in the API."""
        from lineside.store.database.engine import open_store
        from lineside.store.history.history import History

        history = History(open_store(self.stack.settings.store))
        run, streams = self._wait_until_recorded(history)
        account = run["loss_account"]
        emitted, recorded = _totals(streams)
        lost = emitted - recorded
        agree = (emitted, recorded) == (account["emitted"], account["recorded"])
        rank = next(stream for stream in streams if stream.producer == "rank0")
        attempt = history.run(self.run_id).attempts[-1]
        wall = ((attempt.ended_at or attempt.updated_at) - attempt.started_at).total_seconds()
        spent = rank.hook_ns or 0
        typer.echo(
            f"Training {run['status']} at step {run['step']:,}, "
            f"loss {formatting.number(run['metrics'].get('train_loss'))} on average, "
            f"{formatting.number(run['metrics'].get('eval_loss'))} on held-out text.\n\n"
            "Steered from outside while it trained\n"
            + pairs(self._demo_controller.summary())
            + "\n\nAccount\n"
            + pairs(
                [
                    ("events emitted", f"{emitted:,}"),
                    ("recorded", f"{recorded:,}"),
                    ("lost", f"{lost:,}"),
                    ("gaps", f"{account['gaps']:,}"),
                    (
                        "what the hooks cost",
                        f"{spent / max(rank.emitted, 1) / 1000:.1f} us an event",
                    ),
                    (
                        "",
                        f"{spent / 1e7 / wall:.3f} % of the training's {formatting.duration(wall)}",
                    ),
                ]
            )
        )
        if not agree:
            warn(f"the API disagrees with the store: {account}")
        self.succeeded = agree and lost == 0 and run["status"] in SUCCESS_STATUSES

    def _wait_until_recorded(self, history: History) -> tuple[dict[str, Any], list[StreamAccount]]:
        """The run and its streams once every event is recorded, or their state at the deadline.

        The sampler may publish between one reading and the other.
        """
        until = time.monotonic() + DRAIN_SECONDS
        while True:
            self.stack.run_once()
            run = self._document()
            done = run is not None and "run_end" in run["event_counts"]
            streams = history.streams(self.run_id) if run is not None else []
            if run is not None and done and run["loss_account"]["lag"] == 0:
                account = run["loss_account"]
                if _totals(streams) == (account["emitted"], account["recorded"]):
                    return run, streams
            if time.monotonic() > until or self.should_exit:
                if run is None:
                    raise TrainingFailed(f"no event of {self.run_id} was recorded")
                return run, streams
            time.sleep(0.2)

    def _last_output(self) -> str:
        lines = "\n  ".join(self._log.last_lines(5)) or "it printed nothing"
        return f"{lines}\n(see {self._log.path})"


def _totals(streams: Sequence[StreamAccount]) -> tuple[int, int]:
    """The events that are emitted and recorded."""
    return sum(one.emitted for one in streams), sum(one.recorded for one in streams)


def page_seconds(keep: bool, *, on_terminal: bool) -> float:
    """How long the page stays up after the account; 0 where no person looks at it."""
    return math.inf if keep else PAGE_SECONDS if on_terminal else 0.0


def demo_settings() -> Settings:
    """Settings of the demo's own home, so that no other home is touched."""
    given = os.environ.get("LINESIDE_HOME")
    home = Path(given) / "demo" if given else Path.cwd() / ".lineside" / "demo"
    try:
        make_private_folder(home)
        ipc_path(f"ipc://{home}/bus.sock")
    except (SettingsError, AddressError):
        home = Path(tempfile.mkdtemp(prefix="lineside-demo-"))
    return Settings.from_env({"LINESIDE_HOME": str(home)})
