"""Options and work of ``resformer-compile``: from a checkpoint, a NIR file or a netx network to a build folder."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resformer.compiler.chips.chip import DEFAULT, PACKAGED
from resformer.compiler.files.placement import ASSUMED_RATE, CORES_PERCENT, FEWEST_PERCENT, Layout
from resformer.compiler.files.report import NET_SUFFIX, TARGETS
from resformer.compiler.ir.ops.multi_spike import MOST_SPIKES
from resformer.compiler.ir.summary import counted, sizes
from resformer.compiler.progress import Progress
from resformer.compiler.quantize.plan import MIN_WEIGHT_BITS
from resformer.compiler.target import LOIHI
from resformer.runtime.cli.event_options import event_binning
from resformer.runtime.cli.outputs import add_json_option, terminal_for, write_result
from resformer.runtime.cli.sample_options import add_preprocessing_options, mean_and_std
from resformer.runtime.cli.terminal import (
    DONE,
    Parser,
    Terminal,
    UsageError,
    check_writable,
    names,
    positive_int,
    run_command,
    seed,
)
from resformer.runtime.cost.tables import layout_rows

if TYPE_CHECKING:
    from resformer.compiler.files.placement import PlacementFile
    from resformer.compiler.ir.graph import Graph
    from resformer.compiler.pipeline import CompileOptions
    from resformer.compiler.placement.place import Placement

WEIGHT_BITS = range(MIN_WEIGHT_BITS, LOIHI.stacked_bits_max + 1)
STORED_BITS = LOIHI.weight_bits_max
SYNAPSE_BUDGET = 0.75
SHARE_MAX = 2
"""The largest ``--synapse-budget``: two synapses for each weight."""
ALL = "all"
NO_CHIP = "none"
SEARCHED = ("optimize-cores", "seed")
"""Options that only the search for a layout takes."""
WORST_SHOWN = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Compile; returns the exit status."""
    return run_command(compile_parser(), argv, compile_build)


def compile_parser() -> Parser:
    """The parser of the options for compiling; ``runtime.cli.compile`` adds those that show or run the result."""
    parser = Parser(
        prog="resformer-compile",
        description="Compile a trained SpikingResformer, a network of another family (Spikformer, Spikingformer, "
        "QKFormer, Spike-driven Transformer v1 and v3, Meta-SpikeFormer, Max-Former, SEW-ResNet), or a NIR or netx "
        "network, for Loihi-style hardware.",
        epilog="The architecture is read from the checkpoint's tensors. Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a checkpoint (.pt, .pth or .safetensors), a .nir file, or a .net file of lava-dl",
    )
    group = parser.add_argument_group("what to write")
    _add_output_options(group)
    parser.add_quiet_option(group, "errors, warnings and dumps")
    _add_chip_options(parser.add_argument_group("where to place it"))
    _add_network_options(parser.add_argument_group("how to read the network"))
    _add_width_options(parser.add_argument_group("how to quantize"))
    _add_calibration_options(parser.add_argument_group("what to quantize for"))
    group = parser.add_argument_group("how samples are preprocessed, for calibration and in every run of the build")
    add_preprocessing_options(group)
    group.add_argument(
        "--classes",
        metavar="NAME,NAME,...|FILE",
        help="names of the classes, class 0 first, or a file with one name on each line (default: the names of the "
        "folders in the --calibration folder, in sorted order, if there is one folder for each class)",
    )
    return parser


def _add_output_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--target",
        type=names(TARGETS),
        action="extend",
        default=[],
        metavar=f"{{{','.join(TARGETS)}}}",
        help="what to write; repeatable or separated by commas. lava and sim write the same files: all that running "
        "and verifying need. onnx also writes ONNX models of the program and of a SpikingResformer's float network. "
        "nir writes only the float graph and the quantized graph",
    )
    group.add_argument("-o", "--output", type=Path, metavar="BUILD", help="folder to write")
    group.add_argument(
        "--dump-after",
        type=lambda text: text.split(","),
        action="extend",
        default=[],
        metavar="PASS",
        help="print the network after this pass: import, the name of a pass, or all; repeatable or separated by commas",
    )


