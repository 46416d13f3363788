"""What the compiler must know of an operation: the interface that each answers, and the room's loops rest on.

An operation is a frozen value. Its class says what it takes and makes, how large that can get, what it does with a bias
that comes in, what is recorded and counted of it, and, in :meth:`Op.evaluate`, what it means. The program's file, the
verifier, range analysis, the placement of biases, the reference interpreter, activity and the report are loops over
these methods. Lowerings (sim, Lava, ONNX, placement) are tables of their own, since they prove something by being
independent. docs/writing-an-operation.md adds one.
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
    """What evaluating an operation gives.

    Attributes:
        value: (T, N, ...); its elements are in the order of the node's shape, but the shape itself may be another.
        clipped: How many values it clipped; None if it never clips.
    """

    value: Int64Array
    clipped: int | None = None


class Carried(NamedTuple):
    """What becomes of a bias that comes in as a constant part of a current.

    Attributes:
        op: The operation, with the bias that it takes upon itself.
        bias: (C,), the constant part of what it makes.
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
    """The kind of signal that leaves; None: its signal says."""
    hop: ClassVar[int] = 0
    """Steps by which it delays what it receives: one for synapses, which send what they received one step ago."""
    fires: ClassVar[bool] = False
    """Whether it makes spikes of its own, each of which is recorded."""
    clips: ClassVar[bool] = False
    """Whether it saturates, and counts how often."""
    recorded: ClassVar[bool] = False
    """Whether what it sends is recorded and compared."""
    is_view: ClassVar[bool] = False
    """Whether its output is its input, at another time or in another shape."""
    is_synapse: ClassVar[bool] = False
    """Whether it reads only what neurons send, and makes a current of it."""
    counts_operations: ClassVar[bool] = False
    """Whether synaptic operations are counted of it, one for each event of its last input and each target."""
    counted_inputs: ClassVar[tuple[int, ...]] = (-1,)
    """The inputs whose events make these operations."""
    events_pass: ClassVar[bool] = False
    """Whether, given spikes or counts of them, it sends on counts or maxima of them."""
    holds_bounds: ClassVar[bool] = False
    """Whether its output needs no saturating relay: it saturates itself, or what it makes is bounded otherwise."""
    accumulator: ClassVar[int | None] = None
    """The largest magnitude that its sums may have where they are made; None: it sums nothing, or saturates."""

    # what it takes and makes

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:  # noqa: ARG002
        """The shape that it makes of inputs of these shapes.

        Raises:
            InvariantError: It cannot take such inputs, or that many.
        """
        raise InvariantError(f"no shape rule for {type(self).__name__}")

    def check_shapes(self, shapes: Shapes) -> None:
        """See that the shapes around it and those of its fields fit together.

        Raises:
            InvariantError: They do not.
        """
        wanted = self.output_shape(shapes.inputs)
        require(shapes.output == wanted, f"makes shape {wanted}, but its node says {shapes.output}")
        self.check_fits(shapes)

    def check_fits(self, shapes: Shapes) -> None:
        """See that the shapes of its fields fit those around it.

        Raises:
            InvariantError: One does not.
        """
        for name, form in formats_of(type(self)).items():
            if isinstance(form, Array):
                form.fit(name, getattr(self, name).shape, shapes)

    def check_fields(self) -> None:
        """See that each field holds what its format can.

        Raises:
            InvariantError: One does not.
        """
        for name, form in formats_of(type(self)).items():
            form.check(name, getattr(self, name))

    def kind_made(self, inputs: Sequence[Signal]) -> SignalKind | None:  # noqa: ARG002
        """The kind of signal that it makes of these; None: whatever its signal says."""
        return self.makes

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See that what comes in is what it takes, in kind, scale and range.

        Raises:
            InvariantError: It is not.
        """

    def windows(self) -> tuple[Window, ...]:
        """The windows that it reads through."""
        return ()

    def terms(self, shapes: Shapes) -> int:  # noqa: ARG002
        """How many values meet in each of its own: one, unless it sums or compares several."""
        return 1

    # how large that gets

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """What its output lies between, given what its inputs do.

        Raises:
            InvariantError: It has no rule for these.
            RangeError: Something leaves a format, where no relay can help.
        """
        raise InvariantError(f"no interval for {type(self).__name__}")

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """A bound on every partial sum, in whatever order a kernel adds, given bounds on its inputs' magnitudes."""
        return inputs[0]

    def input_limit(self) -> int | None:
        """The largest magnitude that it may be given; None: any."""
        return None

    def check_states(self, inputs: Sequence[Interval], timesteps: int) -> None:
        """See that nothing which it keeps from step to step leaves its format within a sample of T steps.

        Raises:
            InvariantError: Something may.
        """

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:  # noqa: ARG002
        """Whether the bounds on its inputs leave it open that it clips a value within a sample of T steps.

        Raises:
            InvariantError: It never clips.
        """
        raise InvariantError(f"a {type(self).__name__} never saturates")

    # what it does with a bias before it

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """Take in what its inputs lack, (C,) each in their units, or say what its own output lacks.

        Raises:
            InvariantError: It is not to be there before biases are placed.
            RangeError: The bias leaves its format.
        """
        raise InvariantError(f"a {type(self).__name__} before place_biases")

    def takes_bias(self, bias: Int64Array) -> bool:  # noqa: ARG002
        """Whether an input may lack this bias, (C,): if not, a relay before it takes it."""
        return True

    # what it means

    def evaluate(self, *inputs: Int64Array) -> Outcome:  # noqa: ARG002
        """Its definition, on values (T, N, ...).

        Raises:
            InvariantError: It has none.
        """
        raise InvariantError(f"no definition for {type(self).__name__}")

    def evaluate_beside(self, sent: Int64Array, *inputs: Int64Array) -> Outcome:  # noqa: ARG002
        """What it makes where all who read it, itself among them, are given ``sent`` instead."""
        return self.evaluate(*inputs)

    @property
    def counts_ties(self) -> bool:
        """Whether a potential of its may meet a threshold exactly and not fire, which is counted."""
        return False

    def evaluate_with_ties(self, *inputs: Int64Array) -> tuple[Outcome, int]:
        """Its definition, and how many potentials met their threshold exactly and did not fire."""
        return self.evaluate(*inputs), 0

    # what a report says of it

    def operations(self, events: Int64Array, shapes: Shapes) -> Int64Array:  # noqa: ARG002
        """Synaptic operations of each step, (T,), as the authors count them: weights of zero included.

        Args:
            events: Of its last input, (T, rows, columns), summed over channels.
            shapes: Around it.

        Raises:
            InvariantError: It counts none.
        """
        raise InvariantError(f"a {type(self).__name__} counts no operations")

    def operations_of(self, index: int, events: Int64Array, shapes: Shapes) -> Int64Array:  # noqa: ARG002
        """What ``operations`` counts, of the events of one of ``counted_inputs``, where these are several."""
        return self.operations(events, shapes)

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:  # noqa: ARG002
        """How many pairs of neurons it connects; None if it has no synapses.

        What falls into the padding connects nothing. Nor do weights of zero where a chip, whose indices have
        ``index_bits``, does not store them.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """Its parameters for the report, as JSON can hold them."""
        return {}


def one_input(inputs: Sequence[Shape], *, axes: int | None = None) -> Shape:
    """The shape of an operation's only input.

    Raises:
        InvariantError: There are others, or it has another count of axes.
    """
    require(len(inputs) == 1, f"takes one input, not {len(inputs)}")
    require(axes is None or len(inputs[0]) == axes, f"takes an input of {axes} axes, not {inputs[0]}")
    return inputs[0]


def same_scale(signal: Signal, inputs: Sequence[Signal]) -> None:
    """See that an operation's inputs have its output's scale.

    Raises:
        InvariantError: One has not.
    """
    for each in inputs:
        require(each.scale_exp == signal.scale_exp, f"scale 2^{signal.scale_exp} reads 2^{each.scale_exp}")


def weighted_input(signal: Signal, limit: int) -> None:
    """See that neurons are given a current or a graded value within a limit.

    Raises:
        InvariantError: They are not.
    """
    require(signal.kind is not SignalKind.SPIKE, "neurons read a spike, which no synapse has weighted")
    if signal.bounds is not None:
        in_range("a neuron's input", signal.bounds, -limit, limit)
