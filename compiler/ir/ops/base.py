"""The interface of operations: all that the compiler must know of one.

An operation is a frozen value. Its class says what it takes and makes, how large its output can get, what it does with
a bias of its input, what is recorded and counted of it, and, in :meth:`Op.evaluate`, what it computes. The program's
file, the verifier, range analysis, the placement of biases, the reference interpreter, activity and the report are
loops over these methods. Lowerings (sim, Lava, ONNX, placement) are tables of their own, because agreement with them
proves something only if they are independent. docs/writing-an-operation.md shows how to add an operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from resformer.compiler.ir.arrays import Int64Array, InvariantError, Shape, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.formats import Array, Shapes, formats_of, in_range
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.ir.window import Window


class Outcome(NamedTuple):
    """The result of evaluating an operation.

    Attributes:
        value: (T, N, ...); its elements are in the order of the node's shape, but its shape may differ.
        clipped: How many values the operation clipped; None if it never clips.
    """

    value: Int64Array
    clipped: int | None = None


class Carried(NamedTuple):
    """What becomes of a bias that an operation's input still lacks.

    Attributes:
        op: The operation with the bias that it takes into itself.
        bias: The bias that its output still lacks, (C,).
    """

    op: Op
    bias: Int64Array


@dataclass(frozen=True, eq=False)
class Op:
    """Base of the integer operations.

    Attributes:
        signal: The type of its output.
    """

    signal: Signal

    makes: ClassVar[SignalKind | None] = None
    """The kind of signal that it makes; None if ``signal`` decides."""
    hop: ClassVar[int] = 0
    """Steps by which it delays what it receives: one for synapses, which send what they received one step ago."""
    fires: ClassVar[bool] = False
    """Whether it fires spikes of its own, each of which is recorded."""
    clips: ClassVar[bool] = False
    """Whether it saturates, and counts how often."""
    recorded: ClassVar[bool] = False
    """Whether what it sends is recorded and compared."""
    is_view: ClassVar[bool] = False
    """Whether its output is its input, at another time or in another shape."""
    is_synapse: ClassVar[bool] = False
    """Whether it reads only what neurons send, and makes a current of it."""
    counts_operations: ClassVar[bool] = False
    """Whether its synaptic operations are counted: one for each event of ``counted_inputs`` and each target."""
    counted_inputs: ClassVar[tuple[int, ...]] = (-1,)
    """The indices of the inputs whose events cause synaptic operations."""
    events_pass: ClassVar[bool] = False
    """Whether it passes on spikes or counts as values that they alone decide, such as sums and maxima."""
    holds_bounds: ClassVar[bool] = False
    """Whether its output needs no saturating relay, because it saturates or its output is bounded in another way."""
    accumulator: ClassVar[int | None] = None
    """The largest magnitude that the accumulator of its sums holds; None if it sums nothing, or saturates."""

    # what it takes and makes

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:  # noqa: ARG002
        """The shape of its output, given the shapes of its inputs.

        Raises:
            InvariantError: It cannot take inputs of these shapes, or this number of inputs.
        """
        raise InvariantError(f"no shape rule for {type(self).__name__}")

    def check_shapes(self, shapes: Shapes) -> None:
        """See that the shapes of its inputs, its output and its fields fit together.

        Raises:
            InvariantError: They do not.
        """
        wanted = self.output_shape(shapes.inputs)
        require(shapes.output == wanted, f"makes shape {wanted}, but its node says {shapes.output}")
        self.check_fits(shapes)

    def check_fits(self, shapes: Shapes) -> None:
        """See that the shapes of its fields fit those of its inputs and its output.

        Raises:
            InvariantError: One does not.
        """
        for name, form in formats_of(type(self)).items():
            if isinstance(form, Array):
                form.fit(name, getattr(self, name).shape, shapes)

    def check_fields(self) -> None:
        """See that each field's value is within its format.

        Raises:
            InvariantError: One does not.
        """
        for name, form in formats_of(type(self)).items():
            form.check(name, getattr(self, name))

    def kind_made(self, inputs: Sequence[Signal]) -> SignalKind | None:  # noqa: ARG002
        """The kind of signal that it makes of these inputs; None if ``signal`` decides."""
        return self.makes

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See that the inputs have the kind, scale and range that it takes.

        Raises:
            InvariantError: They do not.
        """

    def windows(self) -> tuple[Window, ...]:
        """The windows that it reads through."""
        return ()

    def terms(self, shapes: Shapes) -> int:  # noqa: ARG002
        """How many values it sums or compares for each value of its output; one if it does neither."""
        return 1

    # how large its output gets

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """The bounds of its output, given those of its inputs.

        Raises:
            InvariantError: It has no rule for these inputs.
            RangeError: Something leaves a format, where no relay can help.
        """
        raise InvariantError(f"no interval for {type(self).__name__}")

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """A bound on every partial sum, in whatever order a kernel adds, given bounds on its inputs' magnitudes."""
        return inputs[0]

    def input_limit(self) -> int | None:
        """The largest magnitude that its input may have; None if it takes any."""
        return None

    def check_states(self, inputs: Sequence[Interval], timesteps: int) -> None:
        """See that nothing which it keeps from step to step leaves its format within a sample of T steps.

        Raises:
            InvariantError: Something may.
        """

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:  # noqa: ARG002
        """Whether it may clip a value within a sample of T steps, given the bounds on its inputs.

        Raises:
            InvariantError: It is an operation that never clips.
        """
        raise InvariantError(f"a {type(self).__name__} never saturates")

    # what it does with a bias that its inputs lack

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """Take the biases that its inputs lack into itself, or pass them on as a bias that its output lacks.

        Args:
            inputs: The bias that each input lacks, (C,), in the units of that input.
            shapes: The shapes of its inputs and its output.

        Raises:
            InvariantError: A program must not have this operation before biases are placed.
            RangeError: The bias leaves its format.
        """
        raise InvariantError(f"a {type(self).__name__} before place_biases")

    def takes_bias(self, bias: Int64Array) -> bool:  # noqa: ARG002
        """Whether it can take a bias, (C,), that its input lacks; if not, a relay before it takes the bias."""
        return True

    # what it computes

    def evaluate(self, *inputs: Int64Array) -> Outcome:  # noqa: ARG002
        """Its definition: its output for inputs (T, N, ...).

        Raises:
            InvariantError: It has no definition.
        """
        raise InvariantError(f"no definition for {type(self).__name__}")

    def evaluate_beside(self, sent: Int64Array, *inputs: Int64Array) -> Outcome:  # noqa: ARG002
        """Its output if all its readers, itself included if it is recurrent, get ``sent`` in place of that output."""
        return self.evaluate(*inputs)

    @property
    def counts_ties(self) -> bool:
        """Whether a neuron of it may meet its threshold exactly and not fire; such ties are counted."""
        return False

    def evaluate_with_ties(self, *inputs: Int64Array) -> tuple[Outcome, int]:
        """What :meth:`evaluate` gives, and how many potentials met their threshold exactly and did not fire."""
        return self.evaluate(*inputs), 0

    # what a report says about it

    def operations(self, events: Int64Array, shapes: Shapes) -> Int64Array:  # noqa: ARG002
        """Synaptic operations of each step, (T,), as SpikingResformer's authors count them: weights of zero included.

        Args:
            events: Events of its last input, (T, rows, columns), summed over channels.
            shapes: The shapes of its inputs and its output.

        Raises:
            InvariantError: The operation counts none.
        """
        raise InvariantError(f"a {type(self).__name__} counts no operations")

    def operations_of(self, index: int, events: Int64Array, shapes: Shapes) -> Int64Array:  # noqa: ARG002
        """What :meth:`operations` counts, for the events of input ``index``, one of ``counted_inputs``."""
        return self.operations(events, shapes)

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:  # noqa: ARG002
        """How many pairs of neurons it connects; None if it has no synapses.

        Weights that fall into the padding do not count. Weights of zero do not count if the chip, whose indices have
        ``index_bits`` bits, does not store them.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """Its parameters for the report, as JSON can hold them."""
        return {}


def one_input(inputs: Sequence[Shape], *, axes: int | None = None) -> Shape:
    """The shape of an operation's only input.

    Raises:
        InvariantError: There is not exactly one input, or it has another number of axes.
    """
    require(len(inputs) == 1, f"takes one input, not {len(inputs)}")
    require(axes is None or len(inputs[0]) == axes, f"takes an input of {axes} axes, not {inputs[0]}")
    return inputs[0]


def same_scale(signal: Signal, inputs: Sequence[Signal]) -> None:
    """See that an operation's inputs have its output's scale.

    Raises:
        InvariantError: An input has another scale.
    """
    for each in inputs:
        require(each.scale_exp == signal.scale_exp, f"scale 2^{signal.scale_exp} reads 2^{each.scale_exp}")


def weighted_input(signal: Signal, limit: int) -> None:
    """See that the input of neurons is a current or a graded value within a limit.

    Raises:
        InvariantError: It is not.
    """
    require(signal.kind is not SignalKind.SPIKE, "neurons read a spike, which no synapse has weighted")
    if signal.bounds is not None:
        in_range("a neuron's input", signal.bounds, -limit, limit)
