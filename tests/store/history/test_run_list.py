"""The run list: filters, sort keys, pages; and finding a run by name."""

from __future__ import annotations

import base64

import pytest

from lineside.bus.errors import RunNotFound, UsageError
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import LATER_ATTEMPT, START, FakeJournal, FakeProducer

NAMES = ["Alpha", "beta", "Gamma", "delta", "alpha", "50%_off"]


@pytest.fixture
def history(writer: Writer, history: History) -> History:
    """Six runs in three projects: every other one finished, the third failed."""
    journal = FakeJournal(writer)
    for number, name in enumerate(NAMES):
        trainer = FakeProducer(f"run-{number}", at=START + number)
        trainer.begin(name=name, project=f"p{number % 3}")
        trainer.step = number % 4
        trainer.emit("step_end")
        if number % 2:
            trainer.emit("train_end")
            trainer.end()
        elif number == 2:
            trainer.end("exception", {"type": "E", "message": "x"})
        journal.deliver(trainer)
    return history


def walk(history: History, limit: int, **how: str) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = history.runs(limit=limit, cursor=cursor, **how)
        found += [run.id for run in page.items]
        assert len(page.items) <= limit
        cursor = page.next
        if cursor is None:
            return found


def test_the_list_is_filtered_by_whole_tags_and_groups(writer: Writer, history: History) -> None:
    journal = FakeJournal(writer)
    for name, group, given in (
        ("run-a", "g0", ["paper", 'a "b"', "paper"]),
        ("run-b", "g0", ["paper-2", "  ", 7]),
        ("run-c", "g2", "paper"),
    ):
        trainer = FakeProducer(name, at=START + 100)
        trainer.begin(tags=given, group=group, notes=f"of {name}")
        journal.deliver(trainer)

    def ids(**how: str) -> list[str]:
        found = [run.id for run in history.runs(sort="name", **how).items]  # type: ignore[arg-type]
        assert sum(history.counts(**how).values()) == len(found)
        return sorted(found)

    assert history.run("run-a").tags == ("paper", 'a "b"')
    assert (history.run("run-a").group, history.run("run-a").note) == ("g0", "of run-a")
    assert (history.run("run-b").tags, history.run("run-c").tags) == (("paper-2",), ())
    assert ids(tag="Paper") == ["run-a"]
    assert ids(tag='a "b"') == ["run-a"]
    assert ids(tag="b") == ids(tag='"') == ids(tag="%") == []
    assert ids(group="g0") == ["run-a", "run-b"]
    assert ids(search="g2") == ["run-c"]
    writer.update_run("run-a", tags=[], note="mine", group="")
    again = FakeProducer("run-a", LATER_ATTEMPT, at=START + 200)
    again.begin(tags=["new"], group="new", notes="new")
    journal.deliver(again)
    changed = history.run("run-a")
    assert (changed.tags, changed.note, changed.group) == ((), "mine", "new")


@pytest.mark.parametrize(
    "sort", ["started_at", "ended_at", "updated_at", "name", "project", "status", "step"]
)
@pytest.mark.parametrize("direction", ["", "-"])
def test_pages_are_the_whole_list_in_order_whatever_it_is_sorted_by(
    history: History, sort: str, direction: str
) -> None:
    whole = [run.id for run in history.runs(sort=direction + sort).items]
    assert sorted(whole) == [f"run-{number}" for number in range(6)]
    for limit in (1, 2, 4):
        assert walk(history, limit, sort=direction + sort) == whole
    opposite = [run.id for run in history.runs(sort=("" if direction else "-") + sort).items]
    assert opposite == whole[::-1]


def test_the_newest_run_comes_first_unless_asked_otherwise(history: History) -> None:
    assert [run.id for run in history.runs().items] == [f"run-{n}" for n in (5, 4, 3, 2, 1, 0)]
    by_name = [run.name for run in history.runs(sort="name").items]
    assert by_name == ["50%_off", "Alpha", "alpha", "beta", "delta", "Gamma"]


