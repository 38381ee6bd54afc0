"""A script with ``report_to="all"``, unchanged: its trackers in its process, taken over, or none.

Three trackers are installed for the script: a folder of links hides the others.
"""

from __future__ import annotations

import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.trackers.hosting import Hosting
from benchmarks.trackers.runs import Times, measure_command, median, ratios, training
from benchmarks.trackers.stock import MODULES, environment

STEPS = 1_500  # longer than the trackers' processes take to start
LOGGING_STEPS = 10
INSTALLED = ("tensorboard", "mlflow", "trackio")
HIDDEN = {*MODULES.values(), "neptune", "azureml", "dagshub", "flytekit"}
NOTE = f"""\
The same script with `report_to="all"`, where {", ".join(INSTALLED)} are installed, run by `lineside
run`, for {STEPS:,} steps of which every {LOGGING_STEPS}th logs. The three ways take turns; ratios
are of one turn, to the training without a tracker. In the first half of the steps the trackers'
processes start, on the same cores and with a lower priority."""
INSIDE = "in the training process"
WAYS = {
    "without trackers": ("run", "none"),
    "`--take-over`": ("run --take-over", "all"),
    INSIDE: ("run", "all"),
}


def measure(rounds: int) -> str:
    """The table; each round trains once in each way."""
    times: dict[str, list[Times]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made)
        python = _python_with(INSTALLED, folder / "venv")
        variables = environment(folder)
        with Hosting(folder / "home", variables) as hosting:
            for _ in range(rounds):
                for way, (run, report_to) in WAYS.items():
                    found = times[way]
                    env = {**hosting.environment, "LINESIDE_RUN_ID": f"{len(found)}-{run[-4:]}"}
                    command = [python, "-m", "lineside.cli", *run.split(), "--", python]
                    command += training(
                        folder / "work",
                        report_to=report_to,
                        steps=STEPS,
                        logging_steps=LOGGING_STEPS,
                    )
                    found.append(measure_command(command, folder / "work", env))
                    if bool(found[-1].imported) != (way == INSIDE):
                        raise RuntimeError(f"{way}: the training imported {found[-1].imported}")
                    if "take-over" in run:
                        hosting.wait_until_delivered(env["LINESIDE_RUN_ID"], *INSTALLED)
    none = times["without trackers"]
    lines = [
        "| trackers | set-up, s | to none | step, ms | to none | second half, to none | end, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, found in times.items():
        lines.append(
            f"| {way} | {median(found, 'set_up'):.1f} | {ratios(found, none, 'set_up')} "
            f"| {median(found, 'step'):.1f} | {ratios(found, none, 'step')} "
            f"| {ratios(found, none, 'late_step')} "
            f"| {median(found, 'close'):.1f} |"
        )
    return "\n".join(lines)


def _python_with(trackers: tuple[str, ...], folder: Path) -> str:
    """The Python of an environment with this one's packages, of the trackers only ``trackers``."""
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    hidden = HIDDEN - {MODULES[name] for name in trackers}
    for source in (Path(one) for one in sys.path if one.endswith("site-packages")):
        for entry in source.iterdir():
            is_ours = entry.suffix != ".pth" or "lineside" in entry.name
            if is_ours and entry.name not in hidden and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")