def _add_chip_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--chip",
        default=DEFAULT,
        metavar=f"{{{','.join(PACKAGED)},FILE.yaml,{NO_CHIP}}}",
        help="chip to place the network on; none: compile without placing (default: %(default)s)",
    )
    group.add_argument(
        "--optimize",
        choices=("cores", "time", "energy"),
        default="cores",
        help="choose the layout with the fewest cores, the shortest step (time) or the least energy for a sample. The "
        "model of --cost predicts time and energy for the first --calibration samples; without samples, it assumes "
        f"that {100 * ASSUMED_RATE:.0f} %% of all neurons fire at each step (default: %(default)s)",
    )
    group.add_argument(
        "--optimize-cores",
        type=positive_int,
        metavar="PERCENT",
        help="with --optimize time or energy: the most cores that the layout may take, in percent of the fewest "
        f"possible (default: {CORES_PERCENT})",
    )
    group.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        help="with --optimize time or energy: seed for the order in which layouts are tried; the same seed gives the "
        "same layout (default: 0)",
    )
    group.add_argument(
        "--check", action="store_true", help="only say whether the network fits the chip, and what limits each layer"
    )
    add_json_option(group, "FILE", "file to write the placement to (with --check), or the table (with --sweep)")


def _add_network_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--timesteps",
        type=positive_int,
        metavar="T",
        help="number of steps of a sample; for a .net file, its reset interval (default: as trained, or as the file "
        "says)",
    )
    group.add_argument(
        "--input-size",
        type=positive_int,
        metavar="N",
        help="checkpoint: edge of the square input, in pixels (default: as trained)",
    )
    group.add_argument(
        "--weights-key",
        metavar="KEY",
        help="checkpoint: key under which the file holds the weights, such as model_ema (default: the first of the "
        "usual keys)",
    )
    group.add_argument(
        "--neuron",
        choices=("IF", "LIF", "PLIF"),
        help="SpikingResformer checkpoint: kind of all neurons (default: as the file says; else PLIF if the file has "
        "parameters of PLIF neurons, and LIF with tau 2 if it has none)",
    )
    group.add_argument(
        "--stem-stride",
        type=positive_int,
        metavar="N",
        help="SpikingResformer checkpoint: stride of the stem's convolution (default: as the file says; else 2 for a "
        "7x7 convolution and 1 for a 3x3 convolution)",
    )
    group.add_argument(
        "--stem-pool",
        action=argparse.BooleanOptionalAction,
        help="SpikingResformer checkpoint: whether a max-pool follows the stem's convolution (default: as the file "
        "says; else only after a 7x7 convolution)",
    )
    group.add_argument(
        "--feature-rounding",
        choices=("floor", "ceil"),
        help="SpikingResformer checkpoint: how DSSA counts patches where sizes are odd. floor: round down, as the "
        "authors' class does; ceil: count all patches that there are (default: as the file says; if it does not say, "
        "sizes for which the two differ are refused)",
    )
    group.add_argument(
        "--architecture",
        type=_settings,
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="checkpoint of a family other than SpikingResformer: a setting that no tensor tells, such as num_heads=12 "
        "or pooling=0011; repeatable or separated by commas (default: as the file says; else as in the authors' code)",
    )
    group.add_argument(
        "--dt", type=float, metavar="SECONDS", help=".nir: length of a step (default: as the file's metadata say)"
    )
    group.add_argument(
        "--input-kind",
        choices=("static", "frames"),
        help="static: samples are real numbers; frames: samples are frames of events, which hold counts, or fractions "
        "if they were resized (default: as the file says, for a .nir file that resformer wrote; frames for a "
        "SpikingResformer with PLIF neurons, for other families with two input channels, and for a .net file that "
        "takes spikes; else static)",
    )
    group.add_argument(
        "--reset",
        choices=("hard", "soft", "late", "prompt"),
        help=".nir: how neurons reset if the file does not say. hard: to v_reset; soft: the threshold is subtracted; "
        "late: it is subtracted one step late; prompt: it is subtracted as in snnTorch without delay (default: hard, "
        "as NIR defines it)",
    )
    group.add_argument(
        "--spikes-per-step",
        type=_spikes_per_step,
        metavar="single|multi|N",
        help=".nir: how often an IF neuron may fire in a step if the file does not say: once (single), as often as it "
        f"can, up to {MOST_SPIKES} times (multi), or N times. Each spike subtracts the threshold, as in Sinabs' IAF "
        "(default: single)",
    )
    group.add_argument(
        "--min-v",
        type=float,
        metavar="V",
        help=".nir: the lowest potential of IF neurons that may fire several spikes in a step (default: no limit)",
    )


