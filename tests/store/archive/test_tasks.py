"""Tasks of an archive: a few at a time, cancelled together, and threads that are waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lineside.store.archive.tasks import TaskPool, in_thread, run_blocking


def test_no_more_tasks_run_at_a_time_than_the_limit() -> None:
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async def run() -> None:
        async with TaskPool(3) as pool:
            for _ in range(20):
                await pool.start(work())

    run_blocking(run())
    assert (most, running) == (3, 0)


def test_the_first_failure_cancels_the_other_tasks() -> None:
    ended: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waiting")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def run() -> None:
        async with TaskPool(2) as pool:
            await pool.start(wait_for_ever())
            await pool.start(fail())
            await pool.start(wait_for_ever())

    with pytest.raises(ValueError, match="no"):
        run_blocking(run())
    assert ended == ["waiting"]


def test_a_cancelled_caller_goes_on_only_once_its_thread_has_ended() -> None:
    begun, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def block() -> None:
        begun.set()
        may_end.wait()
        order.append("thread")

    async def call() -> None:
        try:
            await in_thread(block)
        finally:
            order.append("caller")

    async def run() -> None:
        task = asyncio.ensure_future(call())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        assert order == []
        may_end.set()
        await asyncio.gather(task, return_exceptions=True)

    run_blocking(run())
    assert order == ["thread", "caller"]
