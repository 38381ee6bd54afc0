"""A training whose times are measured: ``python -m benchmarks.trackers.training PLAN``.

``PLAN`` is JSON: ``callback``, the class path of one that runs in this process, or null;
``lineside``; ``report_to``; ``steps``; ``logging_steps``; ``save_steps``, 0 for no checkpoint;
``output``. Prints one line of JSON when
training is over. Its times are of the clock that all processes share, so that the parent knows what
passed before the first step and after the last one.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

TRACKERS = ("tensorboard", "mlflow", "trackio", "wandb")
LAYERS, WIDTH, TOKENS, BATCH = 2, 64, 32, 4  # a step takes some milliseconds


def main() -> None:
    plan = json.loads(sys.argv[1])
    if plan["callback"] != "transformers.integrations.CometCallback":
        sys.modules["comet_ml"] = None  # type: ignore[assignment]  # transformers imports it

    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Steps(TrainerCallback):  # type: ignore[misc]
        """Keeps the time at which each step begins, and at which the last one ended."""

        def __init__(self) -> None:
            self.times: list[int] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.times.append(time.monotonic_ns())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.monotonic_ns())

    torch.set_num_threads(1)
    steps = Steps()
    callbacks: list[Any] = [steps]
    on_log: list[int] = []
    if plan["lineside"]:
        callbacks.append(import_module("lineside.emitter").LinesideCallback())
    if plan["callback"]:
        module, _, name = plan["callback"].rpartition(".")
        callbacks.append(getattr(import_module(module), name)())
    if len(callbacks) > 1:
        _time_on_log(callbacks[1], on_log)
    config = GPT2Config(vocab_size=128, n_positions=TOKENS, n_embd=WIDTH, n_layer=LAYERS, n_head=4)
    config.loss_type = "ForCausalLM"
    row = {"input_ids": torch.arange(TOKENS), "labels": torch.arange(TOKENS)}
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=plan["output"],
            per_device_train_batch_size=BATCH,
            max_steps=plan["steps"],
            logging_steps=plan["logging_steps"],
            save_strategy="steps" if plan["save_steps"] else "no",
            save_steps=plan["save_steps"] or 1,
            save_total_limit=1,
            report_to=plan["report_to"],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[row] * BATCH,
        callbacks=callbacks,
    )
    trainer.remove_callback(import_module("transformers").PrinterCallback)
    trainer.train()
    imported = [name for name in TRACKERS if sys.modules.get(name)]
    found = {"steps": steps.times, "on_log": on_log, "imported": imported}
    print(json.dumps(found), flush=True)


def _time_on_log(callback: Any, times: list[int]) -> None:
    """Keep how many nanoseconds each ``on_log`` of ``callback`` takes."""
    on_log = callback.on_log

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter_ns()
        try:
            return on_log(*args, **kwargs)
        finally:
            times.append(time.perf_counter_ns() - started)

    callback.on_log = timed


if __name__ == "__main__":
    main()
