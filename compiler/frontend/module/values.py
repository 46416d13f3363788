"""The values of traced code, and the graph that becomes of it while its operations are imported one by one.

Nodes are named by their paths in the state dict, and what has no parameters by the module that it runs in. For each
value it is followed which of its axes are time and batch, so that samples cannot be mixed up unseen, and how the others
lie over the node's (``layout``).
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
    """Which axes come before a sample's own."""

    STATIC = "N"
    """The same at all steps."""
    UNREPEATED = "1, N"
    TIMED = "T, N"
    MERGED = "T * N"
    SAMPLES_FIRST = "N, T"
    SAMPLES_MERGED = "N * T"
    REDUCED = "N, over all steps"


IMAGES = (Axes.STATIC, Axes.MERGED, Axes.SAMPLES_MERGED, Axes.REDUCED)
"""One axis before a sample's own, as PyTorch's own layers for images take them."""


@dataclass(frozen=True)
class Value:
    """A tensor of the traced code.

    Attributes:
        node: The node whose value it shows.
        shape: The node's.
        layout: How it shows it.
        over_time: By which factor it is the mean over all steps: 1, or T of a sum; None: it is of single steps. What a
            network does behind its neurons is linear, so the node's values are those of single steps all the same.
        steps: Which steps it shows alone, or is the sum of, in code that loops over time; None: it is of all of them.
        made_by: The operation that laid it out so; None where that is how the node has it.
    """

    node: str
    shape: Shape
    layout: Layout
    over_time: float | None = None
    steps: tuple[int, ...] | None = None
    made_by: fx.Node | None = None

    @property
    def axes(self) -> Axes | None:
        """What comes before a sample's own axes; None where they are not in front."""
        if self.over_time is not None:
            return Axes.UNREPEATED if self.layout.axes[:1] == ((),) else Axes.REDUCED
        names = tuple("*".join(_LEADING.get(atom.dim, "") for atom in axis) for axis in self.layout.axes[:2])
        if self.layout.has(TIME):
            merged = {"T*N": Axes.MERGED, "N*T": Axes.SAMPLES_MERGED}.get(names[0])
            return merged or {"T,N": Axes.TIMED, "N,T": Axes.SAMPLES_FIRST}.get(",".join(names))
        return Axes.STATIC if names[:1] == ("N",) else Axes.UNREPEATED if names == ("", "N") else None

    @property
    def named_axes(self) -> str:
        """Its axes, in words."""
        return str(self.layout) if self.axes is None else f"({self.axes.value}, ...)"

    @property
    def is_plain(self) -> bool:
        """Whether its axes, behind those of time and samples, are the node's own."""
        return self.axes is not None and self.layout == plain(self.lead, self.shape)

    @property
    def lead(self) -> tuple[Axis, ...]:
        """The axes before a sample's own."""
        return self.layout.axes[: LEADING_AXES[self.axes]] if self.axes is not None else ()

    def of(self, node: str, shape: Shape | None = None) -> Value:
        """Another node's value, laid out alike."""
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
"""The operations that may take values of several steps, or remember some."""


def _at(steps: tuple[int, ...] | None, made: Value | tuple[Value, ...]) -> Value | tuple[Value, ...]:
    """The values of one step."""
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
"""How many axes come before a sample's own."""


ROW_AXES = 2
"""A sample that is a row of pixels has two axes, (C, L); its node has (C, 1, L)."""


class SamplesFirstError(UnsupportedError):
    """Neurons read (N, T, ...): so the module takes samples before time, if it takes anything."""


Importer: TypeAlias = "Callable[..., Value | tuple[Value, ...]]"
"""Makes of an operation, given the tracing, its node and its arguments, what it makes."""


