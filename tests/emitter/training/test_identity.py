"""Run ids, names and checkpoint states; two ranks of a real job find the same run."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed

from lineside.bus.protocol.events import Event, is_run_id
from lineside.bus.settings import Settings
from lineside.emitter.training import identity, run_sync
from lineside.emitter.training.identity import (
    Identity,
    RankInfo,
    new_identity,
    new_run_id,
    slug,
    valid_checkpoint_state,
)
from lineside.emitter.training.run_sync import RunSync
from tests.emitter.conftest import read_spool
from tests.support.forked import TORCHRUN, ForkedScript
from tests.support.waiting import DEADLINE

ME = Identity("run-1", "a", "My run", "mine", RankInfo(world_size=4))


@pytest.mark.parametrize(
    ("hint", "start"),
    [
        ("tiny-gpt2", "tiny-gpt2"),
        ("org/Tiny_GPT2.v1", "tiny-gpt2-v1"),
        ("/data/models/llama/", "llama"),
        ("Ünïcode!", "n-code"),
        ("", "run"),
        ("...", "run"),
        ("x" * 200, "x" * 32),
    ],
)
def test_new_run_ids_are_readable_and_valid(hint: str, start: str) -> None:
    run = new_run_id(hint)
    assert re.fullmatch(re.escape(start) + r"-\d{8}-\d{6}-[0-9a-f]{6}", run)
    assert is_run_id(run)
    assert new_run_id(hint) != run


def test_a_slug_of_an_empty_text_is_empty() -> None:
    assert slug("///") == ""


def test_attempts_of_one_process_sort_by_their_start() -> None:
    settings = Settings.from_env({"HOME": "/h"})
    attempts = [new_identity(settings, RankInfo(), run="r").attempt for _ in range(20)]
    assert attempts == sorted(set(attempts))


def test_a_clock_that_was_set_back_does_not_delay_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = iter(["20261121T235959.999-ffff", "20261121T225959.999-0000"])
    monkeypatch.setattr(identity, "new_attempt", lambda: next(names))
    monkeypatch.setattr(identity, "_last_attempt", "")
    settings = Settings.from_env({"HOME": "/h"})
    before, after = (new_identity(settings, RankInfo(), run="r").attempt for _ in range(2))
    assert before == "20261121T235959.999-ffff"
    assert re.fullmatch(r"20261122T000000\.000-[0-9a-f]{4}", after)


def test_the_environment_overrides_names(tmp_path: Path) -> None:
    env = {"LINESIDE_HOME": str(tmp_path)}
    named = new_identity(Settings.from_env(env), RankInfo(), run="r", name="n", project="p")
    assert (named.name, named.project) == ("n", "p")
    env |= {"LINESIDE_RUN_NAME": "N", "LINESIDE_PROJECT": "P"}
    named = new_identity(Settings.from_env(env), RankInfo(), run="r", name="n", project="p")
    assert (named.name, named.project) == ("N", "P")
    bare = new_identity(Settings.from_env({"LINESIDE_HOME": str(tmp_path)}), RankInfo(), run="r")
    assert (bare.name, bare.project) == ("r", "default")


def test_names_hold_no_secret_in_the_file_of_a_checkpoint(tmp_path: Path) -> None:
    settings = Settings.from_env({"LINESIDE_HOME": str(tmp_path)})
    given = {"name": "sweep token=a1B2c3D4", "project": "https://me:a1B2c3D4@host"}
    kept = new_identity(settings, RankInfo(), run="r", **given).checkpoint_state()
    assert kept["name"] == "sweep token=<redacted>"
    assert kept["project"] == "https://me:<redacted>@host"


def test_a_stream_is_named_by_run_rank_and_attempt() -> None:
    assert str(Identity("r", "a", "", "", RankInfo(rank=3)).stream) == "r/rank3/a"


@pytest.mark.parametrize("kept", [None, [], {}, {"run_id": None}, {"run_id": "../../x"}])
def test_a_checkpoint_without_a_valid_identity_yields_none(kept: object) -> None:
    assert valid_checkpoint_state(kept) == {}


def test_a_checkpoint_state_is_read_as_it_was_written() -> None:
    assert valid_checkpoint_state(ME.checkpoint_state() | {"later": "x"}) == ME.checkpoint_state()


def test_without_torch_distributed_ranks_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert RankInfo.from_env() == RankInfo(0, 1, 0)
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert RankInfo.from_env() == RankInfo(3, 8, 1)
    monkeypatch.setenv("RANK", "nonsense")
    assert RankInfo.from_env().rank == 0


def test_without_a_store_no_identity_is_published_or_received() -> None:
    alone = RunSync("loop")
    alone.publish(ME)
    assert alone.receive(RankInfo(rank=1), 0.1) is None


@pytest.fixture
def group(tmp_path: Path) -> Iterator[object]:
    """A process group of this process alone, so that there is a store."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield torch.distributed
    torch.distributed.destroy_process_group()


def _run_sync(monkeypatch: pytest.MonkeyPatch, count: int) -> RunSync:
    monkeypatch.setattr(run_sync, "_label_counts", Counter(train=count))
    return RunSync("train")


