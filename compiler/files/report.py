"""``report.json``: its type, which is also the schema that its writer and its reader check it against."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypedDict, cast, get_args

from resformer.compiler.files.json_schema import Bounds, Count, Length, Positive, Within, check, shown
from resformer.compiler.ir.ops import Conv2d, Dense
from resformer.errors import FileFormatError
from resformer.models.limits import LONGEST_NAME
from resformer.models.zoo.names import FamilyName

FORMAT = "resformer-build"
FORMAT_VERSION = 1

Target = Literal["lava", "sim", "onnx", "nir"]
TARGETS: tuple[str, ...] = get_args(Target)
"""``lava``, ``sim``: all that running and verifying need, the same for both. ``onnx``: that and the ONNX models.
``nir``: the float graph and the quantized one, as NIR alone."""

NET_SUFFIX = ".net"
"""How the name of a file ends that is read as a netx network of lava-dl."""

ScaleExp = Annotated[int, Within(-1000, 1000)]
"""k of a scale 2^k that is a number in double precision, as its reciprocal is."""
Bits = Annotated[int, Within(0, 64)]


Setting: TypeAlias = Annotated[int, Within(0)] | Annotated[float, Within(0)] | str | bool
"""What no tensor tells of a network of the zoo's."""


class FileSource(TypedDict):
    """A checkpoint, a NIR file or a netx network that was compiled."""

    file: str
    sha256: str


class ModuleSource(TypedDict):
    """A module in memory that was compiled: its class, and the hash of its state."""

    module: str
    sha256: str


class Options(TypedDict):
    """What the user chose; None where the compiler did."""

    timesteps: Positive | None
    input_size: Positive | None
    weight_bits: Bits | None
    layer_bits: dict[str, Bits]
    per_channel: bool
    clip_weights: bool
    input_scale_exp: ScaleExp | None
    input_range: Annotated[float, Within(0)] | None
    dt: Annotated[float, Within(0)] | None
    input_kind: Literal["static", "frames"] | None
    reset: str | None
    synapse_budget: Annotated[float, Within(0)] | None
    calibration_samples: Count | None
    weights_key: str | None
    neuron: Literal["IF", "LIF", "PLIF"] | None
    stem_stride: Positive | None
    stem_pool: bool | None
    feature_rounding: Literal["floor", "ceil"] | None
    architecture: dict[str, Setting]


class SamplePreprocessing(TypedDict):
    """What is done to samples before the network is given them; mean and std are one number, or one a channel."""

    resize: bool
    mean: list[Annotated[float, Within(-1e18, 1e18)]] | None
    std: list[Annotated[float, Within(1e-18, 1e18)]] | None


class Architecture(TypedDict):
    """What a checkpoint's shapes tell, a value for each stage in the lists."""

    planes: list[Positive]
    blocks: list[list[str]]
    num_heads: list[Positive]
    patch_sizes: list[Positive]
    ffn_ratios: list[Positive]
    ffn_convs: list[Positive]
    group_sizes: list[Positive]
    in_channels: Positive
    num_classes: Positive
    stem: str
    neuron: str
    stem_stride: Positive | None
    stem_pool: bool | None


class FamilyArchitecture(TypedDict):
    """What is known of a network of the zoo's: its family, and the fields of that family's architecture."""

    family: FamilyName
    fields: dict[str, Setting | list[Positive]]


class Input(TypedDict):
    """The input's shape, and how real numbers become its integers."""

    shape: list[Positive]
    kind: Literal["static", "frames"]
    encoding: str
    uint8_divisor: Positive
    scale_exp: ScaleExp
    low: int
    high: int
    real_range: Annotated[list[float], Length(2)]


class Totals(TypedDict):
    """Counts over the whole network."""

    parameters: Count
    neurons: Count
    graded_neurons: Count
    synapses: Count
    weight_memory_bits: Count


class PlacedLayer(TypedDict):
    """What one population takes."""

    name: str
    cores: Positive
    tile: list[Positive]
    bound: str


class Placement(TypedDict):
    """What the chip is asked for; ``placement.json`` says which core holds what."""

    chip: str
    cores: Count
    chips: Count
    layers: list[PlacedLayer]


class Signal(TypedDict):
    """What a node sends; bits, low and high are None before range analysis."""

    kind: Literal["spike", "graded", "current"]
    bits: Bits | None
    scale_exp: ScaleExp
    low: int | None
    high: int | None


class Recurrent(TypedDict):
    """The synapses of neurons onto themselves."""

    weight_bits: Bits
    weight_exp: Bounds
    kernel: list[Positive]


class NodeFacts(TypedDict, total=False):
    """What only some operations have; a pair is the smallest and the largest of a parameter."""

    part_of: str
    stored_bits: Bits
    weight_bits: Bits
    weight_exp: Bounds
    synapses: Count
    sqnr_db: float | None
    vth: int | Bounds
    surplus: Bounds
    du: int | Bounds
    dv: int | Bounds
    bias: Bounds
    v_drop: Bounds
    u_bias: Bounds
    v_bias: Bounds
    reset: Literal["soft", "hard", "prompt"]
    recurrent: Recurrent
    limit: Count
    shift: Count
    floor: Bounds
    max_spikes: Count
    rounds_half: Literal["up", "to even"]
    num_heads: Positive
    gate: Literal["and", "or", "iand", "threshold"]
    may_saturate: bool


class Node(NodeFacts):
    """What became of a node."""

    name: str
    op: str
    shape: list[Positive]
    inputs: list[str]
    offset: Count
    signal: Signal


class Report(TypedDict):
    """The whole file."""

    format: Literal["resformer-build"]
    format_version: Annotated[int, Within(FORMAT_VERSION, FORMAT_VERSION)]
    versions: dict[str, str | None]
    source: FileSource | ModuleSource
    targets: list[Target]
    options: Options
    preprocessing: SamplePreprocessing
    classes: list[str] | None
    architecture: Architecture | FamilyArchitecture | None
    fine_tuned: bool
    timesteps: Positive
    input: Input
    latency_steps: Count
    is_dyadic: bool
    totals: Totals
    placement: Placement | None
    warnings: list[str]
    notes: list[str]
    assumptions: list[str]
    may_saturate: list[str]
    nodes: list[Node]
    files: dict[str, str]
    """Of each other file of the build, its SHA-256: one that was changed is the user's, and stays."""


WEIGHTED = (Conv2d.__name__, Dense.__name__)
LAYER_KEYS = ("weight_bits", "weight_exp", "synapses", "sqnr_db")
PART_KEYS = ("stored_bits",)


def check_report(content: Any) -> Report:
    """A report, once it is seen to be one.

    Args:
        content: As ``json`` reads it, or as it will write it.

    Raises:
        FileFormatError: It is none; the message names the first key that is missing, unknown, of a wrong type or out of
            its range, with its place.
    """
    check(content, Report)
    report = cast(Report, content)
    for index, node in enumerate(report["nodes"]):
        # the two parts of a layer's stacked synapses are told of where they meet
        is_layer = node["op"] in WEIGHTED or "weight_bits" in node
        for key in PART_KEYS if "part_of" in node else LAYER_KEYS if is_layer else ():
            if key not in node:
                raise FileFormatError(f"'nodes[{index}].{key}' is missing")
    seen: set[str] = set()
    for index, name in enumerate(report["classes"] or []):
        if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME or name in seen:
            raise FileFormatError(f"'classes[{index}]' is {shown(name)}, no name of one class alone")
        seen.add(name)
    return report