def test_the_list_is_filtered_by_status_project_and_search(history: History) -> None:
    def ids(**how: object) -> list[str]:
        return [run.id for run in history.runs(sort="started_at", **how).items]  # type: ignore[arg-type]

    assert ids(statuses=["finished"]) == ["run-1", "run-3", "run-5"]
    assert ids(statuses={"failed"}) == ["run-2"]
    assert ids(statuses=["failed", "finished"]) == ["run-1", "run-2", "run-3", "run-5"]
    assert ids(project="p1") == ["run-1", "run-4"]
    assert ids(search="ALPHA") == ["run-0", "run-4"]
    assert ids(search="%_") == ["run-5"]
    assert ids(search="run-3") == ["run-3"]
    assert ids(search="p2", statuses=["failed"]) == ["run-2"]
    assert ids(search="nothing") == []
    assert walk(history, 1, search="alpha") == ["run-4", "run-0"]


def test_notes_and_tags_are_searched(history: History, writer: Writer) -> None:
    writer.update_run("run-0", note="Needs another look")
    writer.update_run("run-1", tags=["baseline"])
    assert [run.id for run in history.runs(search="another").items] == ["run-0"]
    assert [run.id for run in history.runs(search="BASE").items] == ["run-1"]


def test_counts_by_status_and_projects_match_the_list(history: History) -> None:
    assert history.counts() == {"finished": 3, "failed": 1, "running": 2}
    assert history.counts(project="p1") == {"finished": 1, "running": 1}
    assert history.counts(search="alpha") == {"running": 2}
    assert history.projects() == ["p0", "p1", "p2"]


def test_a_run_without_a_name_is_named_by_its_id(history: History, writer: Writer) -> None:
    trainer = FakeProducer("nameless", at=START + 99)
    trainer.emit("train_begin")
    FakeJournal(writer, "other").deliver(trainer)
    run = history.find("nameless")
    assert (run.name, run.project) == ("nameless", "default")
    assert [run.id for run in history.runs(project="default").items] == ["nameless"]


def test_a_run_in_the_list_is_the_run_itself(history: History) -> None:
    listed = next(run for run in history.runs().items if run.id == "run-2")
    assert listed == history.run("run-2")
    assert listed.event_counts["step_end"] == 1
    assert listed.loss_account.recorded == 5


@pytest.mark.parametrize("sort", ["", "-", "color", "--name"])
def test_an_unknown_sort_key_is_refused(history: History, sort: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be sorted by .*: expected started_at"):
        history.runs(sort=sort)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!",
        "bm90aGluZw==",
        "WyJuYW1lIiwgMV0=",
        "ünïcode",
        base64.urlsafe_b64encode(b"[" * 200_000).decode(),
        *(
            base64.urlsafe_b64encode(f'["-started_at", {rest}]'.encode()).decode()
            for rest in (
                r'1.5, "a\u0000b"',
                r'"\u0000", "a"',
                r'"\ud800", "a"',
                r'1.5, "\ud800"',
                'NaN, "a"',
                f'{2**64}, "a"',
            )
        ),
    ],
)
def test_an_invalid_cursor_is_refused(history: History, cursor: str) -> None:
    with pytest.raises(UsageError, match="expected the `next` of a list sorted by -started_at"):
        history.runs(cursor=cursor)


def test_a_cursor_of_another_order_is_refused(history: History) -> None:
    cursor = history.runs(limit=1, sort="name").next
    with pytest.raises(UsageError, match="sorted by status"):
        history.runs(sort="status", cursor=cursor)


