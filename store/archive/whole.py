"""Whether a checkpoint's folder is whole, from the names, sizes and headers of its files.

It needs neither torch nor transformers. The layouts are those of transformers' Trainer
(trainer.py, ``_save_checkpoint``), accelerate's FSDP (utils/fsdp_utils.py), DeepSpeed
(runtime/engine.py, ``_get_ckpt_name``) and torch.distributed.checkpoint. A file counts as missing
only if another file, or its writer's order of writing, shows that it was to be there: a layout that
is unknown is whole.
"""

from __future__ import annotations

import os
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from lineside.store.archive.file_ends import damage, read_json

SENTINEL = "checkpoint-is-incomplete.txt"
"""transformers writes it where a save begins that a signal started, and removes it at its end."""
_STATE = "trainer_state.json"
_ARGUMENTS = "training_args.bin"
_TRAINER_FOLDER = re.compile(r"checkpoint-\d+")
_RNG_STATE = re.compile(r"rng_state_(\d+)\.pth")
# Of a checkpoint that training can resume from: written before the random states.
_RESUMABLE = re.compile(
    r"optimizer\.(pt|bin)|optimizer_\d+/.+|scheduler\.pt|latest|rng_state.*\.pth"
)
# What holds no weights.
_NO_WEIGHTS = re.compile(
    r"(.*/)?(training_args\.bin|(optimizer|scheduler|scaler)\.(pt|bin)|rng_state.*\.pth|latest"
    r"|optimizer_\d+/.*|(merges|vocab)\.txt|[^/]+\.(json|jinja|md|py|txt|model))"
)
_RANK_FILES = re.compile(r"(.*(?:pytorch_model_fsdp|optimizer)(?:_\d+)?_rank)(\d+)(\.bin)")
_XLA_FILES = re.compile(r"(.*rank)(\d+)(-of-(\d+)-.+)")
_DCP_FOLDER = re.compile(r"(pytorch_model_fsdp|optimizer)_\d+")
_DCP_SHARD = re.compile(rb"__\d+_\d+\.distcp")
_PICKLE_END = b"."
_DCP_RANK_METADATA = re.compile(r"__\d+\.metadata")
_DEEPSPEED_STATES = re.compile(
    r"(?P<prefix>(?:bf16_|fp16_)?zero_pp_rank_)(?P<rank>\d+)"
    r"(?P<rest>_mp_rank_(?P<slice>\d+)_(?:model|optim)_states\.pt)"
)
_INTEGERS = frozenset({"BININT", "BININT1", "BININT2"})
_AROUND_INTEGERS = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE", "EMPTY_LIST", "MARK"})
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error)
_DEEPSPEED_MODEL = re.compile(r"(mp_rank_)(\d+)(_model_states\.pt)")


def missing_files(folder: Path, world_size: int) -> list[str]:
    """What ``folder`` lacks to be a whole checkpoint: files, each with what is wrong in brackets.

    Empty if it is whole. ``world_size`` is the number of processes that trained; 0 if unknown. Of a
    checkpoint that is a file, its end counts.

    Raises:
        OSError: the folder cannot be read.
    """
    if folder.is_file():
        what = damage(folder)
        return [] if what is None else [f"{folder.name} ({what})"]
    checkpoint = _Checkpoint(folder, world_size)
    return list(dict.fromkeys(checkpoint.faults()))


