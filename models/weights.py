"""The weights in a checkpoint's content: which mapping holds them, under which names, and whether they are sound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from resformer.errors import FileFormatError
from resformer.models.gate import RESAVE, overlap
from resformer.models.limits import quote

StateDict = Mapping[str, torch.Tensor]

KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
)
"""Keys under which people store weights. If a file has several, the first in this order is read: weights come before
their averages."""

TOP_LEVEL = "top level"
"""What stands for a key where weights lie in no mapping of their own."""

WRAPPERS = ("module", "_orig_mod")
"""Parts that ``DistributedDataParallel``, averaged models and ``torch.compile`` add to tensors' names, at any place."""

HOLDERS = ("model", "net", "network", "ema_model", "student", "backbone", "encoder")
"""Attributes in which a training module may hold the network; one is removed from the names if all begin with it."""

IGNORED = ("n_averaged", "total_ops", "total_params")
"""The last parts of the names of counters: that of weight averaging, and those of thop, which counts operations."""

STEM = "prologue.0.weight"
"""The tensor by which a SpikingResformer's weights are recognised."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

DEPTH = 2
"""The most mappings that may lie around the weights, such as ``ema`` and ``module``."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one network.

    Attributes:
        state: each tensor by its name in an unwrapped network.
        key: the keys that lead to the tensors, such as ``model`` or ``ema.module``; ``TOP_LEVEL`` if there are none.
        notes: what was chosen or ignored, a sentence each.
    """

    state: dict[str, torch.Tensor]
    key: str
    notes: tuple[str, ...]


def find_weights(
    content: object, key: str | None = None, *, stems: Sequence[str] = (STEM,), whose: str = "SpikingResformer"
) -> Weights:
    """Choose a network's tensors from a file's content.

    If several mappings hold such a network, the first in the order of ``KEYS`` is read, and a note says so.

    Args:
        content: what the file holds.
        key: the key of the mapping to read instead of the first.
        stems: names of tensors; a mapping that has any of them holds a network's weights.
        whose: what messages call such a network.

    Raises:
        FileFormatError: the content is no state dict, has no weights under ``key``, or holds something other than dense
            tensors among them.
    """
    if not isinstance(content, Mapping):
        raise FileFormatError(f"holds no state dict but a value of type {type(content).__name__}; {RESAVE}")
    found = dict(sorted(_candidates(content, "", DEPTH, stems), key=lambda item: _rank(item[0])))
    if key is not None and key not in found:
        there = ", ".join(quote(each) for each in list(found)[:8]) or "none"
        raise FileFormatError(f"no {whose}'s weights under {quote(key)!r}; there are weights under: {there}")
    notes: list[str] = []
    if key is None:
        key = next(iter(found), None)
        if key is not None and len(found) > 1:
            others = ", ".join(quote(each) for each in list(found)[1:8])
            notes.append(f"weights: read from {quote(key)!r}; the file also holds {others} (choose by the weights key)")
        elif key not in (None, TOP_LEVEL, "model"):
            notes.append(f"weights: read from {quote(key)!r}")
    if key is not None:
        chosen = found[key]
    else:  # read the likeliest mapping, so that the error says what is wrong with it
        key = next((each for each in KEYS if isinstance(content.get(each), Mapping)), TOP_LEVEL)
        chosen = content if key == TOP_LEVEL else content[key]
    state = _tensors(chosen, notes)
    _check_memory(state)
    # PyTorch itself fills in this counter, which old files lack and inference does not read.
    for name in [name for name in state if name.endswith(".running_var")]:
        state.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return Weights(state, key, tuple(notes))


def _candidates(
    content: Mapping[object, object], path: str, depth: int, stems: Sequence[str]
) -> Iterator[tuple[str, Mapping[object, object]]]:
    """Each mapping that has the tensor of a stem, with the keys that lead to the mapping."""
    ends = tuple(f".{_bare(stem)}" for stem in stems)
    if any(isinstance(name, str) and f".{_bare(name)}".endswith(ends) for name in content):
        yield path or TOP_LEVEL, content
    for key, value in content.items() if depth else ():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _candidates(value, f"{path}.{key}" if path else key, depth - 1, stems)


def _rank(key: str) -> int:
    """The place of a key in ``KEYS``: the top level comes first, and keys that are not listed come last."""
    first = key.partition(".")[0]
    return -1 if key == TOP_LEVEL else KEYS.index(first) if first in KEYS else len(KEYS)


def _bare(name: str) -> str:
    """A tensor's name without what wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _tensors(chosen: Mapping[object, object], notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors by their names without wrappers and holders; counters are left out, and a note says so."""
    state: dict[str, torch.Tensor] = {}
    ignored: dict[str, int] = {}
    for name, value in chosen.items():
        last = name.rpartition(".")[2] if isinstance(name, str) else ""
        if last in IGNORED:
            ignored[last] = ignored.get(last, 0) + 1
            continue
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            shown = repr(quote(name)) if isinstance(name, str) else quote(name)
            raise FileFormatError(
                f"expected a state dict, alone or as 'model', but {shown} is no tensor ({type(value).__name__}); "
                f"{RESAVE}"
            )
        bare = _bare(name)
        if bare in state:
            raise FileFormatError(f"{quote(bare)} is there twice, as {quote(name)} too; save one network's state dict")
        state[bare] = value
    if not state:
        raise FileFormatError(f"the state dict is empty; {RESAVE}")
    while (holder := next(iter(state)).partition(".")[0]) in HOLDERS and all(
        name.startswith(f"{holder}.") for name in state
    ):
        state = {name.removeprefix(f"{holder}."): tensor for name, tensor in state.items()}
    if ignored:
        notes.append("ignored: " + ", ".join(f"{count} x {name}" for name, count in ignored.items()))
    return state


