"""Publishes how a Trainer's model is built, and its configuration again when that has changed."""

from __future__ import annotations

from typing import Any

from lineside.emitter.training.facts.model import config_facts, model_structure
from lineside.emitter.training.publisher import Publisher


class ModelEvents:
    """The ``model`` events of one attempt.

    They hold what is too much for ``run_start``, which each reader keeps.
    """

    def __init__(self, publisher: Publisher, model: Any, step: int, now_ns: int) -> None:
        self._publisher = publisher
        structure = model_structure(model)
        self._config_json = structure.get("config_json")
        if structure:
            publisher.emit("model", step, None, 0, structure, now_ns)

    def publish_changed(self, model: Any, step: int, epoch: float | None, now_ns: int) -> None:
        """Publish the configuration of ``model`` if it is another one than before.

        The first ``save_pretrained`` changes it, for example.
        """
        facts = config_facts(model)
        if facts.get("config_json", self._config_json) != self._config_json:
            self._config_json = facts["config_json"]
            self._publisher.emit("model", step, epoch, 0, facts, now_ns)