def _add_width_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--weight-bits",
        type=_weight_bits,
        metavar=f"{WEIGHT_BITS[0]}..{WEIGHT_BITS[-1]}",
        help=f"bits of a weight, sign included. Above {STORED_BITS}, a weight of a convolution or a recurrent layer "
        f"takes two synapses; with 9 bits, only a few weights do (default: {STORED_BITS})",
    )
    group.add_argument(
        "--layer-bits",
        type=_layer_bits,
        action="extend",
        default=[],
        metavar="NAME=BITS",
        help="bits of one layer's weights, if they differ from --weight-bits; repeatable or separated by commas; "
        "report.json lists the layers' names",
    )
    group.add_argument(
        "--precision",
        choices=("fixed", "auto"),
        default="fixed",
        help="fixed: all layers get --weight-bits; auto: each layer gets between 4 bits and --weight-bits (here 9 by "
        "default), depending on what it loses on the --calibration images. Together they keep within --synapse-budget. "
        "The classifier and recurrent weights are left out of this (default: %(default)s)",
    )
    group.add_argument(
        "--synapse-budget",
        type=_share,
        metavar="SHARE",
        help="with --precision auto: the memory that the weights may take, as a share of what they take at "
        f"{STORED_BITS} bits everywhere; at most {SHARE_MAX} (default: {SYNAPSE_BUDGET})",
    )
    group.add_argument(
        "--per-layer-exponents",
        action="store_true",
        help="use one weight exponent for each layer, instead of one for each channel",
    )
    group.add_argument(
        "--input-scale-exp",
        type=int,
        metavar="K",
        help="round inputs to multiples of 2^-K (default: 0 for counts of events; the K that loses least for images, "
        "and for frames if those of --calibration hold fractions)",
    )
    group.add_argument(
        "--input-range",
        type=_input_range,
        metavar="LO:HI",
        help="lowest and highest input, such as 0:20 (write --input-range=-1:1 if LO is below 0). The range is made "
        "symmetric, and is widened to a power of two (default: 1.5 times the range of the --calibration samples; "
        "without samples, -4:4; for counts of events, at least 0:255)",
    )


def _add_calibration_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="X",
        help="training samples, used to measure ranges and to round weights and biases: a folder (at most 256 of its "
        "files are used), an array (.npy or .npz), or a recording of an event camera (default: ranges are estimated "
        "from the weights, and each weight is rounded to the nearest integer)",
    )


def _spikes_per_step(text: str) -> int:
    """An argument type: how many spikes a step, as a number or one of two words.

    Raises:
        ArgumentTypeError: The text is neither.
    """
    words = {"single": 1, "multi": MOST_SPIKES}
    count: int = words[text] if text in words else int(text) if text.isdecimal() else 0
    if not 1 <= count <= MOST_SPIKES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of single, multi and 1 to {MOST_SPIKES}")
    return count


def _weight_bits(text: str) -> int:
    if text not in map(str, WEIGHT_BITS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a width that one or two Loihi synapses store: {WEIGHT_BITS[0]} to {WEIGHT_BITS[-1]} bits"
        )
    return int(text)


def _layer_bits(text: str) -> list[tuple[str, int]]:
    found = []
    for each in text.split(","):
        name, equals, bits = each.rpartition("=")
        if not (name and equals):
            raise argparse.ArgumentTypeError(f"{each!r} is not NAME=BITS, a layer's name and its weights' width")
        found.append((name, _weight_bits(bits)))
    return found


def _settings(text: str) -> list[tuple[str, str]]:
    found = []
    for each in text.split(","):
        name, equals, value = each.partition("=")
        if not (name and equals and value):
            raise argparse.ArgumentTypeError(f"{each!r} is not NAME=VALUE, such as num_heads=12")
        found.append((name, value))
    return found


def _input_range(text: str) -> float:
    """An argument type: the larger magnitude of the two ends of a range."""
    try:
        low, high = (float(each) for each in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range LO:HI of two numbers, the lower first, such as 0:1")
    return max(abs(low), abs(high))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= SHARE_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share of what {STORED_BITS} bits take: more than 0, at most {SHARE_MAX}"
        )
    return share