@dataclass
class Tracing:
    """One traced module on its way to a graph.

    Attributes:
        module: Whose tensors are read.
        exported: Its operations.
        draft: The nodes so far.
        timesteps: T, once it is known.
        importers: How each operation of PyTorch is imported.
        whole_of: Makes a part of a value that of a layer that makes no more.
        values: Of each operation so far.
        constants: What is no value of the network.
        grids: For each node whose last dimension stands for the pixels of an image, that image's size.
        called: For each population that steps one by one, what it was given.
        layouts: For each population that is not given (T, N, ...) as its node has it, how its values are laid out.
        recurrent: The containers that lead back what they made one step ago.
        closed: Those whose neurons have synapses onto themselves.
        parted: For each node that makes less from then on, without what such neurons fired one step ago: the neurons.
        stepping: The populations that such a container steps.
        alone: For each population that is given (T * N, ...), which is right of one sample alone, why it is refused of
            others.
        bordered: The images into whose borders the code wrote what normalisation makes of zeros.
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
    _known: dict[object, Value | tuple[Value, ...]] = field(default_factory=dict)
    _flat: dict[tuple[str, fx.Node | None], str] = field(default_factory=dict)

    def run(self, axes: Axes, shape: Shape) -> Value:
        """Import all operations, and return what the module returns."""
        signature = self.exported.graph_signature
        paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        stated = signature.inputs_to_lifted_tensor_constants
        for node in self.exported.graph.nodes:
            if node.op == "placeholder" and node.name in paths:
                self.constants.tensors[node] = self._held(paths[node.name])
                self.constants.paths[node] = paths[node.name]
            elif node.op == "placeholder" and node.name in stated:
                self.constants.tensors[node] = self.exported.constants[stated[node.name]]
            elif node.op == "placeholder" and node.name in signature.user_inputs:
                source = self.draft.input
                if len(shape) == 1:
                    source = self.draft.add("input.flatten", flatten(self.draft.shape(source)), source)
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

    def _held(self, path: str) -> torch.Tensor:
        owner, _, name = path.rpartition(".")
        held: torch.Tensor = getattr(self.module.get_submodule(owner), name)
        return held.detach()

    def _import(self, node: fx.Node) -> Value | tuple[Value, ...]:
        """What an operation makes; in a loop over time, what it made at the first step, which is made once."""
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
        """What an operation makes that is the same at each step of a loop, made at the first."""
        if key not in self._known:
            self._known[key] = make()
        made = self._known[key]
        assert isinstance(made, Value)
        return made

    def _key(self, argument: object) -> object:
        """What tells an operation's arguments from others', whichever step they are of."""
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
        """A value that is the sum of several steps as that of all of them.

        Raises:
            UnsupportedError: Some are missing.
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
        # one tensor, or with it nothing in the place of what else there might be; a tuple or a dict of one is neither
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
            # without time or memory in its code, it runs once
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
        """The same, of single steps.

        Raises:
            UnsupportedError: It is a mean or a sum over all steps.
        """
        value = self.value(node, argument)
        if value.over_time is not None:
            raise self.refusal(node, f"reads axes {value.named_axes}", "give it values of single steps")
        return value

    def plain(self, node: fx.Node, argument: object, *axes: Axes) -> Value:
        """The same, its axes behind those of time and samples being the node's, with some of these in front."""
        value = self.value(node, argument)
        if value.axes is None or (axes and value.axes not in axes):
            wanted = " or ".join(f"({each.value}, ...)" for each in axes) or "time and samples in front"
            raise self.refusal(node, f"reads axes {value.named_axes}", f"give it {wanted}")
        return self.as_plain(node, value)

    def as_plain(self, node: fx.Node, value: Value) -> Value:
        """A value as its node has it: one that shows it as a vector is that of a node that flattens it."""
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
        """The path and value of an argument that must be a parameter or buffer."""
        if isinstance(argument, fx.Node) and argument in self.constants and argument not in self.constants.paths:
            # such as what weight_norm makes of its parameters
            return f"{self.module_path(node)}.weight", self.constants.value(argument)
        if not isinstance(argument, fx.Node) or argument not in self.constants.paths:
            raise self.refusal(
                node,
                "computes with a weight that the code makes rather than one that a layer holds",
                "put what it amounts to into the layer before compiling, and leave the computation out",
            )
        return self.constants.paths[argument], self.constants.tensors[argument]

    def optional(self, node: fx.Node, argument: object) -> torch.Tensor | None:
        """The same of one that may be absent."""
        return None if argument is None else self.tensor(node, argument)[1]

    def module_path(self, node: fx.Node) -> str:
        """The innermost module that an operation runs in, or what to call it."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
        return str(stack[-1][0]) or node.name

    def is_computed(self, argument: object) -> bool:
        """Whether an argument is a weight that the code computes of others."""
        return argument in self.constants and argument not in self.constants.paths

    def name(self, node: fx.Node) -> str:
        """What to call an operation without parameters: after the module that it is, or runs in."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
        path, kind = str(stack[-1][0]), str(stack[-1][1])
        if not path or not re.match(r"(<class ')?(torch\.nn|spikingjelly)\.", kind) or "contain" in kind.lower():
            path = f"{path}.{node.name.rstrip('0123456789').rstrip('_')}".removeprefix(".")
        unique, count = path, 1
        while unique in self.draft.nodes:
            unique, count = f"{path}.{count}", count + 1
        return unique

    def add(self, node: fx.Node, name: str, op: nir.NIRNode, *inputs: str, shape: Shape | None = None) -> str:
        """Append a node that bears a path of its own."""
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
        """Append a node that makes an element of each of its inputs' elements, however they are laid out."""
        first = values[0]
        made = self.add(node, name, op, *(each.node for each in values))
        if first.node in self.grids:
            self.grids[made] = self.grids[first.node]
        return first.of(made)

    def refusal(self, node: fx.Node, problem: str, remedy: str) -> UnsupportedError:
        """Why an operation has no lowering, and where it stands."""
        name = node.args[1] if node.target is torch.ops.resformer.neurons.default else self.name(node)
        return UnsupportedError(f"{name}: {problem}; {remedy} ({user_line(node)})")


def same_steps(wanted: int | None, found: int) -> int:
    """T as the module has it.

    Raises:
        InputError: Another is asked for, or was found before.
    """
    if wanted is not None and wanted != found:
        raise InputError(f"timesteps: {wanted} are asked for, but the module runs {found}; leave the option out")
    return found