def test_other_ranks_receive_what_rank_0_publishes(
    group: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RankInfo.from_env() == RankInfo(0, 1, 0)
    there = RankInfo(rank=2, world_size=4, local_rank=2)
    theirs = _run_sync(monkeypatch, 5)
    assert theirs.receive(there, 0) is None
    assert theirs.receive(there, 0.2) is None
    _run_sync(monkeypatch, 5).publish(ME)
    assert theirs.receive(there, 0) == Identity("run-1", "a", "My run", "mine", there)
    assert theirs.receive(there, 0.2) == Identity("run-1", "a", "My run", "mine", there)
    assert _run_sync(monkeypatch, 6).receive(there, 0) is None, "another attempt"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _run_sync(monkeypatch, 5).receive(there, 0) is None, "the restarted job"


def test_invalid_values_in_the_store_are_ignored(
    group: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = torch.distributed.distributed_c10d._get_default_store()
    store.set("lineside/0/train/1", "{}")
    assert _run_sync(monkeypatch, 1).receive(RankInfo(rank=1), 0) is None


def test_a_job_of_one_rank_does_not_use_its_store(
    group: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_sync(monkeypatch, 7).publish(new_identity(Settings.from_env(), RankInfo(), run="r"))
    store = torch.distributed.distributed_c10d._get_default_store()
    assert not store.check(["lineside/0/train/7"])


RANKS = """
import os, sys, time
import torch, torch.distributed as dist
from transformers import TrainerCallback
from lineside.emitter import LinesideCallback, start_run
from lineside.emitter.training import attempts
from tests.support.tiny_trainer import trainer

class Slow(TrainerCallback):
    def on_train_begin(self, *args, **kwargs): time.sleep(2 * (rank == 0))
    def on_step_end(self, *args, **kwargs): time.sleep(1.1)

rank = int(os.environ["RANK"])
torch.set_num_threads(1)

def train(steps, *callbacks):
    made = trainer(sys.argv[1], *callbacks, max_steps=steps, ddp_backend="gloo")
    made.train()
    return made

for scenario in sys.argv[2:]:
    if scenario == "twice":
        train(3, LinesideCallback(name="twice")).train()
    elif scenario == "fails":
        train(3, LinesideCallback(name="fails"))
        if rank == 1:
            raise RuntimeError("rank 1 broke")
    elif scenario == "late":
        attempts.WAIT_FOR_RANK_0 = 0.1
        train(4, Slow(), LinesideCallback(name="late"))
    elif scenario == "only0":
        train(5, *[LinesideCallback(name="only0")] * (rank == 0))
    elif scenario == "only1":
        attempts.WAIT_FOR_RANK_0 = 0.1
        attempts._JOIN_FOR_NS = 1_000_000_000
        train(2, Slow(), *[LinesideCallback(name="only1")] * (rank == 1))
    elif scenario == "loop":
        with start_run("loop") as run:
            run.log({"rank": rank})
dist.barrier()
dist.destroy_process_group()
"""


def _torchrun(home: Path, *argv: str) -> tuple[int, str]:
    """Exit code and stderr."""
    script = home / "ranks.py"
    script.write_text(RANKS)
    with ForkedScript(
        [TORCHRUN, "--standalone", "--nproc-per-node=2", script, home / "out", *argv],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _, errors = process.communicate(timeout=DEADLINE)
    return process.returncode, errors


def _streams(home: Path, name: str) -> dict[str, list[Event]]:
    """The streams of the run called ``name``, by producer and attempt."""
    return {
        stream.partition("/")[2]: events
        for stream, events in read_spool(home / "spool").items()
        if stream.startswith(name)
    }


@pytest.mark.long
def test_two_ranks_publish_one_run_attempt_by_attempt(home: Path) -> None:
    code, errors = _torchrun(home, "only0", "twice", "late", "only1", "loop")
    assert code == 0, errors
    streams = _streams(home, "twice")
    attempts = sorted({stream.split("/")[1] for stream in streams})
    assert len(attempts) == 2
    assert set(streams) == {f"rank{rank}/{attempt}" for rank in (0, 1) for attempt in attempts}
    for stream, events in streams.items():
        producer, attempt = stream.split("/")
        kinds = [event.kind for event in events]
        start, end = events[0].data or {}, events[-1].data or {}
        assert (kinds[0], kinds[-1]) == ("run_start", "run_end")
        assert end["how"] == ("restarted" if attempt == attempts[0] else "exit")
        assert (start["producer"], start["world_size"]) == (producer, 2)
        assert start["local_rank"] == start["rank"]
        if producer == "rank0":
            assert kinds.count("log") == 4
            assert "model" in start
        else:
            assert kinds == ["run_start", "run_end"]
            assert end["counters"]["hooks"] > 10

    # Rank 1 had stopped waiting at train begin and joined the run later.
    first, second = sorted(_streams(home, "late"))
    assert (first.split("/")[0], second.split("/")[0]) == ("rank0", "rank1")
    assert first.split("/")[1] == second.split("/")[1]

    assert [stream.split("/")[0] for stream in _streams(home, "only0")] == ["rank0"]
    assert not _streams(home, "only1")
    assert "rank 1 has received no run from rank 0" in errors
    assert "rank 1 stopped waiting for rank 0" in errors

    loops = _streams(home, "loop")
    assert len({stream.split("/")[1] for stream in loops}) == 1
    assert {s.split("/")[0]: (e[1].data or {})["logs"]["rank"] for s, e in loops.items()} == {
        "rank0": 0,
        "rank1": 1,
    }


def test_a_failing_rank_publishes_its_own_error(home: Path) -> None:
    code, _ = _torchrun(home, "fails")
    assert code != 0
    [ended] = [e for s, e in _streams(home, "fails").items() if s.startswith("rank1")]
    assert ended[-1].data is not None
    assert ended[-1].data["how"] == "exception"
    assert ended[-1].data["error"]["message"] == "rank 1 broke"
