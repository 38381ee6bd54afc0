"""A backup with the store in PostgreSQL: its own tool dumps it."""

from __future__ import annotations

import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lineside.bus.errors import UsageError
from lineside.cli.backup import postgres
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.cli.backup.homes import back_up, make_home, restore, settings_of
from tests.store.database.postgres import Postgres, find_binaries
from tests.store.trainer import FakeJournal, FakeProducer


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(find_binaries()) as running:
        yield running


def record_run(store: str, run: str) -> None:
    engine = open_store(store)
    producer = FakeProducer(run)
    producer.begin()
    FakeJournal(Writer(engine), run).deliver(producer)
    engine.dispose()


def runs(store: str) -> list[str]:
    engine = open_store(store)
    try:
        return sorted(run.id for run in History(engine).runs().items)
    finally:
        engine.dispose()


def test_a_store_in_postgresql_is_dumped_and_restored_by_the_printed_command(
    server: Postgres, tmp_path: Path
) -> None:
    store = server.new_database()
    settings = settings_of(tmp_path / "home", LINESIDE_STORE=store)
    make_home(settings)
    record_run(store, "before")
    with psycopg.connect(store) as connection:
        connection.execute("CREATE TABLE of_another_program (x int)")
    result = back_up(settings, tmp_path / "a.tar")
    assert "store.pgdump" in result.members
    record_run(store, "after")

    other = settings_of(tmp_path / "other", LINESIDE_STORE=store)
    restored = restore(other, tmp_path / "a.tar")
    command = postgres.restore_command(store, Path(restored.store_dump or ""))
    subprocess.run(shlex.split(command), check=True, timeout=60)
    assert runs(store) == ["before"]
    record_run(store, "next")  # its keys go on after those of the dump
    assert runs(store) == ["before", "next"]


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:{}@localhost:1/db", "postgresql:///db?port=1&host=localhost&password={}"],
)
def test_no_password_is_in_a_command_line_and_a_failure_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    secret = "s3cret"  # noqa: S105
    store = url.format(secret)
    assert secret not in postgres.restore_command(store, tmp_path / "x")
    run = subprocess.run
    seen: list[tuple[list[str], dict[str, str]]] = []

    def keep(argv: list[str], **options: Any) -> Any:
        seen.append((argv, options["env"]))
        return run(argv, **options)

    monkeypatch.setattr(subprocess, "run", keep)
    settings = settings_of(tmp_path / "home")
    make_home(settings)
    broken = settings_of(tmp_path / "home", LINESIDE_STORE=store)
    with pytest.raises(postgres.DumpError, match=r"pg_dump failed: .*localhost") as caught:
        back_up(broken, tmp_path / "a.tar")
    assert secret not in str(caught.value)
    ((argv, environment),) = seen
    assert secret not in " ".join(argv)
    assert environment["PGPASSWORD"] == secret
    assert not (tmp_path / "a.tar").exists()


def test_without_the_program_the_error_has_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path / "home")
    make_home(settings)
    other = settings_of(tmp_path / "home", LINESIDE_STORE="postgresql://host/db")
    monkeypatch.setattr(postgres, "PROGRAM", "no-such-program")
    with pytest.raises(UsageError, match=r"is not installed.*--no-store"):
        back_up(other, tmp_path / "a.tar")


def test_the_dump_is_in_the_archive_with_the_facts(server: Postgres, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", LINESIDE_STORE=server.new_database())
    make_home(settings)
    assert (back_up(settings, tmp_path / "a.tar").store or {})["kind"] == "postgresql"
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.extractfile("lineside-backup/store.pgdump")
        assert member is not None
        assert member.read(5) == b"PGDMP"
