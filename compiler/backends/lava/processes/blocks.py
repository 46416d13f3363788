"""Hierarchical processes: a network, and the blocks that hold the processes of its nodes."""

from __future__ import annotations

import re

from lava.magma.core.decorator import implements, tag
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess, Collection

from resformer.compiler.backends.lava.layout import BlockKind, BlockLayout, outer_values
from resformer.compiler.backends.lava.logs import unchanged_logging


class Block(AbstractProcess):  # type: ignore[misc]
    """A group of processes behind common ports.

    Args:
        name: The path with which the names of its nodes begin.
        layout: The contents of the block. Its ports become attributes of the block: ``in_port`` if there is only one
            in-port, otherwise ``in_port_0``, ``in_port_1`` and so on; out-ports accordingly.
    """

    def __init__(self, *, name: str, layout: BlockLayout) -> None:
        super().__init__(name=name, layout=layout)
        for port in layout.in_ports:
            setattr(self, port, InPort(shape=layout.shapes[port]))
        for port in layout.out_ports:
            setattr(self, port, OutPort(shape=layout.shapes[port]))


class Network(Block):
    """A whole network with one ``in_port`` and one ``out_port``; see ``build_network``."""


class Stem(Block):
    """The first convolution, and the pool after it."""


class Downsample(Block):
    """The beginning of a later stage: LIF neurons and a strided convolution."""


class DSSA(Block):
    """Dual Spike Self-Attention (arXiv 2403.14302, section 4.2)."""


class GWFFN(Block):
    """The group-wise spiking feed-forward network (arXiv 2403.14302, section 4.3)."""


class Head(Block):
    """The pool over the image and the classifier."""


BLOCKS: dict[BlockKind, type[Block]] = {
    BlockKind.STEM: Stem,
    BlockKind.DOWNSAMPLE: Downsample,
    BlockKind.DSSA: DSSA,
    BlockKind.GWFFN: GWFFN,
    BlockKind.HEAD: Head,
    BlockKind.OTHER: Block,
}


class _SubProcesses(AbstractSubProcessModel):  # type: ignore[misc]
    """Makes a block's processes and connects them as its layout says; Lava finds them as attributes."""

    def __init__(self, proc: Block) -> None:
        layout: BlockLayout = proc.proc_params["layout"]
        senders: dict[str, OutPort] = {}
        made: list[AbstractProcess] = []
        with unchanged_logging():
            for unit in layout.units:
                process = unit.make()
                made.append(process)
                setattr(self, self._attribute(unit.name.removeprefix(f"{proc.name}.")), process)
                senders.update({value: getattr(process, port) for value, port in unit.outputs.items()})
        ours = {values: getattr(proc, port) for port, values in layout.in_ports.items()}
        for unit, process in zip(layout.units, made, strict=True):
            for port, values in unit.inputs.items():
                for value in values:
                    if value in senders:
                        senders[value].connect(getattr(process, port))
                outer = outer_values(values, senders)
                if outer:
                    ours[outer].connect(getattr(process, port))
        for port, values in layout.out_ports.items():
            for value in values:
                senders[value].connect(getattr(proc, port))

    def _attribute(self, name: str) -> str:
        """A node's name, changed into an attribute name that neither this model nor Lava uses yet."""
        attribute = re.sub(r"\W|^(?=\d)", "_", name)
        while hasattr(self, attribute) or hasattr(Collection, attribute) or attribute in _COLLECTION_STATE:
            attribute += "_"
        return attribute


_COLLECTION_STATE = ("process", "name")
"""Attributes that each of Lava's collections of processes has besides its processes."""


@implements(proc=Block)
@tag("fixed_pt")
class BlockModel(_SubProcesses):
    """The processes of a block."""


@implements(proc=Network)
@tag("fixed_pt")
class NetworkModel(_SubProcesses):
    """The blocks of a network."""


@implements(proc=Stem)
@tag("fixed_pt")
class StemModel(_SubProcesses):
    """The processes of a stem."""


@implements(proc=Downsample)
@tag("fixed_pt")
class DownsampleModel(_SubProcesses):
    """The processes of a downsampling block."""


@implements(proc=DSSA)
@tag("fixed_pt")
class DSSAModel(_SubProcesses):
    """The processes of a DSSA block."""


@implements(proc=GWFFN)
@tag("fixed_pt")
class GWFFNModel(_SubProcesses):
    """The processes of a GWFFN block."""


@implements(proc=Head)
@tag("fixed_pt")
class HeadModel(_SubProcesses):
    """The processes of a head."""


BLOCK_MODELS = (BlockModel, NetworkModel, StemModel, DownsampleModel, DSSAModel, GWFFNModel, HeadModel)