def _check_memory(state: StateDict) -> None:
    """Refuse tensors that are not dense values in memory of their own.

    A file of a few bytes may declare a tensor of terabytes whose rows are all the same memory.
    """
    storages: dict[int, int] = {}
    declared = 0
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            what = f"{tensor.layout}, device {tensor.device.type}{', quantized' if tensor.is_quantized else ''}"
            raise FileFormatError(f"{quote(name)} is no dense tensor in memory ({what}); {RESAVE}")
        if tensor.numel() and (shared := overlap(tensor.shape, tensor.stride())):
            raise FileFormatError(f"{quote(name)} {shared}; {RESAVE}")
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        declared += tensor.numel() * tensor.element_size()
    if declared > sum(storages.values()):
        raise FileFormatError(f"its tensors have {declared} bytes, but share {sum(storages.values())}; {RESAVE}")


def check_values(state: StateDict) -> None:
    """Refuse tensors of other types than floating point, values that are not finite, and negative variances.

    Raises:
        FileFormatError: a tensor is not acceptable; the message names it.
    """
    for name, tensor in state.items():
        shown = quote(name)
        if name.endswith(".num_batches_tracked"):
            continue
        if tensor.dtype not in FLOATS:
            raise FileFormatError(
                f"{shown} holds {tensor.dtype}: expected floating point of 16, 32 or 64 bits; save the unquantized "
                "network"
            )
        # float64 values that float32 does not hold would overflow, so they count as infinite
        finite = tensor.isfinite()
        if tensor.dtype == torch.float64:
            finite &= tensor.abs() <= torch.finfo(torch.float32).max
        if not finite.all():
            raise FileFormatError(
                f"{shown} holds {int((~finite).sum())} NaN or infinite values of {tensor.numel()}: training diverged; "
                "use an earlier checkpoint"
            )
        if name.endswith(".running_var") and (tensor < 0).any():
            channel = int(tensor.argmin())
            raise FileFormatError(
                f"{shown}: channel {channel} has the variance {tensor[channel].item():g}, which cannot be negative; "
                "use an undamaged checkpoint"
            )


def note_half_precision(state: StateDict) -> tuple[str, ...]:
    """A warning, one sentence, if weights have only 16 bits; an empty tuple if none have."""
    types = {tensor.dtype for tensor in state.values()} & {torch.float16, torch.bfloat16}
    if not types:
        return ()
    count = sum(tensor.dtype in types for tensor in state.values())
    names = " and ".join(sorted(str(each).removeprefix("torch.") for each in types))
    warning = (
        f"warning: {count} of {len(state)} tensors are {names}; they are used as they are, so spikes may differ from "
        "those of the network that was trained in float32"
    )
    return (warning,)
