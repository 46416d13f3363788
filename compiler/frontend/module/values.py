"""The values of traced code, and the graph that grows while the operations of the code are imported one by one.

A node is named by its path in the state dict, or, if it has no parameters, after the module that it runs in. Each value
records which of its axes are time and batch, so that code which mixes samples is noticed, and how its other axes map to
those of its node (``layout``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

import nir
import torch
from torch import fx, nn

from resformer.compiler.frontend.module import remedies
from resformer.compiler.frontend.module.constants import Constants
from resformer.compiler.frontend.module.layout import BATCH, TIME, Atom, Axis, Layout, plain, whole
from resformer.compiler.frontend.module.neurons import Draft, flatten
from resformer.compiler.frontend.module.tracing import TRACED_BATCH, user_line
from resformer.compiler.ir.arrays import Shape
from resformer.errors import InputError, UnsupportedError


class Axes(Enum):
    """The axes that come before a sample's own."""

    STATIC = "N"
    """The values are the same at all steps."""
    UNREPEATED = "1, N"
    TIMED = "T, N"
    MERGED = "T * N"
    SAMPLES_FIRST = "N, T"
    SAMPLES_MERGED = "N * T"
    REDUCED = "N, over all steps"


IMAGES = (Axes.STATIC, Axes.MERGED, Axes.SAMPLES_MERGED, Axes.REDUCED)
"""The members that have one axis before a sample's own, as PyTorch's layers for images require."""


@dataclass(frozen=True)
class Value:
    """A tensor of the traced code.

    Attributes:
        node: The node whose value the tensor shows.
        shape: The shape of that node.
        layout: How the tensor's axes show the node's value.
        over_time: For a reduction over all steps, the factor by which it is a multiple of the mean, such as 1 for a
            mean and T for a sum; None: the tensor is of single steps. All that follows a network's neurons is linear,
            so the node itself still makes a value at each step.
        steps: In code that loops over time, the one step that the tensor shows, or the steps that it is the sum of;
            None: it is of all steps.
        made_by: The operation that gave the tensor its layout; None if the layout is the node's own.
    """

    node: str
    shape: Shape
    layout: Layout
    over_time: float | None = None
    steps: tuple[int, ...] | None = None
    made_by: fx.Node | None = None

    @property
    def axes(self) -> Axes | None:
        """The axes before a sample's own; None if time and samples are not in front."""
        if self.over_time is not None:
            return Axes.UNREPEATED if self.layout.axes[:1] == ((),) else Axes.REDUCED
        names = tuple("*".join(_LEADING.get(atom.dim, "") for atom in axis) for axis in self.layout.axes[:2])
        if self.layout.has(TIME):
            merged = {"T*N": Axes.MERGED, "N*T": Axes.SAMPLES_MERGED}.get(names[0])
            return merged or {"T,N": Axes.TIMED, "N,T": Axes.SAMPLES_FIRST}.get(",".join(names))
        return Axes.STATIC if names[:1] == ("N",) else Axes.UNREPEATED if names == ("", "N") else None

    @property
    def named_axes(self) -> str:
        """The tensor's axes, in words."""
        return str(self.layout) if self.axes is None else f"({self.axes.value}, ...)"

    @property
    def is_plain(self) -> bool:
        """Whether the tensor's axes behind those of time and samples are the node's own."""
        return self.axes is not None and self.layout == plain(self.lead, self.shape)

    @property
    def lead(self) -> tuple[Axis, ...]:
        """The axes before a sample's own."""
        return self.layout.axes[: LEADING_AXES[self.axes]] if self.axes is not None else ()

    def of(self, node: str, shape: Shape | None = None) -> Value:
        """The value of another node, with the same layout."""
        return replace(self, node=node, shape=self.shape if shape is None else shape)


JOINS_STEPS = frozenset(
    f"{name}.{kind}"
    for name, kind in (
        ("aten.add", "Tensor"),
        ("aten.add_", "Tensor"),
        ("aten.stack", "default"),
        ("aten.cat", "default"),
        ("resformer.neurons", "default"),
        ("resformer.written", "default"),
        ("resformer.delay", "default"),
    )
)
"""The operations that may read values of several steps, or remember values from step to step."""


