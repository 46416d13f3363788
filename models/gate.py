"""A check of a pickled checkpoint that runs and imports nothing: what it would call, and whether its tensors fit.

PyTorch's own restricted reader refuses code, but believes the sizes that a file declares. So each pickle is first
walked here by a stack machine. The machine knows only operations that PyTorch's reader knows, and a call on it only
notes what the call would make. A file that passes calls nothing but what ``CALLS`` lists, and its tensors lie inside
their storages.
"""

import io
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from resformer.errors import FileFormatError
from resformer.models.limits import (
    DENSE_KEYS,
    LONGEST_NAME,
    MOST_AXES,
    MOST_KEYS,
    MOST_OPERATIONS,
    MOST_TUPLE_ITEMS,
    allowed,
    quote,
    require_within,
)

RESAVE = "load it with the code that made it, and save torch.save(model.state_dict(), 'weights.pt')"

TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "torch._utils._rebuild_tensor": "dense",
        "torch._utils._rebuild_tensor_v2": "dense",
        "torch._utils._rebuild_tensor_v3": "dense",
        "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
        "torch._utils._rebuild_qtensor": "a quantized tensor",
        "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without data (of the device 'meta')",
        "torch._utils._rebuild_nested_tensor": "a nested tensor",
        "torch._utils._rebuild_wrapper_subclass": "a tensor of a type of its own",
        "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of a foreign device",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of a foreign device",
        "torch._tensor._rebuild_from_type_v2": "a tensor with attributes of its own",
    }
)
"""The functions that make tensors, each with the kind of tensor that it makes; only ``dense`` ones are accepted."""

PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
MAPPINGS = ("collections.OrderedDict", "collections.Counter", "collections.defaultdict")
PLAIN = ("torch.Size", "torch.device", "torch.serialization._get_layout", "builtins.set", "builtins.complex")
TEXT = "_codecs.encode"
NAMES = re.compile(r"torch\.(\w+Storage|storage\.(Untyped|Typed)Storage|[a-z]+\d*\w*)")
"""Types of storages, types of elements and kinds of quantization: a pickle may name them, but not call them."""

ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8", "utf8")
"""The encodings allowed for bytes in a pickle; some of Python's others take time that grows with the square of the
length."""


MEMO_SLACK = 256
"""How far beyond twice the number of stored values an index of the memo may be; see ``_put``."""


class Inert:
    """A stand-in for an object that weights do not need: it takes any arguments, keeps nothing and does nothing."""

    def __init__(self, *args: object) -> None:
        del args

    def __new__(cls, *args: object) -> "Inert":
        """Make a stand-in from any arguments."""
        del args
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def _named(made: Any, name: str) -> Any:
    """Give a stand-in the name that pickles use for the object that it replaces."""
    made.__module__, _, made.__qualname__ = name.rpartition(".")
    made.__name__ = made.__qualname__
    return made


class _Dtype(Inert):
    """The stand-in for the type of a NumPy scalar; it keeps the type's name, such as ``f8``."""

    def __init__(self, *args: object) -> None:
        self.text = args[0] if args and isinstance(args[0], str) else ""


def _scalar(name: str) -> Callable[..., object]:
    """Return a stand-in for NumPy's function that makes scalars; the stand-in makes plain Python numbers."""
    import numpy as np

    def scalar(dtype: object, data: object = b"") -> object:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            return Inert()
        if not re.fullmatch(r"[biuf][1248]", dtype.text) or dtype.text == "f1" or len(data) != int(dtype.text[1]):
            return Inert()
        return np.frombuffer(data, f"<{dtype.text}")[0].item()

    return _named(scalar, name)  # type: ignore[no-any-return]


def _dict(name: str) -> Callable[..., object]:
    def make(*args: object) -> dict[object, object]:
        del args
        return {}

    return _named(make, name)  # type: ignore[no-any-return]


def _array(name: str) -> Callable[..., object]:
    def make(*args: object) -> object:
        del args
        return STAND_INS["numpy.ndarray"]()

    return _named(make, name)  # type: ignore[no-any-return]