def _check_usage(arguments: argparse.Namespace) -> None:
    """Find out before any work is done that the arguments contradict each other.

    Raises:
        UsageError: They contradict each other.
        OSError: The file for ``--json`` cannot be written.
    """
    if arguments.precision == "auto" and arguments.calibration is None:
        raise UsageError("--precision auto: measures what each layer loses, so it needs --calibration images")
    if arguments.precision == "auto" and arguments.layer_bits:
        raise UsageError("--precision auto: chooses every layer's width; leave out --layer-bits, or it")
    if arguments.precision != "auto" and arguments.synapse_budget is not None:
        raise UsageError("--synapse-budget: goes with --precision auto")
    if arguments.optimize == "cores":
        check_unsearched(arguments)
    elif arguments.chip == NO_CHIP or set(arguments.target) == {"nir"}:
        raise UsageError(f"--optimize {arguments.optimize}: lays a program out on a chip; name a chip and its target")
    if arguments.optimize_cores is not None and arguments.optimize_cores < FEWEST_PERCENT:
        raise UsageError(
            f"--optimize-cores: {arguments.optimize_cores} percent are too few; give {FEWEST_PERCENT} or more"
        )
    if not arguments.check:
        given = {"--target": arguments.target, "-o/--output": arguments.output}
        missing = [name for name, value in given.items() if not value]
        if missing:
            raise UsageError(f"the following arguments are required: {', '.join(missing)}")
        if arguments.json is not None:
            raise UsageError("--json: goes with --check or --sweep; a build has its placement.json")
        return
    if arguments.target or arguments.output is not None:
        raise UsageError("--check: writes no build; leave out --target and -o, or --check")
    if arguments.chip == NO_CHIP:
        raise UsageError(f"--check: needs a chip, not {NO_CHIP}")
    if arguments.json is not None:
        check_writable(arguments.json)


def check_unsearched(arguments: argparse.Namespace, swept: Collection[str] = ()) -> None:
    """Refuse options of the search for a layout if there is no search.

    Args:
        arguments: The parsed arguments.
        swept: The options that a sweep varies.

    Raises:
        UsageError: One of them was given.
    """
    for name in SEARCHED:
        if name in swept or getattr(arguments, name.replace("-", "_")) is not None:
            raise UsageError(f"--{name}: goes with --optimize time or --optimize energy")


def compile_build(arguments: argparse.Namespace, also: Callable[[Terminal], None] = lambda _terminal: None) -> int:
    """Compile, and write a build or check the placement; returns the exit status.

    Args:
        arguments: The parsed arguments.
        also: Called after a build was written, before its summary is printed.
    """
    _check_usage(arguments)
    if arguments.check:
        return _check(arguments)
    terminal = Terminal(quiet=arguments.quiet)
    with terminal.progress() as update:
        update("starting", 0, 0)
        from resformer.compiler.files.build import read_build
        from resformer.compiler.pipeline import route_of
        from resformer.runtime.compiled import compile  # noqa: A004

        options = compile_options(arguments)
        dump = _Dump(arguments.dump_after, route_of(arguments.model, options).pass_names, update)
        compile(
            arguments.model,
            target=arguments.target,
            output=arguments.output,
            options=options,
            observe=dump,
            progress=update,
        )
        build = read_build(arguments.output)
    for text in dump.texts:
        terminal.verdict(text)
    _show_details(terminal, build.report, build.placement())
    terminal.wrote(*build.files)
    also(terminal)
    _summarize(terminal, arguments.model, build.report)
    if set(arguments.target) != {"nir"}:
        folder, model = (shlex.quote(str(path)) for path in (arguments.output, arguments.model))
        terminal.suggest(f"resformer-verify {folder} --model {model} --input IMAGES.npy")
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    """Place the network, print the placement, and fail if it does not fit; returns the exit status."""
    terminal = terminal_for(arguments)
    with terminal.progress() as update:
        update("starting", 0, 0)
        from resformer.compiler.pipeline import route_of
        from resformer.runtime.compiled import compile  # noqa: A004

        options = compile_options(arguments)
        dump = _Dump(arguments.dump_after, route_of(arguments.model, options).pass_names, update)
        compiled = compile(arguments.model, options=options, observe=dump, progress=update)
        placement = compiled.place()
    for text in dump.texts:
        terminal.verdict(text)
    source, sample_notes = compiled.compilation.source, compiled.compilation.sample_notes
    _show_notices(terminal, source.assumptions, (*source.notes, *sample_notes), compiled.compilation.warnings)
    if arguments.json is not None:
        write_result(terminal, arguments.json, placement.to_json())
    _show_placement(terminal, placement)
    placement.require()
    return DONE


