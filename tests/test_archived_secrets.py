"""No secret in a checkpoint of a real training is found in the archive, and what it has loads."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import torch

from lineside.bus.testing import BrokerProcess
from lineside.emitter.redaction.text import REDACTED
from lineside.store.archive.location import ArchiveLocation, open_archive
from tests.emitter.redaction.corpus import planted
from tests.support.forked import ForkedScript
from tests.support.leftovers import kill_processes_of
from tests.support.processes import Child, environment, supervised
from tests.support.waiting import DEADLINE, wait_until

SCRIPT = Path(__file__).with_name("archived_secrets_train.py")
STEPS = [3, 2, 1]


def test_a_planted_secret_is_nowhere_in_the_archive(tmp_path: Path) -> None:
    forms = {place: planted(place) for place in ("arguments", "state", "json")}
    places = {place: values for place, (values, _) in forms.items()}
    places |= {"hub": ["hf_" + "ArcH1" * 7, "pLaInWaNdB"], "yaml": ["pLaInYaMl"]}
    secrets = {
        secret: form for _, by_secret in forms.values() for secret, form in by_secret.items()
    }
    secrets |= dict.fromkeys(("ArcH1", "pLaInWaNdB", "pLaInYaMl"))
    values, output = tmp_path / "values.json", tmp_path / "out"
    values.write_text(json.dumps(places))
    archive = open_archive(ArchiveLocation(str(tmp_path / "archive")))
    home = tmp_path / "home"
    argv = ["-m", "lineside.cli", "archiver", "--archive", str(tmp_path / "archive")]
    try:
        with BrokerProcess(home) as broker:
            where = {"LINESIDE_BROKER": broker.address}
            with Child(argv, supervised(home, **where), home / "archiver.log"):
                wait_until((home / "hold.json").exists, "the archiver asks for holds")
                env = environment(home, **where)
                with ForkedScript([SCRIPT, values, output], env=env) as process:
                    assert process.wait(DEADLINE) == 0
                wait_until(
                    lambda: [key.step for key in archive.entries("planted")] == STEPS,
                    "all checkpoints are archived",
                )
    finally:
        kill_processes_of(home)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-3"]
    original = (output / "checkpoint-3" / "training_args.bin").read_bytes()
    assert b"ArcH1" in _inside(original)  # else the test proves nothing
    found = {
        (secret, str(secrets[secret]), path.name)
        for path in (tmp_path / "archive").rglob("*")
        if path.is_file()
        for content in [_inside(path.read_bytes())]
        for secret in secrets
        if secret.encode() in content
    }
    assert found == set()
    target = tmp_path / "restored" / "checkpoint-3"
    target.parent.mkdir()
    archive.restore(archive.read_manifest(archive.entries("planted")[0]), target)
    assert {path.name for path in target.iterdir()} == {
        path.name for path in (output / "checkpoint-3").iterdir()
    }
    data = (target / "training_args.bin").read_bytes()
    assert b"Arguments" in _inside(data)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
    state = json.loads((target / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    assert any(entry.get("sample") == REDACTED for entry in state["log_history"])
    assert torch.load(target / "optimizer.pt", weights_only=True)["state"]


def _inside(data: bytes) -> bytes:
    """``data``, and what is in it if it is a zip."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return data + b"".join(opened.read(name) for name in opened.namelist())