def test_a_run_is_found_by_id_prefix_name_and_latest(history: History) -> None:
    assert history.find("run-3").id == "run-3"
    assert history.find("beta").id == "run-1"
    assert history.find("latest").id == "run-5"
    # Two names that differ only by case are two names in both databases.
    assert history.find("Alpha").id == "run-0"
    with pytest.raises(UsageError, match=r"'run-' matches several runs \(run-5, run-4"):
        history.find("run-")
    for nothing in ("", "missing", "%"):
        with pytest.raises(RunNotFound):
            history.find(nothing)


def test_an_id_is_found_even_if_others_begin_with_it(history: History, writer: Writer) -> None:
    journal = FakeJournal(writer, "other")
    for name in ("new", "new-2"):
        trainer = FakeProducer(name, at=START + 100)
        trainer.begin()
        journal.deliver(trainer)
    assert history.find("new").id == "new"


def test_latest_of_an_empty_history_is_not_found(tmp_path: object, writer: Writer) -> None:
    with pytest.raises(RunNotFound, match="no run 'latest' in the store; `lineside runs`"):
        History(writer._engine).find("latest")


def test_events_are_paged_forwards_and_backwards(history: History) -> None:
    whole = [row.n for row in history.events("run-1").items]
    assert whole == [1, 2, 3, 4, 5]
    page = history.events("run-1", limit=2)
    assert ([row.n for row in page.items], page.next) == ([1, 2], "2")
    page = history.events("run-1", after=2, limit=3)
    assert ([row.n for row in page.items], page.next) == ([3, 4, 5], None)
    page = history.events("run-1", before=5, limit=2)
    assert ([row.n for row in page.items], page.next) == ([4, 3], "3")
    page = history.events("run-1", before=3, limit=9)
    assert ([row.n for row in page.items], page.next) == ([2, 1], None)


def test_events_of_some_kinds_are_in_order(history: History) -> None:
    page = history.events("run-1", kinds=["train_end", "run_start", "nothing"], limit=1)
    assert ([row.kind for row in page.items], page.next) == (["run_start"], "1")
    page = history.events("run-1", kinds=["train_end", "run_start"], after=1)
    assert ([row.kind for row in page.items], page.next) == (["train_end"], None)
    assert history.events("run-1", kinds=[]).items == ()


def test_the_configuration_is_that_at_the_start_of_the_attempt(
    history: History, writer: Writer
) -> None:
    journal = FakeJournal(writer, "other")
    one, two = FakeProducer("both"), FakeProducer("both", attempt=LATER_ATTEMPT, at=START + 9)
    one.begin(args={"lr": 1})
    two.begin(args={"lr": 2})
    rank1 = FakeProducer("both", producer="rank1", attempt=LATER_ATTEMPT, at=START + 9)
    rank1.begin(args={"lr": 3})
    journal.deliver(rank1, one, two)
    assert history.configuration("both")["args"] == {"lr": 2}
    assert history.configuration("both", one.stream.attempt)["args"] == {"lr": 1}
    bare = FakeProducer("bare")
    bare.emit("train_begin")
    journal.deliver(bare)
    assert history.configuration("bare") == {}


def test_checkpoints_are_listed_with_the_best_marked(history: History, writer: Writer) -> None:
    trainer = FakeProducer("saved")
    trainer.begin()
    for step in (4, 8, 12):
        trainer.step, trainer.epoch = step, step / 10
        best = {"best_model_checkpoint": "/out/checkpoint-8" if step > 4 else None}
        trainer.emit("save", {"checkpoint": f"/out/checkpoint-{step}", "state": best})
    FakeJournal(writer, "other").deliver(trainer)
    found = history.checkpoints("saved")
    assert [(c.step, c.path, c.best) for c in found] == [
        (4, "/out/checkpoint-4", False),
        (8, "/out/checkpoint-8", True),
        (12, "/out/checkpoint-12", False),
    ]
    assert found[0].epoch == 0.4
    rows = history.events("saved", kinds=["save"]).items
    assert rows[0].data is not None
    assert rows[0].data["checkpoint"] == "/out/checkpoint-4"
