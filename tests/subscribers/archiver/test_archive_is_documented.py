"""The reference of the archive has every state, every key of a manifest, and the limits."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lineside.bus.protocol.checkpoints import STATES
from lineside.store.archive.manifest import CheckpointFacts, Manifest, ManifestFile, Part
from lineside.store.archive.writing import PART_BYTES
from lineside.subscribers.archiver import archiver, completeness, entry, outcomes, retries, slots

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "archive.md").read_text()


def rows(section: str) -> list[tuple[str, str]]:
    """The first two columns of the table of a section, without its head."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)
    return re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.M)[1:]


def test_every_state_is_documented_with_its_meaning() -> None:
    assert rows("States") == [(f"`{state}`", meaning) for state, meaning in STATES.items()]


def test_every_key_of_a_manifest_is_documented() -> None:
    file = ManifestFile("a", 1, (Part("0" * 64, 1),), scrubbed=True)
    facts = CheckpointFacts("run", "attempt", 1, "/out/checkpoint-1", 0.0)
    manifest = json.loads(Manifest(facts, (file,), 0.0).to_json())
    documented = "".join(f"{first} {second}" for first, second in rows("Manifest"))
    keys = {*manifest, *manifest["files"][0], *manifest["files"][0]["parts"][0]}
    assert set(re.findall(r"`(\w+)`", documented)) == keys


def test_the_limits_are_those_of_the_code() -> None:
    def between(delays: tuple[float, float]) -> str:
        return f"{delays[0]:,.0f} s to {delays[1]:,.0f} s"

    assert [limit for _, limit in rows("Limits")] == [
        f"{PART_BYTES >> 20} MiB",
        f"{slots.MAX_COPYING}",
        f"{archiver.PROGRESS_SECONDS:.0f} s",
        f"{completeness.WHOLE_SECONDS:.0f} s",
        f"{completeness.ENDED_WHOLE_SECONDS:.0f} s",
        between(retries.UNAVAILABLE_RETRY),
        between(retries.DENIED_RETRY),
        between(retries.SOURCE_RETRY),
        f"{outcomes.MAX_REPAIRS}",
        f"{outcomes.LIST_SECONDS:,.0f} s",
        f"{entry.MAX_METRICS}",
        f"{entry.MAX_STATE_BYTES >> 10} KiB",
    ]
