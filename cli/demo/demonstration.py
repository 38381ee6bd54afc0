"""The demo's run: the stack, a training beside it, and an account from the store and the API."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import typer

from lineside.bus import sockets
from lineside.bus.errors import AddressError, LinesideError, MissingExtra, SettingsError
from lineside.bus.settings import Settings, private_folder
from lineside.cli.commands.processes import DASHBOARD_PORT
from lineside.cli.demo.steersman import STOPS_AT, Steersman
from lineside.cli.output import Progress, pairs, warn
from lineside.cli.stack.logs import LogFile
from lineside.cli.stack.probes import get_json
from lineside.cli.stack.stack import Stack, environment
from lineside.cli.stack.supervisor import ending
from lineside.cli.stack.up import Up
from lineside.dashboard import words

NEEDED = ("torch", "transformers", "accelerate")
ENDS = ("finished", "stopped")
"""What a training is called that ended well, by itself or because somebody told it to."""
SETTLE_SECONDS = 30.0
"""How long after training the last events may take to be recorded."""
_LOOK_SECONDS, _PLAIN_SECONDS = 1.0, 10.0  # between words of progress: terminal, otherwise


class TrainingFailed(LinesideError):
    """The demo's training did not end well; the message has its last words."""


class Demonstration(Up):
    """One demo: ``clean`` afterwards says whether training succeeded and nothing was lost."""

    name = "demo"

    def __init__(self, settings: Settings, *, seconds: float, keep: bool) -> None:
        for package in NEEDED:
            if importlib.util.find_spec(package) is None:
                raise MissingExtra("the demo", package, "demo")
        stack = Stack(settings, port=DASHBOARD_PORT, port_or_any=True, report=warn)
        super().__init__(stack, quiet=True)
        self.clean = False
        self.run_id = f"demo-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
        self._seconds = seconds
        self._keep = keep
        self._output = settings.home / "runs" / self.run_id
        self._training: subprocess.Popen[bytes] | None = None
        self._steersman = Steersman(settings.broker, self.run_id, self._share_done)
        self._progress = Progress()
        self._looked = 0.0

    def on_ready(self) -> None:
        """Say where to look, and start the training."""
        private_folder(self._output)
        typer.echo(
            "A GPT-2 of 370,000 parameters learns Python from the standard library,\n"
            f"for about {words.duration(self._seconds)}. Watch it at\n\n"
            f"  {self.stack.dashboard}/runs/{self.run_id}\n"
        )
        self._training = self._start()
        self._steersman.start()

    def turn(self) -> None:
        """Watch the training; when it has ended, give the account."""
        super().turn()
        if self._training is None:
            return
        self._show_progress()
        code = self._training.poll()
        if code is None:
            return
        self._training = None
        self._steersman.end()
        self._progress.done()
        if code != 0:
            raise TrainingFailed(f"the training ended with {ending(code)}: {self._last_words()}")
        self._give_account()
        if self._keep:
            typer.echo("The stack stays up. Ctrl-C ends it.")
        else:
            self.should_exit = True

    def shutdown(self) -> None:
        """End the training if it still goes, then the stack."""
        self._progress.done()
        if self._training is not None:
            self._training.terminate()
            try:
                self._training.wait(5)
            except subprocess.TimeoutExpired:
                self._training.kill()
                self._training.wait()
            self._steersman.end()
        super().shutdown()

    @property
    def _log(self) -> LogFile:
        return LogFile(self._output / "training.log")

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "lineside.examples.train_gpt2"]
        planned = self._seconds / STOPS_AT
        argv += ["--output", str(self._output), "--seconds", str(planned)]
        names = {
            "LINESIDE_RUN_ID": self.run_id,
            "LINESIDE_RUN_NAME": "byte-level GPT-2",
            "LINESIDE_PROJECT": "demo",
            "LINESIDE_DISABLED": "0",
            "HF_HUB_OFFLINE": "1",
        }
        with self._log.opened() as out:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environment(self.stack.settings), **names},
                start_new_session=True,
            )

    def _document(self) -> dict[str, Any] | None:
        """The run as the API has it; None while it does not know it."""
        try:
            status, document = get_json(f"{self.stack.dashboard}/api/runs/{self.run_id}")
        except OSError:
            return None
        return document if status == 200 else None

    def _share_done(self) -> float | None:
        """How much of its steps the training has done; None while that is not known."""
        run = self._document()
        if run is None or not run["step"] or not run["max_steps"]:
            return None
        return float(run["step"] / run["max_steps"])

    def _show_progress(self) -> None:
        every = _LOOK_SECONDS if sys.stderr.isatty() else _PLAIN_SECONDS
        if time.monotonic() < self._looked + every:
            return
        self._looked = time.monotonic()
        run = self._document()
        if run is None or run["step"] is None:
            return
        loss = run["metrics"].get("loss")
        text = (
            f"step {run['step']:,} of {run['max_steps']:,}, loss {words.number(loss)}, "
            f"{words.plural(run['loss_account']['recorded'], 'event')} recorded"
        )
        if sys.stderr.isatty():
            self._progress.say(text)
        else:
            warn(text)

    def _give_account(self) -> None:
        """Compare what was emitted with what the store has and the API tells."""
        from lineside.store.database.database import open_store
        from lineside.store.history.reads import History

        history = History(open_store(self.stack.settings.store))
        run = self._settled()
        streams = history.streams(self.run_id)
        account = run["loss_account"]
        recorded = sum(stream.recorded for stream in streams)
        emitted = sum(stream.emitted for stream in streams)
        lost = emitted - recorded
        agree = (emitted, recorded) == (account["emitted"], account["recorded"])
        rank = next(stream for stream in streams if stream.producer == "rank0")
        attempt = history.run(self.run_id).attempts[-1]
        wall = ((attempt.ended_at or attempt.updated_at) - attempt.started_at).total_seconds()
        spent = rank.hook_ns or 0
        typer.echo(
            f"Training {run['status']} at step {run['step']:,}, "
            f"loss {words.number(run['metrics'].get('train_loss'))} on average, "
            f"{words.number(run['metrics'].get('eval_loss'))} on text it never saw.\n\n"
            "Steered from outside while it trained\n"
            + pairs(self._steersman.account())
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
                    ("", f"{spent / 1e7 / wall:.3f} % of the training's {words.duration(wall)}"),
                ]
            )
        )
        if not agree:
            warn(f"the API tells another story: {account}")
        self.clean = agree and lost == 0 and run["status"] in ENDS

    def _settled(self) -> dict[str, Any]:
        """The run once everything emitted is recorded, or as it is when time is up."""
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            self.stack.turn()
            run = self._document()
            done = run is not None and "run_end" in run["event_counts"]
            if run is not None and done and run["loss_account"]["lag"] == 0:
                return run
            if time.monotonic() > until or self.should_exit:
                if run is None:
                    raise TrainingFailed(f"nothing of {self.run_id} was recorded")
                return run
            time.sleep(0.2)

    def _last_words(self) -> str:
        lines = "\n  ".join(self._log.last(5)) or "it said nothing"
        return f"{lines}\n(all of it in {self._log.path})"


def demo_settings() -> Settings:
    """Settings of a home that is the demo's own, so that nobody else's is touched."""
    given = os.environ.get("LINESIDE_HOME")
    home = Path(given) / "demo" if given else Path.cwd() / ".lineside" / "demo"
    try:
        private_folder(home)
        sockets.parse(f"ipc://{home}/bus.sock")
    except (SettingsError, AddressError):
        home = Path(tempfile.mkdtemp(prefix="lineside-demo-"))
    return Settings.from_env({"LINESIDE_HOME": str(home)})
