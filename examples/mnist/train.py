"""Train a small SpikingResformer on 4,000 MNIST digits, and measure it on the 1,000 held out.

    python examples/mnist/train.py                # trains, and writes the checkpoint and the digits beside this file
    python examples/mnist/train.py --evaluate     # prints the accuracy of the checkpoint that is there

``digits.py`` says what the digits are, and how they are learned.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from digits import HERE, IMAGE_SIZE, TEST_IMAGES, TEST_LABELS, TRAIN_PER_CLASS, as_input, count_correct, digits, fit

from resformer.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from resformer.models.spikingresformer import Architecture, SpikingResformer

CHECKPOINT = "spikingresformer_mnist.pt"
CALIBRATION_IMAGES = "calibration_images.npy"

TIMESTEPS = 4
CALIBRATION_COUNT = 256

ARCHITECTURE = Architecture(
    planes=(64, 128),
    blocks=(("DSSA", "GWFFN"), ("DSSA", "GWFFN")),
    num_heads=(1, 2),
    patch_sizes=(2, 1),
    ffn_ratios=(4, 4),
    ffn_convs=(1, 1),
    group_sizes=(32, 32),
    in_channels=1,
    num_classes=10,
)


def evaluate(folder: Path, *, batch_size: int) -> None:
    """Print the accuracy of the checkpoint in folder, run in float64 on the held-out digits beside it."""
    model = build_model(load_checkpoint(folder / CHECKPOINT), timesteps=TIMESTEPS, image_size=IMAGE_SIZE)
    images = as_input(np.load(folder / TEST_IMAGES), dtype=torch.float64)
    labels = torch.from_numpy(np.load(folder / TEST_LABELS))
    correct = count_correct(model, lambda x: model(x).mean(0), images, labels, batch_size=batch_size)
    print(f"{correct} of {len(labels)} held-out digits are right: {100 * correct / len(labels):.2f} %")


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a small SpikingResformer on MNIST digits.")
    parser.add_argument("--evaluate", action="store_true", help="only measure the checkpoint that is there")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the checkpoint and the digits are")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="the highest, after warm-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch chooses if not given)")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.evaluate:
        evaluate(args.folder, batch_size=args.batch_size)
        return 0

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = digits()
    training_images, training_labels = images[:TRAIN_PER_CLASS], labels[:TRAIN_PER_CLASS].ravel()
    model = SpikingResformer(ARCHITECTURE, timesteps=TIMESTEPS, image_size=IMAGE_SIZE).to(device)
    fit(
        model,
        lambda x: model(x).mean(0),
        as_input(training_images).to(device),
        torch.from_numpy(training_labels).to(device),
        epochs=args.epochs,
        batch_size=args.batch_size,
        peak_lr=args.learning_rate,
    )
    args.folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model.cpu(), args.folder / CHECKPOINT)
    np.save(args.folder / TEST_IMAGES, images[TRAIN_PER_CLASS:].reshape(-1, 1, IMAGE_SIZE, IMAGE_SIZE))
    np.save(args.folder / TEST_LABELS, labels[TRAIN_PER_CLASS:].ravel())
    np.save(
        args.folder / CALIBRATION_IMAGES, training_images.reshape(-1, 1, IMAGE_SIZE, IMAGE_SIZE)[:CALIBRATION_COUNT]
    )
    evaluate(args.folder, batch_size=args.batch_size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