STAND_INS: Mapping[str, Callable[..., object]] = MappingProxyType(
    {
        **{
            name: _named(type("Inert", (Inert,), {}), name)
            for name in (
                "argparse.Namespace",
                "types.SimpleNamespace",
                "torch.torch_version.TorchVersion",
                "numpy.ndarray",
                *(f"datetime.{each}" for each in ("datetime", "date", "time", "timedelta", "timezone")),
                *(
                    f"{module}.{pure}{system}Path"
                    for module in ("pathlib", "pathlib._local")
                    for pure, system in (("", "Posix"), ("", "Windows"), ("Pure", "Posix"), ("Pure", "Windows"))
                ),
                "pathlib.Path",
                *(f"builtins.{each}" for each in ("list", "dict", "int", "float", "str", "bool")),
            )
        },
        "numpy.dtype": _named(type("Dtype", (_Dtype,), {}), "numpy.dtype"),
        **{f"numpy.{core}.multiarray.scalar": _scalar(f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")},
        **{
            f"numpy.{core}.multiarray._reconstruct": _array(f"numpy.{core}.multiarray._reconstruct")
            for core in ("core", "_core")
        },
        "collections.defaultdict": _dict("collections.defaultdict"),
    }
)
"""Objects that people keep beside weights, by name, with what makes the stand-in for each. No code that a file chooses
runs."""

CALLS = frozenset((*TENSORS, *PARAMETERS, *MAPPINGS, *PLAIN, TEXT, *STAND_INS))
"""Everything that a file may call."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    """Bytes that a file holds: a number of elements, and the bytes of each (1 in an untyped storage)."""

    key: str
    elements: int
    itemsize: int


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor, of which only the fault is kept; None if it has none."""

    fault: str | None


class _Tuple(tuple[object, ...]):
    """A tuple that knows its size: itself and its items, including the items of all tuples inside."""

    items: int


def look(stream: io.BytesIO) -> Mapping[str, int]:
    """Walk one pickle to its end.

    Returns:
        The number of bytes of each storage that the pickle refers to, by the storage's key.

    Raises:
        FileFormatError: the pickle calls what weights do not need, is damaged, or holds a tensor that is not dense or
            lies outside its storage; the message names the tensor.
    """
    machine = _Machine()
    try:
        root = machine.run(stream)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged pickle pops from empty stacks, adds to numbers …
        raise FileFormatError(
            f"truncated or damaged, or no PyTorch checkpoint ({type(error).__name__}); copy it again, or {RESAVE}"
        ) from error
    for path, tensor in _tensors(root):
        if tensor.fault:
            raise FileFormatError(f"{quote(path)} {tensor.fault}; {RESAVE}")
    return machine.storages


def _tensors(root: object) -> Iterator[tuple[str, _Tensor]]:
    """Each tensor once, with the keys that lead to it."""
    todo, seen = [("", root)], {id(root)}
    while todo:
        path, value = todo.pop()
        if isinstance(value, _Tensor):
            yield path or "the file's value", value
            continue
        pairs: Iterator[tuple[object, object]]
        if isinstance(value, dict):
            pairs = iter(value.items())
        elif isinstance(value, list | tuple):
            pairs = iter(enumerate(value))
        else:
            continue
        for key, item in pairs:
            if id(item) not in seen:
                seen.add(id(item))
                name = key if isinstance(key, str) else quote(key)
                # a path that is too long to print loses its outermost keys
                todo.append((f"{path}.{name}"[-200:].removeprefix("."), item))


class _Machine:
    """The stack machine for one pickle; it knows operations of protocol 2, which ``torch.save`` writes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, int] = {}
        self.keys = 0
        self.copied = 0

    def run(self, stream: io.BytesIO) -> object:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            require_within(count, MOST_OPERATIONS, "takes {} pickle operations or more")
            if operation.name == "STOP":
                return self.stack.pop()
            step = STEPS.get(operation.name)
            if step is None:
                raise FileFormatError(
                    f"refused: it is damaged, or would execute code (pickle operation {operation.name}), which tensors "
                    f"do not need; if you trust it, {RESAVE}"
                )
            step(self, argument)
        raise AssertionError("genops ends with STOP or raises")

    def marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_tuple(self, items: Sequence[object]) -> None:
        made = _Tuple(items)
        made.items = 1 + sum(item.items if isinstance(item, _Tuple) else 1 for item in items)
        if made.items > allowed(MOST_TUPLE_ITEMS):
            raise FileFormatError(f"a tuple of more than {allowed(MOST_TUPLE_ITEMS)} items, the limit; {RESAVE}")
        self.push(made)

    def push_tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.push_tuple(items[::-1])

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.check_key(key)
            target[key] = value

    def check_key(self, key: object) -> None:
        """Refuse a key that takes long to look up or to print, since a file may use one key again and again."""
        if isinstance(key, str):
            require_within(len(key), LONGEST_NAME, f"{quote(key)}: a name of {{}} characters")
        elif not (isinstance(key, int) and 0 <= key < DENSE_KEYS):
            self.keys += key.items if isinstance(key, _Tuple) else 1
            require_within(self.keys, MOST_KEYS, "its mappings have {} keys or more that are no text")

    def check_given(self, arguments: Sequence[Any], *, pairs: bool) -> None:
        """Refuse arguments from which a container takes long to make; a file may pass them again and again.

        Args:
            arguments: The arguments of the call.
            pairs: Whether their items are pairs of a key and a value, and not keys.
        """
        for given in arguments:
            if not isinstance(given, list | tuple | dict):
                continue
            self.copied += len(given)
            require_within(self.copied, MOST_OPERATIONS, "it makes containers of {} items or more")
            for item in given:
                self.check_key(item[0] if pairs and isinstance(item, list | tuple) and item else item)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items((key, value))

    def append(self) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def build(self) -> None:
        """Take an object's state off the stack and drop it: nothing here reads it."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | Inert):
            raise FileFormatError(f"refused: it gives an object a state of its own, as weights do not; {RESAVE}")

    def find(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
        name = f"{module}.{attribute}"
        if name not in CALLS and not NAMES.fullmatch(name):
            shown = name.removeprefix("builtins.")
            raise FileFormatError(
                f"refused: loading it would execute code ({quote(shown)}), which tensors do not need; if you trust it, "
                f"{RESAVE}"
            )
        self.push(_Global(name))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or function.name not in CALLS:
            what = function.name if isinstance(function, _Global) else "a value"
            raise FileFormatError(f"refused: it calls {quote(what)}, which tensors do not need; {RESAVE}")
        name = function.name
        if name in TENSORS:
            self.push(_Tensor(_fault(TENSORS[name], arguments)))
        elif name in PARAMETERS:
            if not isinstance(arguments[0], _Tensor):
                raise FileFormatError(f"a parameter without a tensor; {RESAVE}")
            self.push(arguments[0])
        elif name in MAPPINGS:
            self.check_given(arguments, pairs=name == MAPPINGS[0])
            given = arguments[0] if arguments and name == MAPPINGS[0] else ()
            self.push(OrderedDict(given))
        elif name == TEXT:
            if not isinstance(arguments[0], str) or arguments[1] not in ENCODINGS:
                raise FileFormatError(f"bytes of the encoding {quote(arguments[1])}; {RESAVE}")
            self.push(Inert())
        else:
            if name in PLAIN:
                self.check_given(arguments, pairs=False)
            self.push(Inert())

    def refer(self) -> None:
        """Push the storage that ``('storage', type, key, device, elements)`` on the stack describes.

        Raises:
            FileFormatError: The storage is part of another, as PyTorch before 0.4 wrote it, or its key, type or size is
                wrong.
        """
        _, kind, key, _, elements, *part = self.stack.pop()
        if any(each is not None for each in part):
            raise FileFormatError(f"storage {quote(key)} is a part of another, as in PyTorch before 0.4; {RESAVE}")
        if not isinstance(key, str) or not isinstance(elements, int) or elements < 0:
            raise FileFormatError(f"storage {quote(key)} of {quote(elements)} elements; {RESAVE}")
        itemsize = _itemsize(kind.name)
        if self.storages.setdefault(key, elements * itemsize) != elements * itemsize:
            raise FileFormatError(f"storage {quote(key)} has two sizes; {RESAVE}")
        self.push(_Storage(key, elements, itemsize))


def _itemsize(kind: str) -> int:
    """The size of an element of a storage type, such as ``torch.FloatStorage``, in bytes."""
    if kind == "torch.storage.UntypedStorage":
        return 1
    storage = getattr(torch, kind.removeprefix("torch."), None)
    dtype = getattr(storage, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        raise FileFormatError(f"a storage of the type {quote(kind)}; {RESAVE}")
    return dtype.itemsize


def _fault(kind: str, arguments: Sequence[Any]) -> str | None:
    """What is wrong with a tensor, as a predicate that follows its name; None if nothing is."""
    if kind != "dense":
        return f"is {kind}, where weights are dense"
    storage, offset, size, stride, *rest = arguments
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        return "is a tensor of another layout than PyTorch writes"
    if len(size) > MOST_AXES:
        return f"is a tensor of {len(size)} axes, the limit is {MOST_AXES}"
    if len(size) != len(stride) or not all(type(each) is int and each >= 0 for each in (offset, *size, *stride)):
        return "is a tensor with impossible sizes or strides"
    available = storage.elements
    if storage.itemsize == 1 and len(rest) > 2 and isinstance(rest[2], _Global):  # untyped: rest[2] is the type
        dtype = getattr(torch, rest[2].name.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            return f"is a tensor of the type {quote(rest[2].name)}"
        available //= dtype.itemsize
    if 0 in size:
        return None
    last = offset + sum((edge - 1) * step for edge, step in zip(size, stride, strict=True))
    if last >= available:
        return f"has shape {quote(str(tuple(size)))}, but its storage ends after {available} elements"
    return overlap(size, stride)


def overlap(size: Sequence[int], stride: Sequence[int]) -> str | None:
    """Say that elements of a tensor share memory, so that it is larger than its storage; None where they do not.

    Args:
        size: the length of each axis, at least 1.
        stride: the distance between neighbours along each axis, in elements.
    """
    reach = 1
    for step, edge in sorted(zip(stride, size, strict=True)):
        if edge > 1:
            if step < reach:
                return f"has shape {quote(str(tuple(size)))}, whose elements share memory (strides {tuple(stride)})"
            reach += step * (edge - 1)
    return None


Step = Callable[[_Machine, Any], None]


def _get(machine: _Machine, index: Any) -> None:
    machine.push(machine.memo[index])


def _put(machine: _Machine, index: Any) -> None:
    """Store a value in the memo.

    Picklers number the values one after the other. Other numbers are refused, because they can be chosen so that all of
    them collide as keys of the memo.
    """
    if index > 2 * len(machine.memo) + MEMO_SLACK:
        raise FileFormatError(f"damaged, or made by no pickler: it keeps a value as number {quote(index)}; {RESAVE}")
    machine.memo[index] = machine.stack[-1]


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "PROTO": lambda _machine, _version: None,
        "MARK": lambda machine, _: machine.mark(),
        "NONE": lambda machine, _: machine.push(None),
        "NEWTRUE": lambda machine, _: machine.push(True),
        "NEWFALSE": lambda machine, _: machine.push(False),
        **dict.fromkeys(
            ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), _Machine.push
        ),
        "EMPTY_TUPLE": lambda machine, _: machine.push_tuple(()),
        "TUPLE": lambda machine, _: machine.push_tuple(machine.marked()),
        "TUPLE1": lambda machine, _: machine.push_tuple_of(1),
        "TUPLE2": lambda machine, _: machine.push_tuple_of(2),
        "TUPLE3": lambda machine, _: machine.push_tuple_of(3),
        "EMPTY_LIST": lambda machine, _: machine.push([]),
        "EMPTY_DICT": lambda machine, _: machine.push({}),
        "APPEND": lambda machine, _: machine.append(),
        "APPENDS": lambda machine, _: (lambda items: machine.stack[-1].extend(items))(machine.marked()),
        "SETITEM": lambda machine, _: machine.set_item(),
        "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
        "GLOBAL": lambda machine, name: machine.find(name),
        "REDUCE": lambda machine, _: machine.call(),
        "NEWOBJ": lambda machine, _: machine.call(),
        "BUILD": lambda machine, _: machine.build(),
        "BINPERSID": lambda machine, _: machine.refer(),
        "BINGET": _get,
        "LONG_BINGET": _get,
        "BINPUT": _put,
        "LONG_BINPUT": _put,
    }
)
"""What each pickle operation does here. PyTorch's reader knows these, and in newer versions ``EMPTY_SET``, which
protocol 2 does not have."""
