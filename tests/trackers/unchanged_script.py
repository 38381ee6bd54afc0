"""A training script without Lineside: ``unchanged_script.py OUTPUT TRACKER...``.

Prints what it imported of trackers, and how long its Trainer took to make, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from transformers.integrations import get_available_reporting_integrations

from tests.support import tiny_trainer

PACKAGES = (
    *("wandb", "mlflow", "tensorboard", "trackio", "comet_ml", "swanlab", "dvclive", "clearml"),
    *("neptune", "codecarbon", "azureml", "dagshub", "flytekit", "kubeflow"),
)

if __name__ == "__main__":
    output, *trackers = sys.argv[1:]
    began = time.monotonic()
    trainer = tiny_trainer.trainer(
        Path(output), report_to=trackers, eval_strategy="steps", eval_steps=2, run_name="twin run"
    )
    made = time.monotonic()
    trainer.train()
    facts = {
        "available": sorted(get_available_reporting_integrations()),
        "imported": [name for name in PACKAGES if name in sys.modules],
        "setup": made - began,
    }
    print(f"\nFACTS {json.dumps(facts)}")
