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
        epilog="The architecture is read off the checkpoint's tensors. Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="checkpoint: .pt, .pth or .safetensors; or a .nir file, or a .net of lava-dl",
    )
    group = parser.add_argument_group("what to write")
    _add_output_options(group)
    parser.add_quiet_option(group, "errors, warnings and dumps")
    _add_chip_options(parser.add_argument_group("where to place it"))
    _add_network_options(parser.add_argument_group("how to read the network"))
    _add_width_options(parser.add_argument_group("how to quantize"))
    _add_calibration_options(parser.add_argument_group("what to quantize for"))
    group = parser.add_argument_group("what the build holds about samples, for calibration and for whoever runs it")
    add_preprocessing_options(group)
    group.add_argument(
        "--classes",
        metavar="NAME,NAME,...|FILE",
        help="names of the classes, class 0 first, or a file with one a line (default: those of the folders in the "
        "--calibration folder, in sorted order, if there is one a class)",
    )
    return parser


def _add_output_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--target",
        type=names(TARGETS),
        action="extend",
        default=[],
        metavar=f"{{{','.join(TARGETS)}}}",
        help="what to write, repeatable or separated by commas: lava or sim (all that running and verifying "
        "need, the same for both), onnx (that and ONNX models: of the program, and of a SpikingResformer's float "
        "network), nir (the float graph and the quantized one, alone)",
    )
    group.add_argument("-o", "--output", type=Path, metavar="BUILD", help="folder to write")
    group.add_argument(
        "--dump-after",
        type=lambda text: text.split(","),
        action="extend",
        default=[],
        metavar="PASS",
        help="print the network after a pass, repeatable or separated by commas: import, a pass, or all",
    )


def _add_chip_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--chip",
        default=DEFAULT,
        metavar=f"{{{','.join(PACKAGED)},FILE.yaml,{NO_CHIP}}}",
        help="chip to place the network on, or none (default: %(default)s)",
    )
    group.add_argument(
        "--optimize",
        choices=("cores", "time", "energy"),
        default="cores",
        help="lay the network out on the fewest cores, for the shortest step, or for the least energy of a sample, as "
        f"the model of --cost predicts them for the first --calibration samples, or for {100 * ASSUMED_RATE:.0f} %% of "
        "all neurons firing at each step "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--optimize-cores",
        type=positive_int,
        metavar="PERCENT",
        help=f"with --optimize time or energy: the most cores to take, in percent of the fewest (default: "
        f"{CORES_PERCENT})",
    )
    group.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        help="with --optimize time or energy: of the order in which layouts are tried; the same seed, the same layout "
        "(default: 0)",
    )
    group.add_argument(
        "--check", action="store_true", help="only say whether the network fits the chip, and what bounds each layer"
    )
    add_json_option(group, "FILE", "with --check: file to write the placement to; with --sweep: the table")


