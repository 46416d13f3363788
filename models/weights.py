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
"""Where people put weights. Where several are there, the first of these is read: weights before their averages."""

TOP_LEVEL = "top level"
"""The key of weights that lie in no mapping of their own."""

WRAPPERS = ("module", "_orig_mod")
"""Parts of names that ``DistributedDataParallel``, averages and ``torch.compile`` add, at any place."""

HOLDERS = ("model", "net", "network", "ema_model", "student", "backbone", "encoder")
"""Attributes by which a training module may hold the network: dropped where every name begins with it."""

IGNORED = ("n_averaged", "total_ops", "total_params")
"""The last parts of names of counters: of weight averaging, and of thop, which counts operations."""

STEM = "prologue.0.weight"
"""The tensor by which a SpikingResformer's weights are known."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

DEPTH = 2
"""Mappings around the weights, such as ``ema`` and ``module``."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one network.

    Attributes:
        state: each tensor by its name in an unwrapped network.
        key: the keys that lead to them, such as ``model`` or ``ema.module``; ``TOP_LEVEL`` where none does.
        notes: what was chosen, ignored or is to be known, a sentence each.
    """

    state: dict[str, torch.Tensor]
    key: str
    notes: tuple[str, ...]


def find_weights(
    content: object, key: str | None = None, *, stems: Sequence[str] = (STEM,), whose: str = "SpikingResformer"
) -> Weights:
    """Choose a network's tensors from a file's content.

    Where several mappings hold such a network, the first by the order of ``KEYS`` is read, and a note says so.

    Args:
        content: what the file holds.
        key: which of them to read instead.
        stems: names of tensors, by any of which a network's weights are known.
        whose: what such a network is called.

    Raises:
        FileFormatError: there are none, none of that key, or something else than tensors among them.
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
    else:  # so that the error tells what is wrong with the likeliest one
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
    """Each mapping that holds a stem's tensor, by the keys that lead to it."""
    ends = tuple(f".{_bare(stem)}" for stem in stems)
    if any(isinstance(name, str) and f".{_bare(name)}".endswith(ends) for name in content):
        yield path or TOP_LEVEL, content
    for key, value in content.items() if depth else ():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _candidates(value, f"{path}.{key}" if path else key, depth - 1, stems)


def _rank(key: str) -> int:
    """The place of a key among ``KEYS``; what they do not list comes last, in the file's order."""
    first = key.partition(".")[0]
    return -1 if key == TOP_LEVEL else KEYS.index(first) if first in KEYS else len(KEYS)


def _bare(name: str) -> str:
    """A tensor's name without what wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _tensors(chosen: Mapping[object, object], notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors by bare names, counters left out."""
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
        FileFormatError: names the tensor.
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
        # of 64 bits, too, values that 32 do not hold would overflow
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
    """A warning where weights have only 16 bits, a sentence; nothing where none do."""
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
