"""Errors of the callback do not reach training, and errors of training are published."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.emitter import LinesideCallback
from lineside.emitter.spool.status_page import HOOK_ERRORS
from lineside.emitter.training import shutdown
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, only, open_page, open_publisher
from tests.support.forked import ForkedScript
from tests.support.tiny_trainer import trainer
from tests.support.waiting import DEADLINE


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"LINESIDE_DISABLED": "1"}, "off: LINESIDE_DISABLED is set"),
        ({"LINESIDE_SPOOL": "/dev/null/x"}, "off: folder='/dev/null/x' cannot be used"),
        ({"LINESIDE_RUN_ID": "a b"}, "off: LINESIDE_RUN_ID='a b' cannot be used"),
    ],
)
def test_training_continues_when_lineside_cannot_start(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spool_events: ReadSpool,
    env: dict[str, str],
    message: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    made = trainer(tmp_path, LinesideCallback(), eval_strategy="steps", eval_steps=2)
    made.train()
    made.train()
    made.evaluate()
    error = capsys.readouterr().err
    assert made.state.global_step == 4
    assert spool_events() == {}
    assert error.count("lineside:") == 1
    assert message in error


class Panic(BaseException):
    """No Exception, as Rust's panics are."""


def test_errors_of_the_callback_are_counted_and_do_not_reach_training(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spool_events: ReadSpool,
) -> None:
    class Breaking(TrainerCallback):
        def on_epoch_begin(self, *given: Any, **more: Any) -> None:
            def fail(*given: Any) -> bool:
                raise Panic

            monkeypatch.setattr(open_publisher()._spool, "write", fail)

        def on_step_begin(self, args: Any, state: Any, *given: Any, **more: Any) -> None:
            if state.global_step == 3:
                monkeypatch.undo()
                monkeypatch.setenv("LINESIDE_HOME", str(home))

    made = trainer(tmp_path, Breaking(), LinesideCallback())
    made.train()
    page = open_page()
    monkeypatch.setattr(shutdown._state, "budget", 0.0)
    close_all()
    errors = page.fields[HOOK_ERRORS]
    assert made.state.global_step == 4
    assert errors == 1 + 3 * 5
    assert data_of(only(spool_events())[-1])["counters"]["hook_errors"] == errors
    assert capsys.readouterr().err.count("a hook failed") == 1


def test_errors_before_a_run_is_open_do_not_reach_training(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback, broken = LinesideCallback(), object()
    for hook in LIFECYCLE_KINDS:
        getattr(callback, f"on_{hook}")(broken, broken, broken)
    assert "lineside:" in capsys.readouterr().err


class Strict(dict[str, Any]):
    """A configuration that raises KeyError for an attribute it does not have."""

    __getattr__ = dict.__getitem__


class OwnModel(torch.nn.Module):
    """A model with a configuration of the script's own kind."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config: Any = Strict()

    def forward(self, input_ids: Any, labels: Any) -> Any:
        return self.inner(input_ids=input_ids, labels=labels)


def test_a_model_whose_config_raises_has_a_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback(), max_steps=1)
    made.model = OwnModel(made.model)
    made.train()
    close_all()
    assert data_of(only(spool_events())[0])["name"].startswith("OwnModel ")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through_every_hook(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def interrupt(*given: Any) -> None:
        raise stop

    callback = LinesideCallback()
    made = trainer(tmp_path, callback, max_steps=1)
    made.train()
    given = (made.args, made.state, made.control)
    with monkeypatch.context() as patch:
        patch.setattr(callback._session.attempts.publisher, "on_hook", interrupt)
        more: dict[str, dict[str, Any]] = {"log": {"logs": {"a": 1}}, "evaluate": {"metrics": {}}}
        for kind in ("step_end", "log", "epoch_end", "evaluate"):
            with pytest.raises(stop):
                getattr(callback, f"on_{kind}")(*given, **more.get(kind, {}))


def test_a_training_that_fails_publishes_why(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from lineside.emitter import LinesideCallback
            from lineside.emitter.training import shutdown
            from tests.support.tiny_trainer import Trainer, trainer

            class Failing(Trainer):
                def training_step(self, *given, **more):
                    if self.state.global_step == 2:
                        raise RuntimeError("the data ran out")
                    return super().training_step(*given, **more)

            shutdown._state.budget = 0.0
            trainer(Path(sys.argv[1]), LinesideCallback(), kind=Failing).train()
            """
        )
    )
    with ForkedScript(
        [script, tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    end = only(spool_events())[-1]
    assert data_of(end)["how"] == "exception"
    assert data_of(end)["error"]["message"] == "the data ran out"
    assert "the data ran out" in errors
