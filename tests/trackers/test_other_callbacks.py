"""Callbacks without a store of their own: what they print, and what they change in training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lineside.bus.callback_config import make_callback, parse_entries
from lineside.bus.errors import CallbackConfigError
from tests.trackers.harness import Twins
from tests.trackers.train import OPEN_END

pytestmark = pytest.mark.timeout(600)

_BUILT_IN = "transformers.trainer_callback."
ENTRIES = (
    {
        "name": _BUILT_IN + "EarlyStoppingCallback",
        "args": {"early_stopping_patience": 1, "early_stopping_threshold": 100.0},
        "id": "early",
    },
    {"name": _BUILT_IN + "PrinterCallback", "id": "printer"},
    {"name": _BUILT_IN + "ProgressCallback", "id": "progress"},
    {"name": _BUILT_IN + "DefaultFlowCallback", "id": "flow"},
    {"name": "trl.RichProgressCallback", "id": "rich"},
    {"name": "flyte", "id": "flyte"},
    {"name": "trl.BEMACallback", "id": "bema"},
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """A training that evaluates every 20 steps, and that early stopping has ended."""
    with Twins(tmp_path_factory.mktemp("callbacks")) as twins:
        twins.start_host(ENTRIES)
        twins.train("open_ended")
        twins.wait_hosted("early", "printer", "progress", "flow", "rich")
        yield twins


def printed_logs(text: str) -> list[str]:
    """The logs among the lines of ``text``; a progress bar may stand before one."""
    lines = (line.rpartition("\r")[2].removeprefix("\x1b[A").strip() for line in text.splitlines())
    return [line for line in lines if line.startswith("{'")]


def test_early_stopping_stops_the_training_by_a_command(ended: Twins) -> None:
    logs = printed_logs((ended.folder / "training.log").read_text())
    steps = sum("'loss'" in log for log in logs)
    # The second evaluation, at step 40, is no better than the first.
    assert 40 <= steps < OPEN_END


def test_a_hosted_default_flow_changes_nothing(ended: Twins) -> None:
    logs = printed_logs((ended.folder / "training.log").read_text())
    evaluations = [i for i, log in enumerate(logs) if "'eval_loss'" in log]
    losses_before = [sum("'loss'" in log for log in logs[:i]) for i in evaluations]
    assert losses_before == [20 * (i + 1) for i in range(len(evaluations))]
    assert not list(ended.checkpoints.glob("checkpoint-*"))


@pytest.mark.parametrize("name", ["printer", "progress"])
def test_a_callback_that_prints_prints_the_same_logs(ended: Twins, name: str) -> None:
    in_process = printed_logs((ended.folder / "training.log").read_text())
    assert in_process
    assert printed_logs(ended.output(name)) == in_process


@pytest.mark.parametrize("name", ["progress", "rich"])
def test_a_progress_bar_reaches_the_last_step(ended: Twins, name: str) -> None:
    logs = printed_logs((ended.folder / "training.log").read_text())
    last = sum("'loss'" in log for log in logs)
    assert (
        f"{last}/{OPEN_END}" if name == "progress" else f"{last / OPEN_END:.0%}"
    ) in ended.output(name)


def test_a_callback_of_a_live_task_is_refused_with_the_reason(ended: Twins) -> None:
    assert "Checkpointing is not available" in ended.output("flyte")


def test_a_callback_that_reads_parameters_is_refused_with_the_way_out(ended: Twins) -> None:
    assert "where: training" in ended.output("bema")


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("trl.LogCompletionsCallback", "trainer"),
        ("trl.WeaveCallback", "trainer"),
        ("trl.SyncRefModelCallback", "ref_model"),
    ],
)
def test_a_callback_made_with_live_objects_is_refused_at_start(name: str, argument: str) -> None:
    [entry] = parse_entries([name])
    with pytest.raises(CallbackConfigError, match=argument):
        make_callback(entry)
