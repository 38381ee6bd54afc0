"""Build the wheel and try it in clean environments of every Python 3.10 to 3.13 found here.

In each: nothing generic was installed, every room imports, and the command works. In the oldest and
the newest the tests of the protocol and the sockets pass, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
ROOMS = ("bus", "emitter", "store", "subscribers", "dashboard", "cli")
FOR_TESTS = ("pytest", "pytest-timeout", "hypothesis", "psutil")
TRIED = (
    "protocol/test_wire",
    "protocol/test_messages",
    "protocol/test_protocol",
    "test_settings",
    "test_sockets",
)
TRY = f"""
import importlib, importlib.util
for room in {ROOMS!r}:
    importlib.import_module("lineside." + room)
    assert importlib.util.find_spec(room) is None, room + " is installed as a generic name"
from lineside.dashboard.app import create_app
from lineside.store.history.history import History
from lineside.subscribers.recorder.recorder import Recorder
from lineside.emitter.training.run import start_run
"""


def interpreters() -> dict[str, str]:
    """The interpreters that really run, by version."""
    found = {}
    shims = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for version in VERSIONS:
        candidates = [*shims.glob(f"{version}.*/bin/python{version}")]
        on_path = shutil.which(f"python{version}")
        for candidate in [*map(str, candidates), *([on_path] if on_path else [])]:
            asked = subprocess.run(
                [candidate, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=False,
            )
            if asked.stdout.strip() == version:
                found[version] = candidate
                break
    return found


def check(version: str, interpreter: str, wheel: Path, folder: Path) -> None:
    """Install ``wheel`` in a fresh environment and use it, far from the source."""
    venv = folder / f"venv-{version}"
    subprocess.run([interpreter, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # The newest that this Python can have, as a user would get it.
    subprocess.run([*pip, f"{wheel}[server]"], check=True)
    subprocess.run([python, "-W", "error", "-c", TRY], check=True, cwd=folder)
    lineside = venv / "bin" / "lineside"
    for arguments in (["--help"], ["--version"]):
        subprocess.run([lineside, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    if version not in (VERSIONS[0], VERSIONS[-1]):
        return
    subprocess.run([*pip, *FOR_TESTS], check=True)
    tests = folder / f"tests-{version}"
    for folder_name in ("tests", "examples"):
        shutil.copytree(ROOT / folder_name, tests / folder_name)
    for file in ("pyproject.toml", "bus/PROTOCOL.md"):
        (tests / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tests / file)
    subprocess.run(
        [python, "-m", "pytest", "-q", *(f"tests/bus/{test}.py" for test in TRIED)],
        check=True,
        cwd=tests,
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lineside-wheel-") as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (wheel,) = folder.glob("*.whl")
        for version, interpreter in interpreters().items():
            print(f"-- Python {version}", flush=True)
            check(version, interpreter, wheel, folder)


if __name__ == "__main__":
    main()
