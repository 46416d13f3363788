"""Our SpikingResformer against what the authors' own code computed (``tests/data/make_author_vectors.py``)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional

from resformer.models.spikingresformer import SpikingResformer
from support import scripts

DATA = Path(__file__).parents[2] / "data"

recipe = scripts.load(DATA / "author_recipe.py", "author_recipe")
VECTORS: dict[str, dict[str, Any]] = json.loads((DATA / "author_vectors.json").read_text())
CASES = [pytest.param(case, id=case.name) for case in recipe.CASES]
# One step of the widest costs gigabytes and seconds; the script compares them all.
TRAINED = [case for case in CASES if case.id in ("ti", "two_stages_one_channel", "uneven_blocks_and_deep_feed_forward")]


def seeded_model(case: Any) -> SpikingResformer:
    model = SpikingResformer(case.architecture, timesteps=case.timesteps, image_size=case.image_size).double()
    model.load_state_dict(recipe.state_dict(model.state_dict()), strict=True)
    return model


def test_every_case_is_recorded() -> None:
    assert set(VECTORS) == {case.name for case in recipe.CASES}


@pytest.mark.parametrize("case", CASES)
def test_spikes_and_logits_are_the_authors(case: Any) -> None:
    model = seeded_model(case).eval()
    recorder = recipe.SpikeRecorder(model)
    with torch.no_grad():
        logits = model(recipe.network_input(case))

    expected = VECTORS[case.name]
    assert recorder.digests() == expected["spikes"]
    # The logits are sums of reals, whose order is the BLAS library's own.
    torch.testing.assert_close(
        logits[:, 0, :5], torch.tensor(expected["logits_of_first_sample"], dtype=torch.float64), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_networks_are_alive(case: Any) -> None:
    """Equality of silent or saturated layers would show nothing."""
    for name, (count, possible, _) in VECTORS[case.name]["spikes"].items():
        assert 0.01 < count / possible < 0.5, name


@pytest.mark.parametrize("case", TRAINED)
def test_training_moves_the_firing_rates_as_the_authors(case: Any) -> None:
    model = seeded_model(case)
    for name, buffer in model.named_buffers():
        if "firing_rate" in name:
            buffer.zero_()
    x, labels = recipe.network_input(case), torch.arange(case.samples) % case.architecture.num_classes
    for _ in range(2):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x).mean(0), labels).backward()
        functional.reset_net(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad

    rates = {name: buffer.flatten().tolist() for name, buffer in model.named_buffers() if "firing_rate" in name}
    expected = VECTORS[case.name]["rates_after_training"]
    assert rates.keys() == expected.keys()
    for name, values in expected.items():
        assert rates[name] == pytest.approx(values, rel=1e-10), name  # a mean's order of summation is free
