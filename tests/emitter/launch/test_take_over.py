"""Trackers of ``report_to`` are left out of the training process, and nothing else is."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers.integrations.integration_utils as integrations
from transformers import TrainerCallback, TrainerControl
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from lineside.bus.testing import read_all
from lineside.emitter.launch import take_over
from tests.emitter.shipping import Bench
from tests.emitter.streams import data_of
from tests.support.waiting import DEADLINE

TRAIN = """
import sys
from pathlib import Path
from tests.support.tiny_trainer import trainer

made = trainer(Path(sys.argv[1]), report_to="all", max_steps=1)
made.train()
print(made.args.report_to)
"""


class Wandb(TrainerCallback):
    """A tracker's callback that must not be made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1


class Mlflow(Wandb):
    made = 0


class Comet(TrainerCallback):
    pass


class Recorder(TrainerCallback):
    """In place of Lineside's callback."""

    is_off = False


@pytest.fixture
def handler(home: Path, monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """A CallbackHandler as in a training under ``--take-over``, with three trackers."""

    class Handler(CallbackHandler):
        pass

    for variable in ("WANDB_WATCH", "WANDB_LOG_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Wandb, "made", 0)
    monkeypatch.setattr(Mlflow, "made", 0)
    trackers = {"wandb": Wandb, "mlflow": Mlflow, "comet_ml": Comet}
    monkeypatch.setattr(integrations, "INTEGRATION_TO_CALLBACK", trackers)
    take_over.patch_handler(Handler, lambda: Recorder)
    return Handler


def make(handler: type[Any], *callbacks: Any) -> Any:
    return handler([DefaultFlowCallback, Recorder, *callbacks], None, None, None, None)


def names(made: Any) -> list[str]:
    return [type(one).__name__ for one in made.callbacks if not isinstance(one, Recorder)]


def begin(made: Any) -> None:
    made.on_train_begin(None, None, TrainerControl())


def test_trackers_are_left_out_before_they_are_made(handler: type[Any]) -> None:
    made = make(handler, Wandb, Mlflow, Comet)
    assert names(made) == ["DefaultFlowCallback"]
    assert made._lineside_taken_over == ("wandb", "mlflow", "comet")
    assert Wandb.made == 0


def test_callbacks_that_the_script_makes_stay(handler: type[Any]) -> None:
    own = Comet()
    made = make(handler, Wandb, own)
    made.add_callback(Mlflow)
    assert made.callbacks[2] is own
    assert names(made) == ["DefaultFlowCallback", "Comet", "Wandb", "Mlflow"]


def test_a_tracker_that_the_script_adds_too_stays_as_without_take_over(
    handler: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class MyComet(Comet):
        pass

    made = make(handler, Wandb, Comet, MyComet())
    assert made._lineside_taken_over == ("wandb",)
    assert names(made) == ["DefaultFlowCallback", "Comet", "MyComet"]
    made = make(handler, Wandb, Comet)
    made.add_callback(MyComet())
    assert names(made) == ["DefaultFlowCallback", "Comet", "MyComet"]
    assert made._lineside_taken_over == ("wandb",)
    assert "comet stays in this process: the script adds its callback itself" in (
        capsys.readouterr().err
    )


def test_a_tracker_that_the_script_removes_is_nowhere(handler: type[Any]) -> None:
    made = make(handler, Wandb, Mlflow)
    assert made.pop_callback(Wandb) is None
    made.remove_callback(Mlflow)
    assert made._lineside_taken_over == ()
    assert isinstance(made.pop_callback(DefaultFlowCallback), DefaultFlowCallback)


@pytest.mark.parametrize(
    ("variable", "value", "stays"),
    [
        ("WANDB_WATCH", "all", True),
        ("WANDB_LOG_MODEL", "end", True),
        ("WANDB_LOG_MODEL", "checkpoint", False),
    ],
)
def test_a_tracker_that_needs_the_model_stays(
    handler: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    stays: bool,
) -> None:
    monkeypatch.setenv(variable, value)
    assert (names(make(handler, Wandb))[1:] == ["Wandb"]) == stays
    assert (variable in capsys.readouterr().err) == stays


@pytest.fixture
def script_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of a script that can import the tracker ``wandb``."""
    package, module = ModuleType("wandb"), ModuleType("seed_script")
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setitem(sys.modules, "seed_script", module)
    return module


def test_a_tracker_that_the_script_uses_itself_stays(
    handler: type[Any], script_module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(handler, Wandb)._lineside_taken_over == ("wandb",)
    script_module.__dict__["wandb"] = sys.modules["wandb"]
    assert names(make(handler, Wandb)) == ["DefaultFlowCallback", "Wandb"]
    assert "wandb stays in this process: seed_script uses wandb itself" in capsys.readouterr().err


def test_a_tracker_that_the_script_uses_since_its_trainer_was_made_stays(
    handler: type[Any], script_module: ModuleType
) -> None:
    made = make(handler, Wandb, Mlflow)
    script_module.__dict__["wandb"] = sys.modules["wandb"]
    begin(made)
    assert names(made) == ["DefaultFlowCallback", "Wandb"]
    assert made._lineside_taken_over == ("mlflow",)


def test_one_line_states_where_the_values_go(
    handler: type[Any], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(handler, Wandb, Mlflow)
    begin(made)
    begin(made)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lineside: wandb, mlflow run outside of this process: no broker answers")
    assert line.endswith(f"the values wait in {home}/spool, and `lineside up` sends them")


def test_other_ranks_print_nothing(
    handler: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WANDB_WATCH", "all")
    made = make(handler, Wandb, Mlflow)
    begin(made)
    assert made._lineside_taken_over == ("mlflow",)
    assert capsys.readouterr().err == ""


def test_nothing_is_left_out_where_no_run_is_recorded(handler: type[Any], home: Path) -> None:
    class Handler(CallbackHandler):
        pass

    take_over.patch_handler(Handler, lambda: None)
    assert names(make(Handler, Wandb, Mlflow)) == ["DefaultFlowCallback", "Wandb", "Mlflow"]


def test_nothing_is_left_out_where_lineside_is_off(
    handler: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_DISABLED", "1")
    assert names(make(handler, Wandb, Mlflow)) == ["DefaultFlowCallback", "Wandb", "Mlflow"]


def test_trackers_begin_in_training_if_its_run_cannot_be_recorded(
    handler: type[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[Any] = []

    class Begins(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            begun.append(self)

    made = make(handler, Wandb, Mlflow)
    made.add_callback(Begins)
    made.callbacks[1].is_off = True
    monkeypatch.setattr(Wandb, "on_train_begin", Begins.on_train_begin)
    begin(made)
    assert names(made) == ["DefaultFlowCallback", "Begins", "Wandb", "Mlflow"]
    assert begun == made.callbacks[2:]
    assert made._lineside_taken_over == ()
    assert "wandb stays in this process: this run is not recorded" in capsys.readouterr().err


def test_probing_the_installed_trackers_imports_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "comet_ml", "azureml", "azureml/core"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "azureml/core/run.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COMET_API_KEY", "k")
    found: dict[str, Any] = {}

    def load(module: ModuleType) -> None:
        comet = importlib.import_module("comet_ml")
        module.__dict__["comet_ml"] = comet
        found["key"] = comet.config.get_config("comet.api_key")

        def is_wandb_available() -> bool:
            return hasattr(importlib.import_module("wandb"), "run")

        module.__dict__["is_wandb_available"] = is_wandb_available
        module.__dict__["is_azureml_available"] = lambda: None

    module = ModuleType("integration_utils")
    take_over.load_integrations(load, module)
    assert found["key"] == "k"
    assert module.is_wandb_available() is True
    assert module.is_azureml_available() is True
    assert not hasattr(module, "comet_ml")
    assert not {"wandb", "comet_ml", "azureml"} & set(sys.modules)
    (tmp_path / "azureml/core/run.py").unlink()
    importlib.invalidate_caches()
    assert module.is_azureml_available() is False


def test_an_unchanged_script_trains_without_its_trackers(bench: Bench, launched: Any) -> None:
    """Each tracker would end the process if it were imported."""
    bench.broker()
    trackers = ["mlflow", "tensorboard", "wandb", "trackio"]
    for name in (*trackers, "comet_ml"):
        (bench.folder / name).mkdir()
        (bench.folder / name / "__init__.py").write_text("import os; os._exit(9)")
    (bench.folder / "train.py").write_text(TRAIN)
    root = Path(__file__).parents[3]
    one = launched(
        *(sys.executable, str(bench.folder / "train.py"), str(bench.folder / "out")),
        LINESIDE_TAKE_OVER="1",
        PYTHONPATH=f"{bench.folder}:{root}",
    )
    status, output, errors = one.end(110)
    assert status == 0, errors
    assert f"{', '.join(trackers)} run outside of this process: the callback host" in errors
    [event] = read_all(bench.address, ["*/rank0"], until=bool, timeout=DEADLINE)[:1]
    facts = data_of(event)
    assert facts["taken_over"] == facts["report_to"] == trackers
    assert str(trackers) in output
