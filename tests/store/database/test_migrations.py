"""The tables that migrations make are those of the schema."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, delete, insert, select, text

from lineside.bus.errors import StoreError
from lineside.store.database import migrate
from lineside.store.database.engine import open_store
from lineside.store.database.migrations.versions.v0004 import fill_blocks
from lineside.store.database.tables import blocks, metadata
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import FakeJournal, FakeProducer


def test_the_migrated_tables_are_those_of_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrate.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("old", migrate.REVISIONS[:-1])
def test_an_older_store_is_upgraded_with_all_its_rows(
    store_url: str, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _open_old(store_url, old, monkeypatch)
    with engine.begin() as connection:
        connection.execute(text("UPDATE head SET revision = 41"))
    with pytest.raises(StoreError, match="older schema revision"):
        open_store(store_url)
    engine.dispose()
    engine = open_store(store_url, create=True)
    test_the_migrated_tables_are_those_of_the_schema(engine)
    assert History(engine).changes(0).revision == 41
    engine.dispose()


def test_a_run_that_failed_before_the_column_cause_existed_has_its_exception(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _open_old(store_url, "0001", monkeypatch)
    tables = MetaData()
    tables.reflect(engine)
    run: dict[str, Any] = {
        "heard_at": 1.0,
        "started_at": 1.0,
        "status": "failed",
        "revision": 1,
        "events": 0,
    }
    rank: dict[str, Any] = {"ignored": False, "began": True, "ended": False, "lost": False}
    rank |= dict.fromkeys(("next_seq", "recorded", "missing", "unreadable", "emitted"), 0)
    reasons = {"E: x": "rank0", "rank1: E: y": "rank1", "exit code 3": None}
    with engine.begin() as connection:
        for key, reason in enumerate(reasons, 1):
            run |= {"key": key, "id": f"run-{key}", "reason": reason, "purging": False}
            connection.execute(insert(tables.tables["runs"]).values(run))
            connection.execute(
                insert(tables.tables["attempts"]).values(
                    run_key=key,
                    attempt="a",
                    status="failed",
                    reason=reason,
                    started_at=1.0,
                    heard_at=1.0,
                )
            )
            for producer, error in (("rank0", "E: x"), ("rank1", "E: y")):
                rank |= {"run_key": key, "producer": producer, "attempt": "a", "heard_at": 1.0}
                connection.execute(
                    insert(tables.tables["streams"]).values(**rank, how="exception", error=error)
                )
    engine.dispose()
    engine = open_store(store_url, create=True)
    for key, cause in enumerate(reasons.values(), 1):
        failure = History(engine).run(f"run-{key}").error
        assert (failure and failure.producer) == cause
    engine.dispose()


def test_a_store_from_before_there_were_blocks_gets_those_of_its_points(engine: Engine) -> None:
    trainer = FakeProducer()
    for step in range(1100):
        trainer.step = (step * 7) % 500
        trainer.log(loss=1.7e308 if step < 3 else float(step % 11), bad=math.nan)
    FakeJournal(Writer(engine)).deliver(trainer)
    with engine.begin() as connection:
        recorded = connection.execute(select(blocks)).all()
        connection.execute(delete(blocks))
        fill_blocks(connection)
        migrated = connection.execute(select(blocks)).all()
    assert len(recorded) == 2 * (17 + 2)
    assert sorted(migrated) == sorted(recorded)


def _open_old(store_url: str, old: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A new store at that revision."""
    with monkeypatch.context() as then:
        then.setattr(alembic.command, "upgrade", partial(_upgrade_to, alembic.command.upgrade, old))
        return open_store(store_url, create=True)


def _upgrade_to(upgrade: Callable[..., None], old: str, config: Config, _head: str) -> None:
    upgrade(config, old)


def test_every_migration_is_known_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == migrate.REVISIONS
