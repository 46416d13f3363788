"""Hold our SpikingResformer against the authors', and record what theirs computes.

    git clone https://github.com/xyshi2000/SpikingResformer
    python tests/data/make_author_vectors.py SpikingResformer

For each case of ``author_recipe.py`` both networks get the same weights and the same input, in float64, and must agree
on every spike, every logit and, in training mode, every gradient and buffer: exactly, not nearly. Only then is
``author_vectors.json`` written, against which ``tests/unit/models/test_author_vectors.py`` holds ours ever after.
Needs SpikingJelly 0.0.0.0.14, as the authors' code does.
"""

import argparse
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import author_recipe as recipe
import torch
from spikingjelly.activation_based import base, functional, layer
from torch import nn

from resformer.models.spikingresformer import VARIANTS, SpikingResformer

OUTPUT = Path(__file__).with_name("author_vectors.json")
TRAINING_STEPS = 2


def import_authors(checkout: Path) -> Any:
    """Return the authors' module ``models.spikingresformer``, which need not find its registry, timm, or CuPy."""
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    sys.modules |= {
        "timm": types.ModuleType("timm"),
        "timm.models": types.ModuleType("timm.models"),
        "timm.models.registry": registry,
    }
    # Their neurons ask for CuPy when they are made; build_theirs then sets plain PyTorch.
    base.check_backend_library = lambda backend: None
    sys.path.insert(0, str(checkout))
    import models.spikingresformer as authors  # noqa: TID251 - theirs, from the checkout

    return authors


def build_theirs(authors: Any, case: recipe.Case) -> nn.Module:
    """Return the authors' network for a case: by their own factory where it is one of their variants."""
    net = case.architecture
    options = {"T": case.timesteps, "num_classes": net.num_classes, "img_size": case.image_size}
    if case.name in VARIANTS:
        model = getattr(authors, f"spikingresformer_{case.name}")(**options)
    else:
        neuron = getattr(authors, net.neuron)
        stem = nn.Sequential(
            layer.Conv2d(net.in_channels, net.planes[0], 3, 1, 1, bias=False, step_mode="m"), authors.BN(net.planes[0])
        )
        model = authors.SpikingResformer(
            net.blocks,
            net.planes,
            net.num_heads,
            net.patch_sizes,
            in_channels=net.in_channels,
            prologue=stem if net.stem == "conv3x3" else None,
            activation=neuron,
            **options,
        )
        # Their network cannot pass these on to their GWFFN, which takes them.
        for stage, modules in enumerate(model.layers):
            for index, module in enumerate(modules):
                if isinstance(module, authors.GWFFN):
                    modules[index] = authors.GWFFN(
                        net.planes[stage],
                        num_conv=net.ffn_convs[stage],
                        ratio=net.ffn_ratios[stage],
                        group_size=net.group_sizes[stage],
                        activation=neuron,
                    )
    functional.set_backend(model, "torch")
    return model


def same(what: str, theirs: torch.Tensor, ours: torch.Tensor) -> None:
    """Stop unless two tensors are equal in every bit that counts."""
    if not torch.equal(theirs, ours):
        raise SystemExit(f"{what}: theirs and ours differ by up to {(theirs - ours).abs().max().item():g}")


def compare_inference(
    case: recipe.Case, theirs: nn.Module, ours: nn.Module
) -> tuple[torch.Tensor, recipe.SpikeRecorder]:
    """Compare all spikes and logits in eval mode; return the authors' logits, (T, N, classes), and spikes."""
    recorders = recipe.SpikeRecorder(theirs), recipe.SpikeRecorder(ours)
    x = recipe.network_input(case)
    with torch.no_grad():
        logits = theirs.eval()(x), ours.eval()(x)
    functional.reset_net(theirs)
    functional.reset_net(ours)
    same(f"{case.name}: logits", *logits)
    spikes = [recorder.spikes for recorder in recorders]
    if list(spikes[0]) != list(spikes[1]):
        raise SystemExit(f"{case.name}: the neurons' names differ")
    for name, theirs_fired in spikes[0].items():
        same(f"{case.name}: {name}", torch.from_numpy(theirs_fired), torch.from_numpy(spikes[1][name]))
    return logits[0], recorders[0]


def compare_training(case: recipe.Case, theirs: nn.Module, ours: nn.Module) -> dict[str, list[float]]:
    """Compare steps of SGD from rates of zero; return the firing rates after them, by buffer and head."""
    x = recipe.network_input(case)
    labels = torch.arange(case.samples) % case.architecture.num_classes
    for model in (theirs, ours):
        model.train()
        for name, buffer in model.named_buffers():
            if "firing_rate" in name:
                buffer.zero_()
    for step in range(TRAINING_STEPS):
        for model in (theirs, ours):
            model.zero_grad()
            nn.functional.cross_entropy(model(x).mean(0), labels).backward()
            functional.reset_net(model)
        for (name, parameter), ours_parameter in zip(theirs.named_parameters(), ours.parameters(), strict=True):
            same(f"{case.name}: gradient of {name} in step {step}", parameter.grad, ours_parameter.grad)
        with torch.no_grad():
            for parameter in (*theirs.parameters(), *ours.parameters()):
                parameter -= 0.01 * parameter.grad
        after = ours.state_dict()
        for name, tensor in theirs.state_dict().items():
            same(f"{case.name}: {name} after step {step}", tensor, after[name])
    return {name: tensor.flatten().tolist() for name, tensor in after.items() if "firing_rate" in name}


def main() -> None:
    """Compare every case and write what theirs computes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of github.com/xyshi2000/SpikingResformer")
    authors = import_authors(parser.parse_args().checkout)
    vectors: dict[str, Any] = {}
    for case in recipe.CASES:
        started = time.monotonic()
        theirs = build_theirs(authors, case).double()
        ours = SpikingResformer(case.architecture, timesteps=case.timesteps, image_size=case.image_size).double()
        weights = recipe.state_dict(theirs.state_dict())
        theirs.load_state_dict(weights, strict=True)
        ours.load_state_dict(weights, strict=True)
        logits, recorder = compare_inference(case, theirs, ours)
        digests, compared = recorder.digests(), sum(spikes.size for spikes in recorder.spikes.values())
        rates = compare_training(case, theirs, ours)
        vectors[case.name] = {
            "logits_of_first_sample": logits[:, 0, :5].tolist(),
            "spikes": digests,
            "rates_after_training": rates,
        }
        print(  # noqa: T201 - a script
            f"{case.name}: {len(digests)} neuron layers, {compared:,} spikes and {logits.numel():,} logits equal; "
            f"{TRAINING_STEPS} training steps equal in every gradient and buffer; {time.monotonic() - started:.1f} s",
            flush=True,
        )
    OUTPUT.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