def _show_placement(terminal: Terminal, placement: Placement) -> None:
    """Print what each layer takes."""
    chip = placement.chip
    terminal.table(
        f"{counted(placement.cores, 'core')}, {counted(placement.chips, 'chip')} of {chip.name}",
        ("layer", "neurons are", " neurons", " cores", "a core holds", "bound by", " used"),
        [
            (
                layer.population.name,
                layer.population.kind,
                f"{layer.population.neurons:,}",
                layer.cores,
                sizes(layer.tiling.tile),
                (bound := layer.tiling.bound(chip)),
                f"{layer.tiling.utilization(chip)[bound]:.0%}",
            )
            for layer in placement.layers
        ],
    )
    _show_layout(terminal, placement.layout)


def _show_layout(terminal: Terminal, layout: Layout | None) -> None:
    """Print how an optimised layout compares with the one with the fewest cores."""
    if layout is not None:
        title = f"Layouts, activity {layout['activity']}, seed {layout['seed']}"
        terminal.table(title, *layout_rows(layout))


def compile_options(arguments: argparse.Namespace) -> CompileOptions:
    """The options of compiling that the arguments choose.

    Raises:
        ResformerError: A file that the arguments name cannot be read.
    """
    from resformer.compiler.chips.chip import load_chip
    from resformer.compiler.pipeline import CompileOptions
    from resformer.compiler.quantize.choose import QuantizationConfig
    from resformer.compiler.samples.classes import read_classes
    from resformer.compiler.samples.events.frames import WHOLE
    from resformer.compiler.samples.files import SampleFiles

    calibration = arguments.calibration
    mean, std = mean_and_std(arguments)
    return CompileOptions(
        timesteps=arguments.timesteps,
        image_size=arguments.input_size,
        quantization=QuantizationConfig(
            weight_bits=arguments.weight_bits,
            layer_bits=dict(arguments.layer_bits),
            per_channel=not arguments.per_layer_exponents,
            input_scale_exp=arguments.input_scale_exp,
            input_range=arguments.input_range,
        ),
        synapse_budget=(arguments.synapse_budget or SYNAPSE_BUDGET) if arguments.precision == "auto" else None,
        calibration=None if calibration is None else SampleFiles(calibration, event_binning(arguments) or WHOLE),
        # --target nir writes the float graph alone, which has nothing to place
        chip=None if arguments.chip == NO_CHIP or set(arguments.target) == {"nir"} else load_chip(arguments.chip),
        optimize=arguments.optimize,
        cores_percent=arguments.optimize_cores or CORES_PERCENT,
        seed=arguments.seed or 0,
        dt=arguments.dt,
        input_kind=arguments.input_kind,
        reset=arguments.reset,
        spikes_per_step=arguments.spikes_per_step,
        min_v=arguments.min_v,
        weights_key=arguments.weights_key,
        neuron=arguments.neuron,
        stem_stride=arguments.stem_stride,
        stem_pool=arguments.stem_pool,
        feature_rounding=arguments.feature_rounding,
        architecture=dict(arguments.architecture),
        mean=mean,
        std=std,
        resize=arguments.resize,
        classes=None if arguments.classes is None else read_classes(arguments.classes),
    )


class _Dump:
    """Called with each pass's result: shows progress, and keeps the texts that ``--dump-after`` asks for.

    Raises:
        UsageError: A wanted pass does not exist.
    """

    def __init__(self, wanted: Sequence[str], passes: Sequence[str], update: Progress) -> None:
        for name in wanted:
            if name not in (*passes, ALL):
                raise UsageError(f"--dump-after: there is no pass {name!r}; there are {', '.join(passes)} and {ALL}")
        self.texts: list[str] = []
        self._wanted = tuple(passes if ALL in wanted else wanted)
        self._update = update
        self._steps = len(passes)
        self._done = 0

    def __call__(self, name: str, graph: Graph[Any]) -> None:
        self._done += 1
        self._update(name, self._done, self._steps)
        if name in self._wanted:
            from resformer.compiler.ir.text import format_graph

            self.texts.append(f"# after {name}\n{format_graph(graph)}")


