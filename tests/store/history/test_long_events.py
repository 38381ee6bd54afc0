"""Events with long data: a page of them is bounded in bytes, not in events alone."""

from __future__ import annotations

from lineside.store.history.history import History
from lineside.store.history.timeline import PAGE_CHARACTERS
from lineside.store.recording.writer import Writer
from tests.store.trainer import FakeJournal, FakeProducer


def test_a_page_of_long_events_ends_early_and_the_next_one_goes_on(
    writer: Writer, history: History
) -> None:
    trainer = FakeProducer()
    for number in range(7):
        trainer.emit("note", {"number": number, "text": "x" * (PAGE_CHARACTERS // 3)})
    FakeJournal(writer).deliver(trainer)

    numbers, after = [], 0
    pages = []
    while True:
        page = history.events("run", after=after)
        pages.append(len(page.items))
        numbers += [(row.data or {})["number"] for row in page.items]
        if page.next is None:
            break
        after = int(page.next)
    assert pages == [3, 3, 1]
    assert numbers == list(range(7))
    newest = history.events("run", before=1 << 62)
    assert [(row.data or {})["number"] for row in newest.items] == [6, 5, 4]
    assert newest.next == str(newest.items[-1].n)


def test_events_without_their_data_fit_one_page(writer: Writer, history: History) -> None:
    trainer = FakeProducer()
    for step in range(7):
        trainer.emit("evaluate", {"metrics": {"text": "x" * (PAGE_CHARACTERS // 3)}}, step=step)
    FakeJournal(writer).deliver(trainer)

    page = history.events("run", kinds=["evaluate"], with_data=False)
    assert [(row.step, row.data) for row in page.items] == [(step, None) for step in range(7)]
    assert page.next is None
