"""The four equivalences (E1 to E4), judged: what was counted for each, and whether it passed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from resformer.compiler.export.checkpoint import TIE_SHIFT
from resformer.compiler.ir.ops import Dense, Output, Relay, SumPool2d
from resformer.compiler.ir.program import Scheduled, layer_names, real_weight
from resformer.compiler.samples.arrays import Samples
from resformer.runtime.run.trace import Comparison, require_complete
from resformer.runtime.verify.checks import LogitErrors, Sides, Tally, differing_weights, recorded_names
from resformer.runtime.verify.diverge import backend_divergence, float_divergence, quantized_divergence
from resformer.runtime.verify.graphs import A_FILE
from resformer.runtime.verify.nir_network import NirNetwork
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, ORIGINAL, QUANTIZED, Check, Counts
from resformer.runtime.verify.torch_network import TorchNetwork
from resformer.runtime.verify.user_network import UserNetwork


def judge(
    sides: Sides, tally: Tally, samples: Samples, expected: Mapping[str, int], backend: str | None
) -> dict[str, Check]:
    """The results of all checks that ran, by name.

    Args:
        sides: The sides that were compared.
        tally: The counts of all samples.
        samples: All samples.
        expected: By population, how many spikes must have been compared.
        backend: The backend's name; None if the reference interpreter, the program's definition, took its place.
    """
    checks: dict[str, Check] = {}
    if sides.original is not None:
        checks[FLOAT_GRAPH] = _float_graph(sides, sides.original, tally, samples, expected)
    if backend is not None:
        checks[BACKEND] = _backend(sides.program, tally, backend, samples, expected)
    if sides.quantized is not None:
        checks[QUANTIZED] = _quantized(sides, sides.quantized, tally, samples, expected)
    if sides.original is not None:
        checks[ORIGINAL] = _original(sides, tally, expected)
    return checks


def _float_graph(
    sides: Sides,
    original: TorchNetwork | NirNetwork,
    tally: Tally,
    samples: Samples,
    expected: Mapping[str, int],
) -> Check:
    """E1: the original against all float graphs."""
    assert tally.float_graph.keys() == sides.graphs.keys()
    divergence = None
    readouts_agree = all(_same_readout(original, logits) for logits in tally.float_logits.values())
    for stage, comparison in tally.float_graph.items():
        require_complete(f"{FLOAT_GRAPH}, {stage}", comparison.compared, expected)
        if comparison.first is not None and divergence is None:
            layer = comparison.layers[comparison.first.layer]
            divergence = float_divergence(
                comparison.first, layer, original, stage, sides.graphs[stage], sides.program, samples
            )
    return Check(
        layers=_sum([_counts(comparison) for comparison in tally.float_graph.values()]),
        demanded=True,
        passed=readouts_agree and not any(comparison.wrong for comparison in tally.float_graph.values()),
        note=compared_graphs(sides.graphs),
        divergence=divergence,
        extra={
            "graphs": {
                stage: {
                    "compared": comparison.total,
                    "mismatched": comparison.wrong,
                    "logits_max_difference": tally.float_logits[stage].error,
                }
                for stage, comparison in tally.float_graph.items()
            }
        },
    )


def _same_readout(original: TorchNetwork | NirNetwork, logits: LogitErrors) -> bool:
    """Whether a float graph reads the original's spikes out as the original does.

    Code of the user's own may return something else than logits, such as probabilities; then classes are compared.
    """
    return logits.agree or (isinstance(original, UserNetwork) and not logits.classes)


def doubtful_readouts(tally: Tally) -> tuple[str, ...]:
    """A sentence if code of the user's own returns other values than the float graphs, though the same classes."""
    if all(each.agree or each.classes for each in tally.float_logits.values()):
        return ()
    return ("the code on the left of E1 returns other values than the build's logits, though the same classes",)


def compared_graphs(stages: Collection[str]) -> str:
    """Which float graphs were compared, in words.

    Args:
        stages: The names of the graphs: the import, each pass, and files.
    """
    files = sum(stage.startswith(A_FILE) for stage in stages)
    if files == len(stages):
        return "the build's file"
    passes = len(stages) - 1 - files
    after = {0: "", 1: ", after its only pass"}.get(passes, f", after each of {passes} passes")
    return f"the import{after}" + (", and the build's file" if files else "")


def _backend(program: Scheduled, tally: Tally, backend: str, samples: Samples, expected: Mapping[str, int]) -> Check:
    """E2: the reference interpreter against the backend."""
    comparison, steps = tally.backend, program.timesteps * len(samples)
    names = recorded_names(program)
    require_complete(BACKEND, comparison.compared, {name: steps * math.prod(program[name].shape) for name in names})
    counts = _counts(comparison)
    graded = [name for name in names if name not in expected and name != program.output.name]
    divergence = None
    if comparison.first is not None:
        layer = comparison.layers[comparison.first.layer]
        divergence = backend_divergence(comparison.first, layer, program, backend, samples)
    return Check(
        layers={name: counts[name] for name in expected},
        demanded=True,
        passed=comparison.wrong == 0,
        note="spikes, graded values and logits",
        divergence=divergence,
        extra={
            "graded": _total([counts[name] for name in graded]),
            "graded_layers": {
                name: dict(zip(("compared", "mismatched"), counts[name], strict=True)) for name in graded
            },
            "logits": _total([counts[program.output.name]]),
        },
    )


