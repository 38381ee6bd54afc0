"""What a run holds in the training process, from its first event until its Trainer is gone."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from lineside.emitter import LinesideCallback, start_run
from lineside.emitter.shipper.disk_worker import remove_stream
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, kinds, only, open_publisher
from tests.support.tiny_trainer import Tokens, trainer


@pytest.fixture
def held(home: Path) -> Any:
    """``held()``: the files of the spool that this process, or another one, has open."""

    def files(process: str = "self") -> set[str]:
        found = set()
        for link in Path(f"/proc/{process}/fd").iterdir():
            try:
                found.add(str(link.readlink()))
            except FileNotFoundError:  # the descriptor that lists the folder
                continue
        return {path for path in found if path.startswith(f"{home}/spool")}

    return files


class AtEachStep(TrainerCallback):
    """Collects what ``look()`` returns."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.seen.append(self.look())


def test_a_training_that_has_ended_holds_no_file_however_long_its_trainer_lives(
    tmp_path: Path, held: Any
) -> None:
    kept = []
    for _ in range(3):
        during = AtEachStep(held)
        made = trainer(tmp_path, LinesideCallback(), during, max_steps=1)
        made.train()
        kept.append(made)
        assert during.seen[0], "it holds its lock while it trains"
        assert not held()


def test_a_late_evaluation_opens_the_stream_again_and_closes_it_with_its_end(
    tmp_path: Path, held: Any, spool_events: ReadSpool
) -> None:
    during = AtEachStep(held)
    during.on_prediction_step = during.on_step_end
    made = trainer(tmp_path, LinesideCallback(), during, max_steps=1)
    made.train()
    during.seen.clear()
    for evaluate in (made.evaluate, lambda: made.predict(Tokens(4))):
        evaluate()
        assert during.seen.pop(), "it is watched while it evaluates"
        assert not held()
    made.log({"late": 1.0})
    assert not held()
    close_all()
    events = only(spool_events())
    assert [event.seq for event in events] == list(range(len(events)))
    assert kinds(events).count("run_end") == 1
    after = [kind for kind in kinds(events) if kind != "prediction_step"]
    assert after[after.index("train_end") + 1 :] == ["log", "evaluate", "predict", "log", "run_end"]


def test_a_late_evaluation_goes_on_in_a_stream_that_the_shipper_has_removed(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback(), max_steps=1)
    made.train()
    end = open_publisher().next_seq
    [folder] = (home / "spool").glob("*/rank0/*")
    remove_stream(folder)
    made.evaluate()
    assert [event.seq for event in only(spool_events())][:1] == [end]
    assert kinds(only(spool_events()))[-1] == "evaluate"


def test_an_evaluation_that_failed_holds_its_files_until_the_next_run_opens(
    tmp_path: Path, held: Any
) -> None:
    class Broken(Tokens):
        def __getitem__(self, index: int) -> Any:
            if index == 20:
                raise ValueError("broken")
            return super().__getitem__(index)

    made = trainer(tmp_path, LinesideCallback(), max_steps=1)
    made.train()
    with pytest.raises(ValueError, match="broken"):
        made.evaluate(Broken(24))
    before = held()
    assert before
    trainer(tmp_path, LinesideCallback(), max_steps=1).train()
    assert not before & held()


def test_a_run_ends_once_its_trainer_is_gone_and_another_run_has_begun(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback(run_id="first"), max_steps=1)
    made.train()
    del made
    gc.collect()
    assert kinds(only(spool_events()))[-1] == "train_end", "the script may still fail"
    with start_run(run_id="second"):
        first, _ = spool_events().values()
        assert kinds(first)[-1] == "run_end"
        assert data_of(first[-1])["how"] == "exit"


def test_a_loop_that_is_dropped_without_its_end_is_closed_when_the_next_begins(
    home: Path, held: Any, spool_events: ReadSpool
) -> None:
    for name in "abc":
        start_run(run_id=name).log({"a": 1})
    assert {Path(path).parts[-4] for path in held()} == {"c"}
    ends = [kinds(events)[-1] for events in spool_events().values()]
    assert ends == ["run_end", "run_end", "log"]


def test_a_forked_child_holds_no_file_of_its_parents_runs(tmp_path: Path, held: Any) -> None:
    def fork() -> set[str]:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, "\n".join(held()).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as output:
            text = output.read()
        os.waitpid(child, 0)
        assert held()
        return set(text.split())

    during = AtEachStep(fork)
    trainer(tmp_path, LinesideCallback(), during, max_steps=1).train()
    assert during.seen == [set()]


def test_the_page_of_a_run_that_is_gone_is_not_mapped_any_more(home: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{home}/spool")

    before = mapped()
    for _ in range(3):
        start_run().finish()
    gc.collect()
    assert mapped() == before
