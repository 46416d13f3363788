"""Train small networks of the zoo's families on 4,000 MNIST digits, and measure them on the 1,000 held out.

    python examples/zoo/train.py spikformer               # trains, and writes the checkpoint beside this file
    python examples/zoo/train.py spikformer --evaluate    # prints the accuracy of the checkpoint that is there
    resformer-compile examples/zoo/spikformer.pt --target lava -o build/spikformer

The digits, and how they are augmented and learned, are those of ``examples/mnist``.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from resformer.models.zoo.checkpoint import build_zoo_model, load_zoo_checkpoint, save_zoo_checkpoint
from resformer.models.zoo.parts import Classifier
from resformer.models.zoo.recognise import ZooArchitecture, build
from resformer.models.zoo.sew_resnet import SEWResNetArchitecture
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.models.zoo.spikingformer import SpikingformerArchitecture

HERE = Path(__file__).parent
MNIST = HERE.parent / "mnist"
sys.path.insert(0, str(MNIST))

from digits import (  # noqa: E402  # it lies in another example's folder
    IMAGE_SIZE,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_PER_CLASS,
    as_input,
    count_correct,
    digits,
    fit,
    settle,
)

SETTLING_BATCH = 100
"""Digits of whose normalisations' statistics an average is taken."""


class Recipe(NamedTuple):
    """How a family's network for the digits is made.

    Attributes:
        architecture: of the network, which is narrow and pools early, so that it is learned in minutes.
        timesteps: T.
        epochs: how often each digit is seen.
        peak_lr: the highest learning rate, after warm-up.
        first_current: what normalisations add to currents before training, in thresholds. Neurons that leak reach
            theirs too seldom otherwise, in few steps, to learn from.
        strength: of the augmentation in the first epoch and in the last.
        settles: whether normalisations take the statistics of the digits as they are in the end.
    """

    architecture: ZooArchitecture
    timesteps: int
    epochs: int
    peak_lr: float
    first_current: float
    strength: tuple[float, float]
    settles: bool


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "spikformer": Recipe(
            SpikformerArchitecture(embed_dims=64, depth=1, num_heads=4, mlp_ratio=4, in_channels=1, pooling="1110"),
            timesteps=2,
            epochs=20,
            peak_lr=3e-3,
            first_current=0.5,
            strength=(0.4, 0.4),
            settles=True,
        ),
        "spikingformer": Recipe(
            SpikingformerArchitecture(embed_dims=64, depth=1, num_heads=4, mlp_ratio=4, in_channels=1, pooling="1110"),
            timesteps=4,
            epochs=12,
            peak_lr=3e-3,
            first_current=0.5,
            strength=(0.4, 0.0),
            settles=True,
        ),
        "sew_resnet": Recipe(
            SEWResNetArchitecture(block="basic", depths=(1, 1, 1, 1), width=16, in_channels=1, num_classes=10),
            timesteps=4,
            epochs=30,
            peak_lr=2e-3,
            first_current=0.0,
            strength=(1.0, 1.0),
            settles=False,
        ),
    }
)
"""The families' networks, by the names of their files."""


def new_network(recipe: Recipe) -> Classifier:
    """Return a recipe's network with new weights, its neurons' gradients those of an arctangent."""
    model = build(recipe.architecture, timesteps=recipe.timesteps)
    for module in model.modules():
        if isinstance(module, neuron.BaseNode):
            module.surrogate_function = surrogate.ATan()
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, recipe.first_current)
    return model


def evaluate(path: Path, *, batch_size: int) -> None:
    """Print the accuracy of a checkpoint, run in float64 on the held-out digits."""
    model = build_zoo_model(load_zoo_checkpoint(path))
    images = as_input(np.load(MNIST / TEST_IMAGES), dtype=torch.float64)
    labels = torch.from_numpy(np.load(MNIST / TEST_LABELS))
    correct = count_correct(model, model, images, labels, batch_size=batch_size)
    parameters = sum(each.numel() for each in model.parameters())
    print(
        f"{path.name}: {parameters:,} parameters in {path.stat().st_size:,} bytes; {correct} of {len(labels)} held-out "
        f"digits are right: {100 * correct / len(labels):.2f} %"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a small network of the zoo's families on MNIST digits.")
    parser.add_argument("family", choices=RECIPES, help="which network")
    parser.add_argument("--evaluate", action="store_true", help="only measure the checkpoint that is there")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the checkpoint is")
    parser.add_argument("--epochs", type=int, help="how often each digit is seen (default: the family's)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="the highest, after warm-up (default: the family's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch chooses if not given)")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    path = args.folder / f"{args.family}.pt"
    if args.evaluate:
        evaluate(path, batch_size=args.batch_size)
        return 0

    recipe = RECIPES[args.family]
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = (each[:TRAIN_PER_CLASS] for each in digits())
    model = new_network(recipe).to(device)
    started, used = time.monotonic(), time.process_time()
    training_images = as_input(images).to(device)
    fit(
        model,
        model,
        training_images,
        torch.from_numpy(labels.ravel()).to(device),
        epochs=recipe.epochs if args.epochs is None else args.epochs,
        batch_size=args.batch_size,
        peak_lr=recipe.peak_lr if args.learning_rate is None else args.learning_rate,
        strength=recipe.strength,
    )
    if recipe.settles:
        settle(model, model, training_images, batch_size=SETTLING_BATCH)
    print(f"trained in {time.monotonic() - started:.0f} s, of which {time.process_time() - used:.0f} s on CPUs")
    args.folder.mkdir(parents=True, exist_ok=True)
    save_zoo_checkpoint(model.cpu(), path, image_size=IMAGE_SIZE)
    evaluate(path, batch_size=args.batch_size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