def _add_network_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--timesteps",
        type=positive_int,
        metavar="T",
        help="steps a sample; of a .net its reset interval (default: as trained, or as the file says)",
    )
    group.add_argument(
        "--input-size", type=positive_int, metavar="N", help="edge of the square input, in pixels (default: as trained)"
    )
    group.add_argument(
        "--weights-key",
        metavar="KEY",
        help="checkpoint: under which key the weights are, such as model_ema (default: the first of the usual ones)",
    )
    group.add_argument(
        "--neuron",
        choices=("IF", "LIF", "PLIF"),
        help="checkpoint: which neuron every population is (default: as the file says, else PLIF where it has their "
        "parameters, and LIF with tau 2 where it has none)",
    )
    group.add_argument(
        "--stem-stride",
        type=positive_int,
        metavar="N",
        help="checkpoint: stride of the stem's convolution (default: as the file says, else 2 of 7x7 and 1 of 3x3)",
    )
    group.add_argument(
        "--stem-pool",
        action=argparse.BooleanOptionalAction,
        help="checkpoint: whether a max-pool follows it (default: as the file says, else after 7x7 only)",
    )
    group.add_argument(
        "--feature-rounding",
        choices=("floor", "ceil"),
        help="checkpoint: how DSSA's patches are counted where sizes are odd, as the authors' class does (floor) or as "
        "many as there are (ceil) (default: as the file says)",
    )
    group.add_argument(
        "--architecture",
        type=_settings,
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="checkpoint of another family than SpikingResformer: what no tensor of it tells, such as num_heads=12 or "
        "pooling=0011, repeatable or separated by commas (default: as the file says, else as the authors have it)",
    )
    group.add_argument(
        "--dt", type=float, metavar="SECONDS", help=".nir: the length of a step (default: as the file's metadata say)"
    )
    group.add_argument(
        "--input-kind",
        choices=("static", "frames"),
        help="whether samples are real numbers or frames of events, which are counts, or fractions where they were "
        "resized (default: what a .nir of ours says; frames for checkpoints with PLIF neurons, or of other families "
        "with two channels; else static)",
    )
    group.add_argument(
        "--reset",
        choices=("hard", "soft", "late", "prompt"),
        help=".nir: how neurons reset where the file does not say: to v_reset, by subtraction, by subtraction a step "
        "late, or as snnTorch subtracts without delay (default: hard, as NIR defines it)",
    )
    group.add_argument(
        "--spikes-per-step",
        type=_spikes_per_step,
        metavar="single|multi|N",
        help=".nir: how often an IF may fire in a step whose file does not say, its threshold subtracted each time as "
        f"of Sinabs' IAF: once, as often as it can (up to {MOST_SPIKES}), or N times (default: single)",
    )
    group.add_argument(
        "--min-v",
        type=float,
        metavar="V",
        help=".nir: the floor under the potential of IF neurons that may fire several spikes a step (default: none)",
    )


def _add_width_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--weight-bits",
        type=_weight_bits,
        metavar=f"{WEIGHT_BITS[0]}..{WEIGHT_BITS[-1]}",
        help=f"width of a weight, sign included; above {STORED_BITS}, two synapses in convolutions and "
        f"recurrent layers, for 9 of few weights alone (default: {STORED_BITS})",
    )
    group.add_argument(
        "--layer-bits",
        type=_layer_bits,
        action="extend",
        default=[],
        metavar="NAME=BITS",
        help="another width for a layer, repeatable or separated by commas; report.json has the names",
    )
    group.add_argument(
        "--precision",
        choices=("fixed", "auto"),
        default="fixed",
        help="auto: each layer gets 4 bits up to --weight-bits (here 9 by default), by what it loses on the "
        "--calibration images, within --synapse-budget (default: %(default)s, the same for all)",
    )
    group.add_argument(
        "--synapse-budget",
        type=_share,
        metavar="SHARE",
        help=f"with --precision auto: of the memory that {STORED_BITS} bits everywhere take, what the weights may "
        f"take, up to {SHARE_MAX} (default: {SYNAPSE_BUDGET})",
    )
    group.add_argument(
        "--per-layer-exponents", action="store_true", help="one weight exponent a layer, instead of one a channel"
    )
    group.add_argument(
        "--input-scale-exp",
        type=int,
        metavar="K",
        help="inputs are rounded to multiples of 2^-K (default: what loses least for images and fractional frames of "
        "--calibration, 0 for counts of events)",
    )
    group.add_argument(
        "--input-range",
        type=_input_range,
        metavar="LO:HI",
        help="what inputs lie between, such as 0:20 (--input-range=-1:1 where it begins below 0); the range is made "
        "symmetric, and up to a power of two (default: 1.5 times what --calibration samples reach, else -4:4, and "
        "0:255 for counts of events)",
    )


def _add_calibration_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="X",
        help="images of the training set to measure ranges on and to round weights and biases for: a folder, of which "
        "at most 256 are taken, or an array, .npy or .npz (default: ranges are estimated from the weights, and each "
        "weight is rounded to its nearest)",
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
