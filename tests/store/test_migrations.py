"""What the migrations make is what the schema says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from lineside.bus.errors import StoreError
from lineside.store import migrate
from lineside.store.database import open_store
from lineside.store.reads import History
from lineside.store.schema import metadata


def test_the_migrated_tables_are_those_of_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrate.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("old", migrate.KNOWN[:-1])
def test_an_older_store_is_brought_up_to_date_with_all_that_it_holds(
    store_url: str, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(alembic.command, "upgrade", partial(_upgrade_to, alembic.command.upgrade, old))
        engine = open_store(store_url, create=True)
    with engine.begin() as connection:
        connection.execute(text("UPDATE head SET revision = 41"))
    with pytest.raises(StoreError, match="older schema revision"):
        open_store(store_url)
    engine.dispose()
    engine = open_store(store_url, create=True)
    test_the_migrated_tables_are_those_of_the_schema(engine)
    assert History(engine).changes(0).revision == 41
    engine.dispose()


def _upgrade_to(upgrade: Callable[..., None], old: str, config: Config, _head: str) -> None:
    upgrade(config, old)


def test_every_migration_is_known_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == migrate.KNOWN
