"""``lineside upload`` sends a recorded run, once."""

from __future__ import annotations

from pathlib import Path

from lineside.bus.client.reader import Batch
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.testing import synthetic_run
from tests.cli.homes import Home

CALLBACK = """
from transformers import TrainerCallback

class Lines(TrainerCallback):
    def __init__(self, file): self.file = file
    def on_step_end(self, args, state, control, **_): self.write("step", state)
    def on_log(self, args, state, control, logs, **_): self.write(logs["loss"], state)
    def on_train_end(self, args, state, control, **_): self.write("end", state)
    def write(self, what, state):
        with open(self.file, "a") as file:
            file.write(f"{what} {state.global_step} {len(state.log_history)}\\n")
"""


def test_a_recorded_run_is_sent_once(home: Home, tmp_path: Path) -> None:
    home.path.mkdir(mode=0o700, exist_ok=True)
    engine = open_store(f"sqlite:///{home.path}/store.db", create=True)
    events = list(synthetic_run(steps=3, run="old"))
    batch = Batch(1, events[0][0], tuple(event for _, event in events), ())
    Writer(engine).apply("journal", [batch])
    engine.dispose()
    script, lines = tmp_path / "callback.py", tmp_path / "lines"
    script.write_text(CALLBACK)

    config = tmp_path / "lineside.yaml"
    config.write_text(
        "custom_callbacks:\n"
        f"  - {{name: '{script}:Lines', id: lines, torch: false, args: {{file: '{lines}'}}}}\n"
    )

    command = ("upload", "old", "--to", "lines", "--config", str(config))
    first = home.lineside(*command)
    second = home.lineside(*command)

    # The store keeps no hooks of single steps.
    assert lines.read_text() == "1.0 1 1\n0.5 2 2\n0.3333333333333333 3 3\nend 3 3\n"
    assert first.stdout == "lines: attempt 1 of old: 9 events sent\n", first.stderr
    assert second.stdout == "lines: attempt 1 of old is already there\n", second.stderr
    assert (first.stderr, second.stderr) == ("", "")


def test_a_name_of_no_callback_is_refused(home: Home) -> None:
    done = home.lineside("upload", "old", "--to", "wandbb")

    assert done.returncode == 2
    assert "'wandbb' is no class" in done.stderr
