"""The sitecustomize that adds the callback to scripts without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lineside.emitter.spool.sidecar_process import INJECT_FOLDER
from tests.support.waiting import DEADLINE

HANDLER = """
class CallbackHandler:
    def __init__(self, callbacks, model=None):
        self.callbacks = []
        for callback in callbacks:
            self.add_callback(callback)
        self.model = model

    def add_callback(self, callback):
        self.callbacks.append(callback() if isinstance(callback, type) else callback)
        return len(self.callbacks)
"""
CALLBACK = """
class LinesideCallback:
    made = 0
    def __init__(self):
        LinesideCallback.made += 1
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with a transformers and a lineside of a few lines each, which load fast."""
    for name, content in {
        "transformers/__init__.py": "",
        "transformers/trainer_callback.py": HANDLER,
        "lineside/__init__.py": "",
        "lineside/emitter/__init__.py": CALLBACK,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def run(packages: Path, body: str, *options: str, **env: str) -> tuple[str, str]:
    """Output and errors of a Python with the injection."""
    done = subprocess.run(
        [sys.executable, *options, "-c", body],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(INJECT_FOLDER), str(packages)]),
            **env,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    return done.stdout, done.stderr


SHOW = (
    "from transformers.trainer_callback import CallbackHandler as C\n"
    "def names(handler): return [type(c).__name__ for c in handler.callbacks]\n"
)


def test_every_handler_gets_the_callback_last(packages: Path) -> None:
    body = SHOW + "print(names(C([dict])), names(C([], model=3)), C([], 4).model)"
    assert run(packages, body) == ("['dict', 'LinesideCallback'] ['LinesideCallback'] 4\n", "")


def test_a_script_with_a_callback_of_its_own_keeps_it(packages: Path) -> None:
    body = SHOW + (
        "from lineside.emitter import LinesideCallback as L\n"
        "mine = L()\n"
        "handler = C([mine]); print(names(handler), handler.callbacks[0] is mine)\n"
        "handler = C([dict]); print(handler.add_callback(mine), names(handler))\n"
        "print(handler.callbacks[1] is mine)\n"
        "handler = C([]); handler.add_callback(L); print(names(handler))\n"
        "handler.add_callback(dict); print(names(handler))\n"
    )
    assert run(packages, body)[0].splitlines() == [
        "['LinesideCallback'] True",
        "2 ['dict', 'LinesideCallback']",
        "True",
        "['LinesideCallback']",
        "['LinesideCallback', 'dict']",
    ]


def test_a_process_without_transformers_loads_nothing_of_lineside(packages: Path) -> None:
    body = "import sys; print([m for m in sys.modules if m.startswith(('lineside', 'transf'))])"
    assert run(packages, body) == ("[]\n", "")


def test_the_finder_removes_itself_after_use(packages: Path) -> None:
    body = (
        "import sys\n"
        "def ours(): return [f for f in sys.meta_path if type(f).__module__ == 'sitecustomize']\n"
        "before = len(ours()); import transformers.trainer_callback; print(before, len(ours()))"
    )
    assert run(packages, body)[0] == "1 0\n"


def test_a_hidden_sitecustomize_still_runs(packages: Path) -> None:
    (packages / "sitecustomize.py").write_text("import sys\nsys.shadowed = __file__\n")
    body = (
        SHOW
        + "import sys, sitecustomize; print(sys.shadowed == sitecustomize.__file__, names(C([])))"
    )
    assert run(packages, body) == ("True ['LinesideCallback']\n", "")


def test_a_hidden_sitecustomize_that_fails_is_reported_by_python_as_usual(
    packages: Path,
) -> None:
    (packages / "sitecustomize.py").write_text("raise RuntimeError('the site is broken')\n")
    output, errors = run(packages, SHOW + "print(names(C([])))")
    assert output == "['LinesideCallback']\n"
    assert "the site is broken" in errors


def test_a_python_without_lineside_trains_on_with_one_message(packages: Path) -> None:
    (packages / "lineside/emitter/__init__.py").write_text("import no_such_module\n")
    output, errors = run(packages, SHOW + "print(names(C([dict])), names(C([])))")
    assert output == "['dict'] []\n"
    assert errors.count("\n") == 1
    assert errors.startswith(f"lineside: {sys.executable} cannot import it")
    assert run(packages, SHOW + "print(names(C([])))", LOCAL_RANK="1") == ("[]\n", "")


def test_an_unknown_transformers_trains_on(packages: Path) -> None:
    (packages / "transformers/trainer_callback.py").write_text("class Other: pass\n")
    body = "from transformers.trainer_callback import Other; print(Other().__class__.__name__)"
    output, errors = run(packages, body)
    assert output == "Other\n"
    assert errors.count("\n") == 1
    assert "this run is not recorded" in errors


def test_a_script_without_transformers_installed_sees_the_usual_error(packages: Path) -> None:
    (packages / "transformers/trainer_callback.py").unlink()
    body = (
        "try:\n    import transformers.trainer_callback\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert run(packages, body) == ("No module named 'transformers.trainer_callback'\n", "")


@pytest.mark.parametrize("option", ["-S", "-I", "-E"])
def test_options_that_skip_sitecustomize_skip_the_injection(packages: Path, option: str) -> None:
    body = "import sys; print('sitecustomize' in sys.modules and "
    body += "'inject' in str(sys.modules['sitecustomize'].__file__))"
    assert run(packages, body, option)[0] == "False\n"


def test_installing_lineside_alone_changes_nothing() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; print([m for m in sys.modules if m.startswith('lineside')])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
