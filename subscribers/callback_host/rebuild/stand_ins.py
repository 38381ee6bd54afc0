"""In place of processing class, optimizer, scheduler and data loaders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from lineside.subscribers.callback_host.rebuild.live_objects import (
    LiveObjectNeeded,
    StandIn,
    named_class,
    names,
)


class ProcessingStandIn(StandIn):
    """A tokenizer, image processor or the like that processes nothing."""

    LIVE = names(
        "add_special_tokens add_tokens apply_chat_template batch_decode batch_encode_plus "
        "convert_ids_to_tokens convert_tokens_to_ids convert_tokens_to_string decode encode "
        "encode_plus get_vocab pad push_to_hub save_pretrained save_vocabulary tokenize"
    )

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise LiveObjectNeeded(f"{type(self).__name__}()")

    def __len__(self) -> NoReturn:
        raise LiveObjectNeeded(f"len({type(self).__name__})")

    def __bool__(self) -> bool:
        return True


class OptimizerStandIn(StandIn):
    """An optimizer whose ``param_groups`` have their settings without the parameters.

    The learning rates are those of the newest event that has any: ``log`` (the rate of the step
    that it is about), ``evaluate``, ``predict``, ``save``, or the begin or end of an epoch.
    """

    LIVE = names("add_param_group load_state_dict param_groups state state_dict step zero_grad")
    param_groups: list[ParameterGroup]  # once anything of them is known

    def set_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Take the settings of all parameter groups."""
        self.param_groups = [
            ParameterGroup(
                # A tuple, such as ``betas``, is a list on the wire.
                {name: tuple(one) if isinstance(one, list) else one for name, one in group.items()}
            )
            for group in groups
        ]

    def set_rates(self, rates: Sequence[Any]) -> None:
        """Take the learning rate of each parameter group, or the one that all of them have."""
        known = vars(self).setdefault("param_groups", [ParameterGroup() for _ in rates])
        each = [rates[0] for _ in known] if len(rates) == 1 else rates
        for group, rate in zip(known, each, strict=False):
            if rate is None:
                group.pop("lr", None)  # it is in a tensor
            else:
                group["lr"] = rate


class ParameterGroup(dict[str, Any]):
    """A group of an optimizer, as far as it is known."""

    def __missing__(self, name: str) -> NoReturn:
        raise LiveObjectNeeded(f"optimizer.param_groups[...][{name!r}]")


class SchedulerStandIn(StandIn):
    """A scheduler of the learning rate that has set those of ``optimizer``."""

    LIVE = names("base_lrs get_lr last_epoch load_state_dict state_dict step")

    def __init__(self, optimizer: OptimizerStandIn) -> None:
        self.optimizer = optimizer

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]


class LoaderStandIn(StandIn):
    """A data loader without its data."""

    LIVE = names("collate_fn batch_sampler sampler generator")

    def __init__(self, loader: Mapping[str, Any]) -> None:
        self._length = loader.get("length")
        # None, as of a loader with a batch sampler, is not sent.
        self.batch_size = loader.get("batch_size")
        if "workers" in loader:
            self.num_workers = loader["workers"]
        self.dataset = named_class(DatasetStandIn, loader.get("dataset"))(
            loader.get("dataset_length")
        )

    def __len__(self) -> int:
        return _length(self, self._length)

    def __iter__(self) -> Iterator[Any]:
        raise LiveObjectNeeded(f"the batches of {type(self).__name__}")


class DatasetStandIn(StandIn):
    """A dataset without its rows."""

    LIVE = names("filter map select shuffle take")

    def __init__(self, length: Any) -> None:
        self._length = length

    def __len__(self) -> int:
        return _length(self, self._length)

    def __iter__(self) -> Iterator[Any]:
        raise LiveObjectNeeded(f"the rows of {type(self).__name__}")

    def __getitem__(self, index: object) -> NoReturn:
        raise LiveObjectNeeded(f"the rows of {type(self).__name__}")


def optimizer_stand_ins(facts: Any) -> tuple[OptimizerStandIn, SchedulerStandIn]:
    """Optimizer and scheduler with these facts, which may be missing."""
    described = facts if isinstance(facts, Mapping) else {}
    optimizer: OptimizerStandIn = named_class(OptimizerStandIn, described.get("class"))()
    groups = described.get("groups")
    if isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
        optimizer.set_groups(groups)
    scheduler = named_class(SchedulerStandIn, described.get("scheduler_class"))
    return optimizer, scheduler(optimizer)


def processing_stand_in(facts: Mapping[str, Any]) -> Any:
    """The processing class of the run with these ``facts``; None if it has none."""
    processing = facts.get("processing")
    if not isinstance(processing, Mapping) or processing.get("class") == "NoneType":
        return None
    made = named_class(ProcessingStandIn, processing.get("class"))()
    for name, value in processing.items():
        if name != "class":
            setattr(made, name, value)
    return made


def loader_stand_in(loader: Any) -> Any:
    """The loader with these facts; None if there are none."""
    if not isinstance(loader, Mapping):
        return None
    return named_class(LoaderStandIn, loader.get("class"))(loader)


def _length(of: object, length: Any) -> int:
    if not isinstance(length, int):  # as of a loader of a stream of rows
        raise TypeError(f"object of type {type(of).__name__!r} has no len()")
    return length