class _Checkpoint:
    def __init__(self, folder: Path, world_size: int) -> None:
        self.folder = folder
        self.world_size = world_size
        self.files: set[str] = set()
        self.folders: set[str] = set()
        root = folder.resolve(strict=True)
        for place, folders, names in os.walk(root, onerror=_raise):
            relative = Path(place).relative_to(root).as_posix()
            begin = "" if relative == "." else f"{relative}/"
            self.folders.update(begin + name for name in folders)
            self.files.update(begin + name for name in names)
        is_named_so = _TRAINER_FOLDER.fullmatch(folder.name) is not None
        self.is_trainers = _STATE in self.files or (_ARGUMENTS in self.files and is_named_so)

    def faults(self) -> Iterator[str]:
        if SENTINEL in self.files:
            yield f"{SENTINEL} (the save did not end)"
        if not self.files:
            yield "every file (the folder is empty)"
        if self.is_trainers:
            yield from self._trainer()
        yield from self._shards()
        yield from self._deepspeed()
        yield from self._rank_files()
        yield from self._distributed()
        for path in sorted(self.files):
            try:
                what = damage(self.folder / path)
            except OSError as error:
                what = error.strerror or "unreadable"
            if what is not None:
                yield f"{path} ({what})"

    def _trainer(self) -> Iterator[str]:
        if _STATE not in self.files:
            yield _STATE
        if _ARGUMENTS in self.files and all(map(_NO_WEIGHTS.fullmatch, self.files)):
            yield "the weights"
        is_resumable = any(map(_RESUMABLE.fullmatch, self.files))
        if "rng_state.pth" in self.files or not is_resumable:
            return
        ranks = [int(match[1]) for path in self.files if (match := _RNG_STATE.fullmatch(path))]
        if self.world_size <= 1 and not ranks:
            yield "rng_state.pth"
        else:
            yield from self._absent("", "rng_state_", range(self._ranks(ranks)), ".pth")

    def _shards(self) -> Iterator[str]:
        """The files that an index of weights names."""
        for path in sorted(self.files):
            if not path.endswith(".index.json"):
                continue
            index = read_json(self.folder / path)
            names = index.get("weight_map") if isinstance(index, dict) else None
            for name in sorted(set(map(str, names.values()))) if isinstance(names, dict) else ():
                shard = PurePosixPath(path).parent / name
                if shard.as_posix() not in self.files:
                    yield shard.as_posix()

    def _deepspeed(self) -> Iterator[str]:
        """The states of all ranks in the folder that ``latest`` names."""
        folders = {
            path.rpartition("/")[0]
            for path in self.files
            if _DEEPSPEED_STATES.fullmatch(_name(path)) or _DEEPSPEED_MODEL.fullmatch(_name(path))
        }
        if "latest" in self.files:
            tag = (self.folder / "latest").read_bytes().decode(errors="replace").strip()
            if tag not in folders and (tag.startswith("global_step") or not tag):
                yield f"{tag}/*_model_states.pt" if tag else "latest (empty)"
        elif self.is_trainers and any(folders):
            yield "latest"
        for folder in sorted(folders):
            begin = f"{folder}/" if folder else ""
            yield from self._deepspeed_states(
                begin, [path[len(begin) :] for path in sorted(self.files) if _in(folder, path)]
            )

    def _deepspeed_states(self, begin: str, names: list[str]) -> Iterator[str]:
        slices = [int(match[2]) for name in names if (match := _DEEPSPEED_MODEL.fullmatch(name))]
        yield from self._absent(begin, "mp_rank_", _up_to(slices), "_model_states.pt", width=2)
        states = [match for name in names if (match := _DEEPSPEED_STATES.fullmatch(name))]
        if not states and not slices:
            return
        kinds = {(match["prefix"], match["rest"]) for match in states}
        if not slices and states and not any("_model_" in rest for _, rest in kinds):
            yield f"{begin}*_model_states.pt"
        counts: dict[str, int] = {}
        for match in states:
            number = match["slice"]
            if "_optim_" in match["rest"] and number not in counts:
                count = _partition_count(self.folder / begin / match[0])
                if count is not None:
                    counts[number] = count
        for prefix, rest in sorted(kinds):
            same = [match for match in states if (match["prefix"], match["rest"]) == (prefix, rest)]
            ranks = _up_to([int(match["rank"]) for match in same])
            count = max(len(ranks), counts.get(same[0]["slice"], 0))
            yield from self._absent(begin, prefix, range(count), rest)

    def _rank_files(self) -> Iterator[str]:
        """The files of all ranks where each writes its own: FSDP without DCP, and XLA's FSDP."""
        groups: dict[tuple[str, str], list[int]] = {}
        counts: dict[tuple[str, str], int] = {}
        for path in self.files:
            match = _RANK_FILES.fullmatch(path)
            if match:
                groups.setdefault((match[1], match[3]), []).append(int(match[2]))
            elif match := _XLA_FILES.fullmatch(path):
                groups.setdefault((match[1], match[3]), []).append(int(match[2]))
                counts[match[1], match[3]] = int(match[4])
        for (begin, end), ranks in sorted(groups.items()):
            count = counts.get((begin, end)) or self._ranks(ranks)
            yield from self._absent("", begin, range(count), end)

    def _distributed(self) -> Iterator[str]:
        """The shards that the metadata of torch.distributed.checkpoint names."""
        folders = {path.rpartition("/")[0] for path in self.files if path.endswith(".distcp")}
        if self.is_trainers:
            folders |= set(filter(_DCP_FOLDER.fullmatch, self.folders))
        for folder in sorted(folders):
            begin = f"{folder}/" if folder else ""
            names = [path[len(begin) :] for path in self.files if _in(folder, path)]
            if ".metadata" in names:
                metadata = [".metadata"]
            else:  # each rank writes its own
                metadata = sorted(filter(_DCP_RANK_METADATA.fullmatch, names))
            if not metadata:
                yield f"{begin}.metadata"
            for name in metadata:
                data = (self.folder / begin / name).read_bytes()
                if not data.endswith(_PICKLE_END):
                    yield f"{begin}{name} (cut short, {len(data):,} bytes)"
                for shard in sorted({found.decode() for found in _DCP_SHARD.findall(data)}):
                    if begin + shard not in self.files:
                        yield begin + shard

    def _ranks(self, found: list[int]) -> int:
        return max(self.world_size, len(_up_to(found)))

    def _absent(
        self, folder: str, begin: str, numbers: Iterable[int], end: str, width: int = 1
    ) -> Iterator[str]:
        for number in numbers:
            path = f"{folder}{begin}{number:0{width}}{end}"
            if path not in self.files:
                yield path


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _in(folder: str, path: str) -> bool:
    return path.rpartition("/")[0] == folder


def _up_to(numbers: list[int]) -> range:
    return range(max(numbers, default=-1) + 1)


def _raise(error: OSError) -> None:
    raise error


def _partition_count(file: Path) -> int | None:
    """The number of ranks that share the optimizer states of which ``file`` is one."""
    try:
        with zipfile.ZipFile(file) as opened:
            name = next(name for name in opened.namelist() if name.endswith("/data.pkl"))
            _, key, rest = opened.read(name).partition(b"partition_count")
        counts: list[int] = []
        # The value after the key: a number, or a list of numbers.
        for opcode, argument, _ in pickletools.genops(rest) if key else ():
            if opcode.name in _INTEGERS:
                counts.append(argument or 0)
            elif opcode.name not in _AROUND_INTEGERS:
                break
    except (OSError, EOFError, ValueError, RuntimeError, StopIteration, *_ZIP_ERRORS):
        return None  # cut short, or of another form
    return max(counts, default=None)
