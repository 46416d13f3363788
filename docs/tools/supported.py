"""Writes docs/reference/supported.md: what compiles, from the tables that the compiler itself looks into.

    python docs/tools/supported.py

The rows below put what several tables call by different names beside each other. An entry of a table that no row
names, and a name in a row that is in no table, end the script; a test sees that the page is as it writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resformer.compiler.backends import BACKENDS
from resformer.compiler.chips.chip import PACKAGED, load_chip
from resformer.compiler.frontend.module.kinds import KINDS
from resformer.compiler.frontend.module.operations import OPERATIONS
from resformer.compiler.frontend.module.remedies import MODULES
from resformer.compiler.frontend.module.remedies import OPERATIONS as REFUSED
from resformer.compiler.frontend.net.content import KINDS as NET_LAYERS
from resformer.compiler.frontend.net.content import NEURON_KINDS as NET_NEURONS
from resformer.compiler.frontend.nir.importer import IMPORTERS
from resformer.models.zoo.recognise import FAMILIES

PAGE = Path(__file__).parents[1] / "reference" / "supported.md"
EXAMPLES = Path(__file__).parents[2] / "examples" / "nir"
WORDS = "~"
OURS = "resformer."
"""How the operations begin that stand for more than one of PyTorch's."""


class Row(NamedTuple):
    """One thing that compiles.

    What a table does not call by a name is said in words, which begin with ``~``.

    Attributes:
        what: In words.
        module: PyTorch's operations, or SpikingJelly's neurons, in a module in memory.
        nir: Node types of a NIR file.
        netx: Layers or neurons of a netx file.
    """

    what: str
    module: Sequence[str] = ()
    nir: Sequence[str] = ()
    netx: Sequence[str] = ()


LAYERS = (
    Row("convolution over images", ("conv2d",), ("Conv2d",), ("conv",)),
    Row("convolution along one axis", ("conv1d",), ("Conv1d",)),
    Row("linear layer, of vectors or of tokens", ("linear",), ("Linear", "Affine"), ("dense",)),
    Row("batch normalisation in eval mode", ("batch_norm",)),
    Row("factor, one number or one a channel", ("mul", "mul_", "div", "div_", "neg"), ("Scale",)),
    Row("max-pool", ("max_pool2d", "max_pool3d", "max_pool1d")),
    Row("average pool", ("avg_pool2d", "avg_pool3d", "avg_pool1d"), ("AvgPool2d",)),
    Row("sum pool", (), ("SumPool2d",)),
    Row("average pool to a size", ("adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_avg_pool1d")),
    Row("mean or sum over pixels, channels of a head, or time", ("mean", "sum", "resformer.vote")),
    Row("padding with zeros", ("pad", "constant_pad_nd")),
    Row("writing what a normalisation makes of zero into a border (RepConv)", ("copy_",)),
    Row("dropout in eval mode", ("dropout",)),
    Row(
        "recurrent synapses onto one population",
        (
            *("resformer.recurrent_linear", "resformer.step_ago", "resformer.returned"),
            *("~`LinearRecurrentContainer`", "~`ElementWiseRecurrentContainer`"),
        ),
        ("~a layer from a population back to it",),
        ("dense_rec",),
    ),
    Row("delay of spikes", ("resformer.delay", "~`layer.Delay`"), ("Delay",), ("~`delay` of `dense`",)),
)
NEURONS = (
    Row("integrate and fire", ("IFNode", "resformer.neurons"), ("IF",)),
    Row("leaky integrate and fire", ("LIFNode",), ("LIF",)),
    Row("leaky, with a learned time constant", ("ParametricLIFNode",)),
    Row("leaky, with a memory of its current", (), ("CubaLIF",), ("CUBA", "LOIHI")),
    Row("threshold without memory", (), ("Threshold",)),
    Row("integrators that never fire, at the output", (), ("I", "LI", "CubaLI")),
    Row("levels (I-LIF)", ("resformer.levels", "~`round(clamp(x, 0, D))`")),
    Row("several spikes a step", (), ("~`IF` with `--spikes-per-step`",)),
    Row("neurons that the code writes out itself", ("resformer.written", "~a loop over the steps")),
)
JOINS = (
    Row("sum and difference", ("add", "add_", "sub", "sub_", "rsub")),
    Row("where any of two spikes fires", ("maximum", "max", "logical_or", "bitwise_or", "__or__")),
    Row("where both fire", ("minimum", "min", "logical_and", "bitwise_and", "__and__")),
    Row("one less a spike", ("logical_not", "bitwise_not")),
    Row("a sum of spikes, at most one", ("clamp", "clip", "clamp_max")),
    Row("matrix product of spikes (attention without softmax)", ("matmul", "bmm", "einsum")),
    Row("channels side by side", ("cat", "concat", "concatenate")),
)
VIEWS = (
    Row(
        "reshape",
        (
            *("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as", "ravel"),
            *("unsqueeze_", "squeeze_"),
        ),
        ("Flatten",),
        ("flatten",),
    ),
    Row(
        "transpose and permute",
        (
            *("transpose", "swapaxes", "swapdims", "mT", "permute", "movedim", "moveaxis", "t", "numpy_T"),
            *("transpose_", "swapaxes_", "swapdims_", "t_"),
        ),
    ),
    Row("slice, split, one index", ("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind")),
    Row("one of several results", ("getitem",)),
    Row("repeat over time, stack steps", ("repeat", "expand", "expand_as", "tile", "stack")),
    Row("another type or device", ("to", "_to_copy", "clone", "contiguous", "detach", "detach_", "alias")),
    Row("where samples enter and logits leave", (), ("Input", "Output"), ("input",)),
)
GROUPS = (("layer", LAYERS), ("neurons", NEURONS), ("join", JOINS), ("view", VIEWS))