def _at(steps: tuple[int, ...] | None, made: Value | tuple[Value, ...]) -> Value | tuple[Value, ...]:
    """The values that an operation made, marked as those of ``steps``."""
    if isinstance(made, tuple):
        return tuple(replace(each, steps=steps) for each in made)
    return replace(made, steps=steps)


_LEADING = {TIME: "T", BATCH: "N"}
LEADING_AXES = {
    Axes.STATIC: 1,
    Axes.UNREPEATED: 2,
    Axes.TIMED: 2,
    Axes.MERGED: 1,
    Axes.SAMPLES_FIRST: 2,
    Axes.SAMPLES_MERGED: 1,
    Axes.REDUCED: 1,
}
"""The number of axes that come before a sample's own."""


ROW_AXES = 2
"""A sample that is a row of pixels has two axes, (C, L); its node has (C, 1, L)."""


class SamplesFirstError(UnsupportedError):
    """The code reads (N, T, ...), so the module can only be one that takes samples before time."""


Importer: TypeAlias = "Callable[..., Value | tuple[Value, ...]]"
"""Imports an operation: given the tracing, the operation and its arguments, it returns what the operation makes."""


@dataclass
class Tracing:
    """A traced module whose operations are being imported into a graph.

    Attributes:
        module: The module that was traced; its parameters and buffers are read from it.
        exported: The operations of the module.
        draft: The nodes so far.
        timesteps: T, once it is known.
        importers: The function that imports each operation of PyTorch.
        whole_of: Turns a value that shows a part of a layer into the whole value of a layer that makes only this part.
        values: The values that each operation so far made.
        constants: The constants of the code, which are not values of the network.
        grids: For each node whose last dimension stands for the pixels of an image, that image's size.
        called: For each population that the code runs one step at a time, what it was given at each step.
        layouts: For each population whose values are not (T, N, ...) with the axes of its node, the layout of these
            values.
        recurrent: The containers that read what they made one step ago.
        closed: Those of these containers whose neurons have their synapses onto themselves already.
        parted: For each node whose value depended on what recurrent neurons fired one step ago, before this feedback
            became synapses of the neurons: the name of the neurons.
        stepping: The populations that a recurrent container runs one step at a time.
        alone: For each population that is given (T * N, ...), which is right for a single sample only, the message that
            refuses several samples.
        timed: Whether the example has an axis of time.
        bordered: The images into whose borders the code wrote what a normalisation makes of zeros.
    """

    module: nn.Module
    exported: torch.export.ExportedProgram
    draft: Draft
    timesteps: int | None
    importers: Mapping[str, Importer]
    whole_of: Callable[[Tracing, fx.Node, Value], Value]
    values: dict[fx.Node, Value | tuple[Value, ...]] = field(default_factory=dict)
    constants: Constants = field(default_factory=Constants)
    grids: dict[str, Shape] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    called: dict[str, list[Value]] = field(default_factory=dict)
    recurrent: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    parted: dict[str, str] = field(default_factory=dict)
    stepping: set[str] = field(default_factory=set)
    alone: dict[str, str] = field(default_factory=dict)
    bordered: set[fx.Node] = field(default_factory=set)
    timed: bool = False
    _known: dict[object, Value | tuple[Value, ...]] = field(default_factory=dict)
    _flat: dict[tuple[str, fx.Node | None], str] = field(default_factory=dict)

    def run(self, axes: Axes, shape: Shape) -> Value:
        """Import all operations, and return what the module returns."""
        signature = self.exported.graph_signature
        paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        stated = signature.inputs_to_lifted_tensor_constants
        self.timed = axes is not Axes.STATIC
        for node in self.exported.graph.nodes:
            if node.op == "placeholder" and node.name in paths:
                self.constants.tensors[node] = self._held(paths[node.name])
                self.constants.paths[node] = paths[node.name]
            elif node.op == "placeholder" and node.name in stated:
                self.constants.tensors[node] = self.exported.constants[stated[node.name]]
            elif node.op == "placeholder" and node.name in signature.user_inputs:
                source = self.draft.input
                if len(shape) == 1:
                    source = self.draft.add(f"{source}.flatten", flatten(self.draft.shape(source)), source)
                held = self.draft.shape(source)
                layout = plain(self.leading(axes), held)
                if len(shape) == ROW_AXES:
                    layout = replace(layout, axes=(*layout.axes[:-ROW_AXES], layout.axes[-1]))
                self.values[node] = Value(source, held, layout)
            elif str(node.target).startswith("aten._assert"):
                continue
            elif node.op == "call_function" and not self.constants.takes(node):
                self.values[node] = self._import(node)
            elif node.op == "output":
                return self._returned(node)
        raise AssertionError("torch.export wrote no output")

    def found_steps(self, found: int) -> None:
        """Note T as the code shows it.

        Raises:
            InputError: The example has another T, another T is asked for, or the code showed another one before.
        """
        if self.timed and self.timesteps != found:
            raise InputError(
                f"example_input: has {self.timesteps} steps, but the module runs {found}; give an example of {found} "
                "steps"
            )
        self.timesteps = same_steps(self.timesteps, found)

    def _held(self, path: str) -> torch.Tensor:
        owner, _, name = path.rpartition(".")
        held: torch.Tensor = getattr(self.module.get_submodule(owner), name)
        return held.detach()

    def _import(self, node: fx.Node) -> Value | tuple[Value, ...]:
        """Import an operation; in a loop over time, only at the first step, whose result the other steps share."""
        given = [each for each in (self.values.get(each) for each in node.all_input_nodes) if isinstance(each, Value)]
        kind = str(node.target)
        if kind in JOINS_STEPS:
            return self._made(node)
        stepped = list(dict.fromkeys(each.steps for each in given if each.steps is not None))
        if any(len(each) > 1 for each in stepped):
            for each in node.all_input_nodes:
                value = self.values.get(each)
                if isinstance(value, Value):
                    self.values[each] = self.settled(node, value)
            return self._import(node)
        if len(stepped) > 1:
            raise self.refusal(
                node,
                f"computes with steps {' and '.join(str(each[0]) for each in stepped)} at once",
                "let neurons carry what the code takes from one step to the next, and give the network [T, N, ...] in "
                "step mode 'm'",
            )
        steps = stepped[0] if stepped else None
        if given:
            key = kind, self._key(node.args), self._key(node.kwargs)
            if key not in self._known:
                self._known[key] = self._made(node)
            made = self._known[key]
            return made if steps is None else _at(steps, made)
        return self._made(node)

    def once(self, key: object, make: Callable[[], Value]) -> Value:
        """What ``make`` returns; in a loop over time, only the first step calls it, and all steps share its result."""
        if key not in self._known:
            self._known[key] = make()
        made = self._known[key]
        assert isinstance(made, Value)
        return made

    def _key(self, argument: object) -> object:
        """A key that is the same for the same arguments of an operation, whichever step they are of."""
        if isinstance(argument, fx.Node):
            value = self.values.get(argument)
            if isinstance(value, Value):
                return value.node, value.layout, value.over_time
            if argument in self.constants.tensors:
                return self.constants.paths.get(argument, argument)
            if argument in self.constants:
                return str(argument.target), self._key(argument.args), self._key(argument.kwargs)
            return argument
        if isinstance(argument, list | tuple):
            return tuple(self._key(each) for each in argument)
        if isinstance(argument, dict):
            return tuple((name, self._key(each)) for name, each in argument.items())
        return repr(argument)

    def settled(self, node: fx.Node, value: Value) -> Value:
        """A value that is the sum of several steps, as a sum over all steps; any other value is returned unchanged.

        Raises:
            UnsupportedError: Some steps are missing from the sum.
        """
        if value.steps is None or len(value.steps) < 2:
            return value
        if self.timesteps is None:
            self.timesteps = max(map(len, self.called.values()), default=len(value.steps))
        if sorted(value.steps) != list(range(self.timesteps)):
            raise self.refusal(
                node, f"reads the sum of steps {sorted(value.steps)} of {self.timesteps}", "sum all steps, or none"
            )
        return replace(value, steps=None, over_time=float(self.timesteps))

    def _made(self, node: fx.Node) -> Value | tuple[Value, ...]:
        importer = self.importers.get(str(node.target))
        if importer is None:
            kind = str(node.target).removeprefix("aten.").partition(".")[0]
            raise self.refusal(
                node,
                f"no lowering for {kind}",
                remedies.OPERATIONS.get(kind)
                or "the compiler knows convolution, linear layers, batch normalisation, pools, flatten, sums, views, "
                "products of spikes with currents, gates of spikes, repetition over time, means and sums over time "
                "behind all neurons, and SpikingJelly's IF, LIF and PLIF neurons",
            )
        value = importer(self, node, *node.args, **node.kwargs)
        if isinstance(value, Value):
            made, wanted = value.layout.sizes, tuple(node.meta["val"].shape)
            if made != wanted:
                raise self.refusal(
                    node,
                    f"makes {wanted}, where its lowering makes {made}",
                    "write it with arguments that leave no shape to guess",
                )
        return value

    def _returned(self, node: fx.Node) -> Value:
        returned = node.args[0]
        given = [each for each in returned if each is not None] if isinstance(returned, tuple) else []
        found = given[0] if len(given) == 1 else None
        value = self.values.get(found) if isinstance(found, fx.Node) else None
        spec = self.exported.call_spec.out_spec
        # a single tensor, or a tuple whose other items are None; not a dict, nor a tuple of one item
        plain_result = spec is not None and (spec.is_leaf() or (spec.type is tuple and spec.num_children > 1))
        if not isinstance(found, fx.Node) or not plain_result or not isinstance(value, Value):
            raise UnsupportedError(
                f"{type(self.module).__name__}: returns something other than one tensor computed from its input; "
                "wrap it in a module that returns the logits alone"
            )
        value = self.settled(found, value)
        if value.steps is not None and self.timesteps == 1:
            value = replace(value, steps=None, over_time=1.0)
        if value.steps is not None:
            raise self.refusal(
                found, f"returns what step {value.steps[0]} makes", "return all steps, stacked, or their sum or mean"
            )
        if value.axes is Axes.STATIC and self.timesteps in (None, 1):
            # code with neither time nor memory runs once
            self.timesteps, value = 1, replace(value, over_time=1.0)
        if value.axes not in (Axes.TIMED, Axes.REDUCED):
            raise self.refusal(
                found,
                f"what the module returns has axes {value.named_axes}",
                "return (T, N, classes), or its mean over T",
            )
        return self.as_plain(found, value)

    def leading(self, axes: Axes) -> tuple[Axis, ...]:
        """The axes before a sample's own."""
        time, batch = Atom(TIME, self.timesteps or 0), Atom(BATCH, TRACED_BATCH)
        return {
            Axes.STATIC: ((batch,),),
            Axes.UNREPEATED: ((), (batch,)),
            Axes.TIMED: ((time,), (batch,)),
            Axes.MERGED: ((time, batch),),
            Axes.SAMPLES_FIRST: ((batch,), (time,)),
            Axes.SAMPLES_MERGED: ((batch, time),),
            Axes.REDUCED: ((batch,),),
        }[axes]

    def value(self, node: fx.Node, argument: object) -> Value:
        """An argument that must be a value of the network."""
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, Value):
            raise self.refusal(
                node,
                "computes with a weight or a constant rather than a value of the network",
                "put what it amounts to into a layer before compiling",
            )
        return value

    def stepwise(self, node: fx.Node, argument: object) -> Value:
        """An argument that must be a value of the network, and of single steps.

        Raises:
            UnsupportedError: The argument is a mean or a sum over all steps, or no value of the network.
        """
        value = self.value(node, argument)
        if value.over_time is not None:
            raise self.refusal(node, f"reads axes {value.named_axes}", "give it values of single steps")
        return value

    def plain(self, node: fx.Node, argument: object, *axes: Axes) -> Value:
        """An argument with its node's own axes behind time and samples; only ``axes``, if given, may be in front."""
        value = self.value(node, argument)
        if value.axes is None or (axes and value.axes not in axes):
            wanted = " or ".join(f"({each.value}, ...)" for each in axes) or "time and samples in front"
            raise self.refusal(node, f"reads axes {value.named_axes}", f"give it {wanted}")
        return self.as_plain(node, value)

    def as_plain(self, node: fx.Node, value: Value) -> Value:
        """A value with its node's own axes; if it shows them as one vector, a node that flattens is appended for it."""
        if value.is_plain:
            return value
        if not value.layout.shows_all(value.shape) and value.axes is not None:
            value = self.whole_of(self, node, value)
            if value.is_plain:
                return value
        own = value.layout.axes[len(value.lead) :]
        if value.layout.starts or own != (whole(value.shape, range(len(value.shape))),):
            raise self.refusal(
                node,
                f"reads a view of {value.node} with axes {value.layout}",
                "bring it back to (C, H, W), or flatten it, before",
            )
        key = value.node, value.made_by
        if key not in self._flat:
            name = self.name(value.made_by or node)
            self._flat[key] = self.draft.add(name, flatten(value.shape), value.node)
        shape = self.draft.shape(self._flat[key])
        return replace(value, node=self._flat[key], shape=shape, layout=plain(value.lead, shape), made_by=None)

    def tensor(self, node: fx.Node, argument: object) -> tuple[str, torch.Tensor]:
        """The path and value of an argument that must be a parameter, a buffer, or a weight computed from these."""
        if isinstance(argument, fx.Node) and argument in self.constants and argument not in self.constants.paths:
            # such as the weight that weight_norm computes from its parameters
            return f"{self.module_path(node)}.weight", self.constants.value(argument)
        if not isinstance(argument, fx.Node) or argument not in self.constants.paths:
            raise self.refusal(
                node,
                "computes with a weight that the code makes rather than one that a layer holds",
                "put what it amounts to into the layer before compiling, and leave the computation out",
            )
        return self.constants.paths[argument], self.constants.tensors[argument]

    def optional(self, node: fx.Node, argument: object) -> torch.Tensor | None:
        """The value of a parameter, a buffer or a computed weight; None if the argument is absent."""
        return None if argument is None else self.tensor(node, argument)[1]

    def module_path(self, node: fx.Node) -> str:
        """The path of the innermost module that an operation runs in, or the operation's own name if there is none."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
        return str(stack[-1][0]) or node.name

    def is_computed(self, argument: object) -> bool:
        """Whether an argument is a weight that the code computes from others."""
        return argument in self.constants and argument not in self.constants.paths

    def name(self, node: fx.Node) -> str:
        """A unique name for an operation without parameters, after the module that it is or that it runs in."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
        path, kind = str(stack[-1][0]), str(stack[-1][1])
        if not path or not re.match(r"(<class ')?(torch\.nn|spikingjelly)\.", kind) or "contain" in kind.lower():
            path = f"{path}.{node.name.rstrip('0123456789').rstrip('_')}".removeprefix(".")
        unique, count = path, 1
        while unique in self.draft.nodes:
            unique, count = f"{path}.{count}", count + 1
        return unique

    def add(self, node: fx.Node, name: str, op: nir.NIRNode, *inputs: str, shape: Shape | None = None) -> str:
        """Append a node whose name is a path of its own, and return the name."""
        if name in self.draft.nodes:
            raise self.refusal(
                node,
                "runs more than once in one forward",
                "in a loop over time, use step mode 'm' instead (functional.set_step_mode(net, 'm')) and give the "
                "network [T, N, ...]; else give each use a module of its own",
            )
        try:
            return self.draft.add(name, op, *inputs, shape=shape)
        except AssertionError as error:
            raise self.refusal(node, f"{name}: {error}", "bring the values to that shape") from error

    def elementwise(self, node: fx.Node, name: str, op: nir.NIRNode, *values: Value) -> Value:
        """Append an elementwise operation, for which the layout of its inputs does not matter."""
        first = values[0]
        made = self.add(node, name, op, *(each.node for each in values))
        if first.node in self.grids:
            self.grids[made] = self.grids[first.node]
        return first.of(made)

    def refusal(self, node: fx.Node, problem: str, remedy: str) -> UnsupportedError:
        """The error that says why an operation has no lowering, and at which line of code."""
        name = node.args[1] if node.target is torch.ops.resformer.neurons.default else self.name(node)
        return UnsupportedError(f"{name}: {problem}; {remedy} ({user_line(node)})")


def same_steps(wanted: int | None, found: int) -> int:
    """T as it was found in the module, after a check against the T that is wanted.

    Raises:
        InputError: Another T is asked for, or was found before.
    """
    if wanted is not None and wanted != found:
        raise InputError(f"timesteps: {wanted} are asked for, but the module runs {found}; leave the option out")
    return found
