"""The reference lists every family of the page, with its type and labels, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from lineside.emitter.spool import status_page
from lineside.store.status import verdict
from lineside.store.status.liveness import DISCONNECTED, STALLED
from lineside.subscribers.exporter import samples
from lineside.subscribers.exporter.families import COUNTER, RUN_FAMILIES
from lineside.subscribers.exporter.page import OwnMetrics
from lineside.subscribers.exporter.samples import FAMILIES, STATUSES
from lineside.subscribers.exporter.system import SYSTEM_FAMILIES, system_metric
from lineside.subscribers.exporter.tracker import MAX_METRICS, MAX_NAMES, MAX_RANKS

DOCS = Path(__file__).parents[3] / "docs"
REFERENCE = (DOCS / "reference" / "metrics.md").read_text()
HOW_TO = (DOCS / "how-to" / "prometheus.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", REFERENCE, re.M))


def test_the_reference_lists_every_family_with_its_type_labels_and_help() -> None:
    expected = {
        family.name: f"{family.type} | "
        f"{', '.join(f'`{label}`' for label in family.labels) or '-'} | {family.help}"
        for family in FAMILIES.values()
    }
    own = {
        f"{family.name}_total" if family.type == COUNTER else family.name: family.type
        for family in text_string_to_metric_families(OwnMetrics().encode("").decode())
    }
    found = {name: row for name, row in ROWS.items() if name not in own}
    assert found == expected
    assert {name: ROWS[name].partition(" ")[0] for name in own} == own


def test_the_limits_in_the_reference_are_those_of_the_code() -> None:
    assert f"At most {MAX_METRICS} of a run" in REFERENCE
    assert f"beyond the {MAX_RANKS} that" in REFERENCE
    assert f"the {MAX_NAMES} first names" in REFERENCE


def test_every_metric_that_a_query_names_exists() -> None:
    names = set(re.findall(r"lineside_\w+", HOW_TO))
    known = {f"{name}{suffix}" for name in FAMILIES for suffix in ("", "_sum", "_bucket")}
    assert names
    assert names <= known


def test_units_are_base_units_and_counters_end_in_total() -> None:
    for family in FAMILIES.values():
        assert family.name.endswith("_total") == (family.type == COUNTER), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|mb|kb|percent)\b", family.name)
    assert {family.name.split("_")[0] for family in RUN_FAMILIES} == {"lineside"}


def test_every_status_and_every_phase_has_a_series() -> None:
    statuses = {name for name, value in vars(verdict).items() if value in STATUSES}
    others = {"SUPERSEDED", "RAISED", "RANK_0", "PRUNED_ERROR"}
    assert {
        name
        for name, value in vars(verdict).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("_")
    } == statuses | others
    assert {DISCONNECTED, STALLED} <= set(STATUSES)
    assert set(samples.PHASES) == set(status_page.PHASES)


def test_every_metric_of_the_sampler_has_a_family() -> None:
    page = (DOCS / "reference" / "system-metrics.md").read_text()
    names = re.findall(r"^\| `([a-z0-9]+/[\w/]+)` \|", page, re.M)
    found = {name: system_metric(name) for name in names}
    assert None not in found.values(), found
    assert {one.family for one in found.values() if one} == {one.name for one in SYSTEM_FAMILIES}