def _summarize(terminal: Terminal, model: Path, report: Any) -> None:
    """Print a summary of the compiled network."""
    from resformer.compiler.samples.classes import listed
    from resformer.compiler.samples.preprocessing import Preprocessing
    from resformer.runtime.given import Held

    net, totals, entry = report["architecture"], report["totals"], report["input"]
    low, high = entry["real_range"]
    signals = [
        node["signal"] for node in report["nodes"] if node["op"] in ("Conv2d", "SpikeMatMul", "SpikeAttention", "Dense")
    ]
    scales = [signal["scale_exp"] for signal in signals if signal["kind"] != "spike"] or [0]
    rows = [
        ("network", _network(report)),
        ("input", f"{sizes(entry['shape'])}, steps of 2^-{entry['scale_exp']} from {low:g} to {high:g}"),
        ("time", f"{report['timesteps']} steps a sample, {report['latency_steps']} steps of latency"),
        (
            "size",
            f"{totals['parameters']:,} parameters, {totals['neurons']:,} LIF neurons, {totals['synapses']:,} synapses",
        ),
        ("scales", f"currents in steps of 2^-{min(scales)} to 2^-{max(scales)}"),
        ("may saturate", f"{len(report['may_saturate'])} of {len(report['nodes'])} nodes"),
    ]
    held = Held.by(report)
    if held.preprocessing != Preprocessing():
        rows.append(("samples", f"{held.preprocessing}: held by the build, and done by whoever runs it"))
    if held.classes is not None:
        rows.append(("classes", listed(held.classes)))
    placement = report["placement"]
    if placement is not None:
        cores = counted(placement["cores"], "core")
        rows.append(("chip", f"{cores}, {counted(placement['chips'], 'chip')} of {placement['chip']}"))
    rows.append(("weights", _weights(report)))
    if net is not None and "family" not in net:
        exact = "spike for spike" if report["is_dyadic"] else "measured, not exact: T is above 7 or a decay is rounded"
        rows.append(("against SpikingJelly", exact))
    terminal.table(f"{model.name} compiled", ("what", "value"), rows)


def _show_details(terminal: Terminal, report: Any, placed: PlacementFile | None) -> None:
    """Print details of single layers, and what a reader should know."""
    _show_layout(terminal, None if placed is None else placed["layout"])
    if report["options"]["synapse_budget"] is not None:
        weighted = [(node["name"], node["weight_bits"]) for node in report["nodes"] if "weight_bits" in node]
        terminal.table("Widths by layer", ("layer", " bits"), weighted)
    layers = [node for node in report["nodes"] if node.get("sqnr_db") is not None]
    worst = sorted(layers, key=lambda node: node["sqnr_db"])[:WORST_SHOWN]
    if worst:
        terminal.table(
            "Layers that rounding changed most",
            ("layer", " bits", " exponents", " weights' SQNR, dB"),
            [
                (node["name"], node["weight_bits"], "..".join(map(str, node["weight_exp"])), f"{node['sqnr_db']:.1f}")
                for node in worst
            ],
        )
    _show_notices(terminal, report["assumptions"], report["notes"], report["warnings"])


def _show_notices(
    terminal: Terminal, assumptions: Sequence[str], notes: Sequence[str], warnings: Sequence[str]
) -> None:
    """Print what a reader should know about the network that was read, a line each."""
    for kind, lines in (("assumed", assumptions), ("note", notes)):
        for line in lines:
            terminal.line(f"{kind}: {line}")
    for line in warnings:
        terminal.warning(line)


def _weights(report: Any) -> str:
    """How wide the weights are, and how they were rounded."""
    widths = sorted({node["weight_bits"] for node in report["nodes"] if "weight_bits" in node}) or [0]
    bits = f"{widths[-1]} bits" if len(widths) == 1 else f"{widths[0]} to {widths[-1]} bits"
    if _is_netx(report):
        return f"as the file has them, {bits}"
    if report["fine_tuned"]:
        return f"as fine-tuned, {bits}"
    samples = report["options"]["calibration_samples"]
    if samples is None:
        return f"{bits}, rounded without data: ranges estimated, biases uncorrected; --calibration X.npy loses less"
    return f"{bits}, rounded for what {samples:,} calibration samples make each layer read"


def _network(report: Any) -> str:
    """The network that the file holds, in a line."""
    architecture = report["architecture"]
    if architecture is None:
        return "from netx" if _is_netx(report) else "from NIR"
    if "family" in architecture:
        from resformer.models.zoo.recognise import FAMILIES

        fields = architecture["fields"].items()
        return f"{FAMILIES[architecture['family']].title}, " + ", ".join(
            f"{name.replace('_', ' ')} {_row(value) if isinstance(value, list) else value}" for name, value in fields
        )
    planes, heads = (_row(architecture[each]) for each in ("planes", "num_heads"))
    return f"{architecture['neuron']}, planes {planes}, heads {heads}, {architecture['stem']} stem"


def _is_netx(report: Any) -> bool:
    return str(report["source"].get("file", "")).endswith(NET_SUFFIX)


def _row(values: Sequence[int]) -> str:
    return "-".join(map(str, values))