@dataclass(frozen=True)
class Table:
    """A table of the compiler's.

    Attributes:
        title: For messages.
        known: The names in it.
        column: Which field of a row names its entries.
    """

    title: str
    known: frozenset[str]
    column: str

    def check(self) -> None:
        """See that the rows name just what the table has.

        Raises:
            SystemExit: They do not.
        """
        cells = [name for _, rows in GROUPS for row in rows for name in getattr(row, self.column)]
        named = [name for name in cells if not name.startswith(WORDS)]
        twice = {name for name in named if named.count(name) > 1}
        wrong = (self.known - set(named), set(named) - self.known, twice)
        for found, words in zip(wrong, ("is in no row", "is no entry", "is in two rows"), strict=True):
            if found:
                raise SystemExit(f"{self.title}: {', '.join(sorted(found))} {words} of docs/tools/supported.py")


def short(name: str) -> str:
    """An operation's name without its package and overload; that of ours keeps its package."""
    if name.startswith("<"):
        return name.removesuffix(">").split()[-1]
    package, _, rest = name.partition(".")
    return f"{OURS if package == 'resformer' else ''}{rest.partition('.')[0]}"


TABLES = (
    Table("operations of a module", frozenset({short(name) for name in OPERATIONS}) | frozenset(KINDS), "module"),
    Table("nodes of a NIR file", frozenset(IMPORTERS), "nir"),
    Table("netx networks", frozenset(NET_LAYERS) | frozenset(NET_NEURONS), "netx"),
)


def code(names: Sequence[str]) -> str:
    """Names as a cell; what stands for several operations has no name that a user writes."""
    shown = [name for name in names if not name.startswith(OURS)]
    return ", ".join(name[1:] if name.startswith(WORDS) else f"`{name}`" for name in shown) or "-"


def rows() -> Iterator[tuple[str, ...]]:
    """The one table."""
    for kind, group in GROUPS:
        for row in group:
            yield kind, row.what, code(row.module), code(row.nir), code(row.netx)
    for family in ("SpikingResformer", *(each.title for each in FAMILIES.values())):
        yield "family", f"{family}, also from its authors' checkpoints", "yes", "-", "-"
    for path in sorted(EXAMPLES.glob("*_network.py")):
        title = path.read_text(encoding="utf-8").partition('"""')[2].partition("\n")[0]
        name = title.removeprefix("Write a ").partition(" as a NIR file")[0]
        yield "framework", name.replace("``", "`"), "-", f"`examples/nir/{path.name}`", "-"
    yield "framework", "lava-dl's networks for netx", "-", "-", "yes"
    for backend in BACKENDS:
        yield "backend", f"`--backend {backend}`", "yes", "yes", "yes"
    for chip in PACKAGED:
        held = load_chip(chip)
        spikes = "graded spikes" if held.payload_bits else "binary spikes alone"
        yield "chip", f"`--chip {chip}`: {held.cores_per_chip} cores a chip, {spikes}", "yes", "yes", "yes"


def refused() -> Iterator[tuple[str, str]]:
    """What is refused with a remedy of its own: the names that share one, and it."""
    by_remedy: dict[str, list[str]] = {}
    for name, remedy in (*REFUSED.items(), *MODULES.items()):
        by_remedy.setdefault(remedy, []).append(name)
    for remedy, names in by_remedy.items():
        yield ", ".join(f"`{name}`" for name in names), remedy


def table(headings: Sequence[str], lines: Iterator[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    cells = [tuple(headings), tuple("---" for _ in headings), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def page() -> str:
    """The page."""
    for each in TABLES:
        each.check()
    return f"""# What is supported

<!-- made by docs/tools/supported.py; a test sees that it is current -->

This page is made from the tables that the compiler looks into. So it says what compiles today, and nothing else.

- *In a module*: operations of PyTorch that the code of your own network may call, and neurons of SpikingJelly.
  [Modules in memory](../modules.md) has the details.
- *In a NIR file*: node types of [NIR](../howto/nir-file.md).
- *In a netx file*: layers and neurons of [lava-dl's netx](../net.md).
- "yes" stands where no name is to be written. "-" stands where there is no such thing.
- A chip of binary spikes refuses networks with sums, pools or products between neurons.

{table(("kind", "what", "in a module", "in a NIR file", "in a netx file"), rows())}

Checkpoints of a family are recognised by their tensors: see [the zoo](../zoo.md).

## What is refused, and the way out

Whatever has no exact lowering is refused, by name and line. These have a remedy of their own:

{table(("operation or class", "what to do"), refused())}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
