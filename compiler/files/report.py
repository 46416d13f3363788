"""``report.json``: its type, which is also the schema that its writer and its reader check it against."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypedDict, cast, get_args

from resformer.compiler.files.json_schema import Bounds, Count, Length, Positive, Within, check, shown
from resformer.compiler.ir.ops import Conv2d, Dense
from resformer.errors import FileFormatError
from resformer.models.limits import LONGEST_NAME, allowed
from resformer.models.zoo.names import FamilyName

FORMAT = "resformer-build"
FORMAT_VERSION = 1

Target = Literal["lava", "sim", "onnx", "nir"]
TARGETS: tuple[str, ...] = get_args(Target)
"""``lava`` and ``sim`` write the same: all files that running and verifying need. ``onnx`` writes these and the ONNX
models. ``nir`` writes the float graph and the quantized graph as NIR, and no program."""

NET_SUFFIX = ".net"
"""The suffix of files that are read as netx networks of lava-dl."""

ScaleExp = Annotated[int, Within(-1000, 1000)]
"""The exponent k of a scale 2^k; double precision holds both 2^k and its reciprocal."""
Bits = Annotated[int, Within(0, 64)]


Setting: TypeAlias = Annotated[int, Within(0)] | Annotated[float, Within(0)] | str | bool
"""The value of a setting of a zoo network that no tensor of its checkpoint tells."""


class FileSource(TypedDict):
    """A checkpoint, a NIR file or a netx network that was compiled."""

    file: str
    sha256: str


class ModuleSource(TypedDict):
    """A module in memory that was compiled: its class, and the hash of its state."""

    module: str
    sha256: str


class Options(TypedDict):
    """What the user chose; None for a choice that was left to the compiler."""

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
    """What is done to samples before the network gets them; mean and std hold one number, or one a channel."""

    resize: bool
    mean: list[Annotated[float, Within(-1e18, 1e18)]] | None
    std: list[Annotated[float, Within(1e-18, 1e18)]] | None


class Architecture(TypedDict):
    """What the shapes of a SpikingResformer's checkpoint tell; each list holds one value a stage."""

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
    """What is known of a zoo network: its family, and the fields of that family's architecture."""

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
    """What one population takes on the chip."""

    name: str
    cores: Positive
    tile: list[Positive]
    bound: str


class Placement(TypedDict):
    """What the program takes on the chip; ``placement.json`` says which core holds which neurons."""

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
    """Fields that only some operations have; a pair is the smallest and the largest value of a parameter."""

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
    """One node of the compiled program."""

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
    """The SHA-256 of each other file of the build. A file that was changed is the user's: no build replaces it."""


WEIGHTED = (Conv2d.__name__, Dense.__name__)
LAYER_KEYS = ("weight_bits", "weight_exp", "synapses", "sqnr_db")
PART_KEYS = ("stored_bits",)


def check_report(content: Any) -> Report:
    """Check a report, and return it.

    Args:
        content: The report, as ``json`` reads it or will write it.

    Raises:
        FileFormatError: It is not a report; the message names the first key that is missing, unknown, of a wrong type
            or out of its range, with its place.
    """
    check(content, Report)
    report = cast(Report, content)
    for index, node in enumerate(report["nodes"]):
        # a layer of stacked synapses has its facts at the node that adds its two parts
        is_layer = node["op"] in WEIGHTED or "weight_bits" in node
        for key in PART_KEYS if "part_of" in node else LAYER_KEYS if is_layer else ():
            if key not in node:
                raise FileFormatError(f"'nodes[{index}].{key}' is missing")
    seen: set[str] = set()
    for index, name in enumerate(report["classes"] or []):
        if not name.strip() or not name.isprintable() or len(name) > allowed(LONGEST_NAME) or name in seen:
            raise FileFormatError(f"'classes[{index}]' is {shown(name)}, no name of one class alone")
        seen.add(name)
    return report
