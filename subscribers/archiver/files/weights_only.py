"""The files of a checkpoint that inference needs: without the state of the optimizer and the like.

``trainer_state.json`` stays: it has the metrics. What is left is whole for what it is, as a
checkpoint that was saved with ``save_only_model``; training does not resume from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lineside.store.archive.source_file import SourceFile

# Of transformers' Trainer, of accelerate's save_state and of both with FSDP.
_TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|sampler)(_\d+)?(_rank\d+)?\.(pt|bin)|optimizer_\d+/.*"
    r"|rank\d+-of-\d+-optimizer\.pt|rng_state(_\d+)?\.pth|random_states_\d+\.pkl"
)
# DeepSpeed's, with the weights in it if the Trainer did not gather them.
_DEEPSPEED = re.compile(
    r"latest|zero_to_fp32\.py|(.*/)?[^/]*(model|optim)_states\.pt|global_step\d+/.*"
)
_WEIGHTS = re.compile(r"(model|pytorch_model|adapter_model)[^/]*\.(safetensors|bin)")


def weights_only(files: Sequence[SourceFile]) -> list[SourceFile]:
    """``files`` of a checkpoint without those that only a training needs that resumes from it."""
    has_weights = any(_WEIGHTS.fullmatch(file.path) for file in files)
    return [
        file
        for file in files
        if not _TRAINING_STATE.fullmatch(file.path)
        and not (has_weights and _DEEPSPEED.fullmatch(file.path))
    ]
