"""A verification as JSON: what ``resformer-verify --json`` writes."""

from __future__ import annotations

import dataclasses
from typing import Any

from resformer._version import __version__
from resformer.compiler.files.verification import FORMAT, FORMAT_VERSION, check_verification
from resformer.compiler.samples import preprocessing
from resformer.runtime.run.to_know import always_fired, never_fired
from resformer.runtime.verify.diverge import Divergence
from resformer.runtime.verify.local import LocalError
from resformer.runtime.verify.result import CHECKS, ORIGINAL, Check, Verification


def to_json(result: Verification) -> dict[str, Any]:
    """All of a verification, as JSON can hold it; a check that was not run is null, and ``not_run`` says why."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "backend": result.backend,
        "samples": result.samples,
        "timesteps": result.timesteps,
        "equivalent": result.equivalent,
        "passed": result.passed,
        "verdict": list(result.verdict),
        "to_know": list(result.to_know),
        "shortfalls": list(result.shortfalls),
        "checks": {name: _check(result.checks[name]) if name in result.checks else None for name in CHECKS},
        "not_run": dict(result.not_run),
        "layers": [_layer(result, name) for name in result.layers],
        "saturation": dict(result.saturation),
        "ties": dict(result.ties),
        "input_values_clipped": result.clipped,
        "input_largest": result.largest_input,
        "input_range": list(result.input_range),
        "never_fired": list(never := never_fired(result.fired)),
        "always_fired": list(always_fired(result.fired, result.layers)),
        "any_fired": len(never) < len(result.fired),
        "notes": list(result.notes),
        "assumptions": list(result.assumptions),
        "model_is_source": result.model_is_source,
        "accuracy": dict(result.accuracy),
        "accuracy_intervals": {name: list(each) for name, each in result.accuracy_intervals.items()},
        "accuracy_absent": result.accuracy_absent,
        "classes": None if result.classes is None else list(result.classes),
        "preprocessing": preprocessing.as_json(result.preprocessing),
        "predictions": list(result.predictions),
        "predictions_original": list(result.predictions_original) if result.predictions_original else None,
        "labels": None if result.labels is None else list(result.labels),
        "input_crc32": list(result.input_crc32),
        "warnings": list(result.warnings),
        "labelled": result.samples if result.accuracy else 0,
        "accuracy_drop": result.accuracy_drop,
        "accuracy_drop_interval": None if (drop := result.accuracy_drop_interval) is None else list(drop),
        "agreement": result.agreement,
        "limits": dataclasses.asdict(result.limits),
        "local": [_local(error) for error in result.local] or None,
    }
    check_verification(content)
    return content


def _check(check: Check) -> dict[str, Any]:
    return {
        "compared": check.compared,
        "mismatched": check.mismatched,
        "demanded": check.demanded,
        "passed": check.passed,
        "note": check.note,
        "first_divergence": None if check.divergence is None else _divergence(check.divergence),
        **check.extra,
    }


def _divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "layer": divergence.layer,
        "step": divergence.step,
        "sample": divergence.sample,
        "neuron": list(divergence.neuron),
        "sides": [
            {"name": side.name, "v_in_thresholds": side.potential, "v_integer": side.integer}
            for side in divergence.sides
        ],
    }


def _layer(result: Verification, name: str) -> dict[str, Any]:
    """One population: its counts summed over all checks but E4, and check by check."""
    exact = [check.layers[name] for key, check in result.checks.items() if key != ORIGINAL]
    facts: dict[str, Any] = {
        "name": name,
        "fired": result.fired[name],
        "compared": sum(compared for compared, _ in exact),
        "mismatched": sum(mismatched for _, mismatched in exact),
        "checks": {
            key: dict(zip(("compared", "mismatched"), check.layers[name], strict=True))
            for key, check in result.checks.items()
        },
    }
    if ORIGINAL in result.checks:
        facts["local"] = result.checks[ORIGINAL].extra["local_layers"][name]
    return facts


def _local(error: LocalError) -> dict[str, Any]:
    """One layer's own error."""
    spikes = None
    if error.layer.population is not None:
        spikes = {
            "compared": error.tally.compared,
            "mismatched": error.tally.mismatched,
            "mismatched_share": error.mismatch,
            "rate_original": error.rate_original,
            "rate_shift": error.rate_shift,
            "end_to_end": {"mismatched": error.tally.drifted, "mismatched_share": error.drift, "f1": error.f1},
        }
    return {
        "name": error.layer.name,
        "population": error.layer.population,
        "rank": error.rank,
        "current": {
            "compared": error.tally.values,
            "relative_error": error.relative,
            "rms_error": error.rms,
            "worst_error": error.worst,
        },
        "spikes": spikes,
    }
