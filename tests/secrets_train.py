"""A training that publishes a secret in every place: ``secrets_train.py VALUES [ARGUMENT...]``.

``VALUES`` is a file of one JSON list of values for each place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lineside.emitter import start_run

places = json.loads(Path(sys.argv[1]).read_text())
config = {f"setting {n}": value for n, value in enumerate(places["config"])}
with start_run(
    places["name"][0], project=places["name"][1], run_id="planted", config=config
) as run:
    for step, value in enumerate(places["log"]):
        run.log(
            {"sample": value, "loss": 0.5, "num_tokens": 5, "eval_token_accuracy": 0.5}, step=step
        )
    for value in places["log_names"]:
        if isinstance(value, str):
            run.log({value: 1.0, "loss": 0.5})
    for value in places["event"]:
        run.event("checked", value if isinstance(value, dict) else {"result": value})
    for value in places["exception"]:
        if isinstance(value, str):
            run.finish(ValueError(f"cannot use\n{value}"))