def _quantized(
    sides: Sides, quantized: TorchNetwork, tally: Tally, samples: Samples, expected: Mapping[str, int]
) -> Check:
    """E3: demanded where the arithmetic is exact and nothing saturated; changed weights or decays always fail it."""
    program, saturated = sides.program, tally.saturated_samples
    exact, whole = _counts(tally.quantized), _sum([_counts(tally.quantized), _counts(tally.saturated)])
    require_complete(QUANTIZED, {name: compared for name, (compared, _) in whole.items()}, expected)
    require_complete(QUANTIZED, tally.currents.compared, tally.quantized.compared) if tally.quantized.total else None
    state = quantized.model.state_dict()
    weights = differing_weights(program, state, sides.weight_factors, sides.kernels, sides.spreads)
    wrong_weights = sum(wrong for _, wrong in weights.values())
    tolerance = logit_tolerance(program)
    logits_agree = tally.quantized_logits_error <= tolerance
    changed = sides.meant_exact and not program.is_dyadic
    exact_here = sides.is_exact and not sides.inexact and tally.quantized.total > 0
    if wrong_weights:
        note = f"weights differ in {', '.join(name for name, (_, wrong) in weights.items() if wrong)}"
    elif changed:
        note = "the program is not as it was compiled: its decays or biases let potentials be truncated"
    elif not program.is_dyadic:
        note = "not demanded: a decay is rounded to 12 bits, or T is above 7"
    elif sides.inexact:
        note = f"not demanded: {sides.inexact}"
    elif not tally.quantized.total:
        note = "not demanded: a value saturated in every sample; give calibration images to resformer-compile"
    elif saturated:
        note = f"demanded of the {len(samples) - len(saturated)} samples in which nothing saturated"
    else:
        note = "spikes, input currents, weights and logits"
    comparison = next((each for each in (tally.quantized, tally.currents, tally.saturated) if each.first), None)
    divergence = None
    if comparison is not None and comparison.first is not None:
        layer = comparison.layers[comparison.first.layer]
        divergence = quantized_divergence(comparison.first, layer, program, quantized, samples)
    return Check(
        layers=exact if exact_here else whole,
        demanded=exact_here or changed or wrong_weights > 0,
        passed=not (tally.quantized.wrong or tally.currents.wrong or wrong_weights or changed) and logits_agree,
        note=note,
        divergence=divergence,
        extra={
            "currents": {"compared": tally.currents.total, "mismatched": tally.currents.wrong},
            "weights": _total(weights.values()),
            "logits_max_difference": tally.quantized_logits_error,
            "logits_tolerance": tolerance,
            "saturated": {
                "samples": saturated,
                "compared": tally.saturated.total,
                "mismatched": tally.saturated.wrong,
            },
        },
    )


def _original(sides: Sides, tally: Tally, expected: Mapping[str, int]) -> Check:
    """E4: measured; demanded only of a fine-tuned checkpoint, where arithmetic is exact and no sample saturated."""
    require_complete(ORIGINAL, tally.original.compared, expected)
    require_complete(ORIGINAL, tally.local.compared, expected)
    original, quantized = tally.predictions_original, tally.predictions_quantized
    spikes = 2 * tally.both + tally.only_original + tally.only_quantized
    demanded = sides.fine_tuned and sides.is_exact and not tally.saturated_samples
    note = "given samples rounded as the program's are, as it was fine-tuned" if sides.fine_tuned else "measured"
    return Check(
        layers=_counts(tally.original),
        demanded=demanded,
        passed=tally.original.wrong == 0,
        note=note,
        extra={
            "f1": 2 * tally.both / spikes if spikes else 1.0,
            "top1_agreement": float(np.mean(np.equal(original, quantized))),
            "local": {"compared": tally.local.total, "mismatched": tally.local.wrong},
            "local_layers": {
                name: {"compared": compared, "mismatched": mismatched}
                for name, (compared, mismatched) in _counts(tally.local).items()
            },
        },
    )


def logit_tolerance(program: Scheduled) -> float:
    """How far a logit of ``quantized.pt`` may be from the program's.

    Every bias in ``quantized.pt`` is lower by the tie shift, and a residual stream adds up one bias for each layer at
    most. A relay that shifts rounds by up to half its unit; the pool behind it adds these errors up, and the output
    divides them. The classifier weighs the sum of both. The factor of two covers float64's own rounding.
    """
    output = program.output.op
    assert isinstance(output, Output)
    layers = len(layer_names(program))
    rounding, area = 0.0, 1
    for node in reversed(program.nodes):
        match node.op:
            case SumPool2d(kernel_size=kernel):
                area *= math.prod(kernel)
            case Relay(shift=shift) if shift:
                rounding += 0.5 * 2.0**-node.op.signal.scale_exp * area / output.divisor
            case _:
                pass
    rows = [
        float(np.abs(real_weight(program, node.name)).sum(axis=1).max())
        for node in program
        if isinstance(node.op, Dense)
    ]
    return 2 * (TIE_SHIFT * layers + rounding) * math.prod(rows)


def _counts(comparison: Comparison) -> dict[str, tuple[int, int]]:
    return {name: (comparison.compared[name], comparison.mismatched[name]) for name in comparison.layers}


def _sum(counts: Sequence[Counts]) -> dict[str, tuple[int, int]]:
    """The sum of several counts of the same layers, layer by layer."""
    return {name: (sum(each[name][0] for each in counts), sum(each[name][1] for each in counts)) for name in counts[0]}


def _total(counts: Any) -> dict[str, int]:
    pairs = list(counts)
    return {"compared": sum(each for each, _ in pairs), "mismatched": sum(each for _, each in pairs)}
