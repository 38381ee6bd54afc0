"""The wheel has every file and works away from the source."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("bus", "emitter", "store", "subscribers", "dashboard", "cli", "examples")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the files that git tracks, without leftovers of a build."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    source = folder / "source"
    for name in files:
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # Without isolation nothing is downloaded; setuptools is installed here.
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        capture_output=True,
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_installs_one_top_level_name(wheel: Path) -> None:
    assert {name.split("/")[0] for name in names(wheel)} == {"lineside", "lineside-0.1.0.dist-info"}


def test_the_wheel_has_every_file_of_every_room(wheel: Path) -> None:
    there = names(wheel)
    for room in ROOMS:
        for file in (ROOT / room).rglob("*"):
            if file.is_file() and not {"__pycache__", "node_modules"} & {*file.parts}:
                assert f"lineside/{file.relative_to(ROOT)}" in there


def test_the_installed_command_works_away_from_the_source(wheel: Path, tmp_path: Path) -> None:
    """This environment provides the dependencies; the rooms come from the wheel alone."""
    venv_folder = tmp_path / "venv"
    venv.create(venv_folder, with_pip=True)
    python = venv_folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    environment = {"PYTHONPATH": sysconfig.get_path("purelib"), "HOME": str(tmp_path)}
    shown = subprocess.run(
        [venv_folder / "bin" / "lineside", "--help"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Monitor and control training runs" in shown.stdout
    code = (
        "import importlib.util as u, lineside.bus.client.reader\n"
        f"print(lineside.bus.client.reader.__file__, [r for r in {ROOMS!r} if u.find_spec(r)])"
    )
    asked = subprocess.run(
        [python, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.startswith(str(venv_folder))
    assert asked.stdout.endswith(" []\n")


@pytest.mark.parametrize("name", ROOMS)
def test_no_generic_name_is_installed_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    )
    importlib.invalidate_caches()
    assert importlib.util.find_spec(name) is None
    assert importlib.util.find_spec(f"lineside.{name}") is not None
