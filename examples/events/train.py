"""Train the authors' network for event data on digits before a simulated camera; verify it; stream a long recording.

    python examples/events/train.py FOLDER        # a few minutes; writes model.pt, build/ and a recording to FOLDER

The network is a SpikingResformer as for DVS-Gesture, with PLIF neurons and a 3x3 stem, but tiny. The camera is
simulated (``sensor.py``): its accuracy says nothing of real cameras, and only shows that all works together.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sensor import BIN_US, SIZE, TIMESTEPS, frames_of, record
from spikingjelly.activation_based import functional

import resformer
from resformer.compiler.samples.events.frames import Binning
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import Architecture, SpikingResformer

sys.path.insert(0, str(Path(__file__).parents[1] / "mnist"))

from digits import TRAIN_PER_CLASS, digits, learning_rate

POOL = 2
"""Pixels of the sensor, in both directions, that are one of the network's input."""
VERIFIED = 8
"""Digits whose every spike is compared."""
BINNING = Binning(bin_us=BIN_US, sensor=(SIZE, SIZE), pool=POOL)

ARCHITECTURE = Architecture(
    planes=(16, 32),
    blocks=(("DSSA", "GWFFN"), ("DSSA", "GWFFN")),
    num_heads=(1, 2),
    patch_sizes=(2, 1),
    ffn_ratios=(2, 2),
    ffn_convs=(1, 1),
    group_sizes=(16, 16),
    in_channels=2,
    num_classes=10,
    stem="conv3x3",
    neuron="PLIF",
)


def fit(
    model: SpikingResformer, frames: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], epochs: int, batch_size: int
) -> None:
    """Train a network on frames of counts, (N, T, 2, H, W), and print a line an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    batches, started = len(frames) // batch_size, time.monotonic()
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(frames))
        losses, correct = 0.0, 0
        for batch in range(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * batches + batch, steps=epochs * batches, peak=4e-3)
            chosen = order[batch * batch_size : (batch + 1) * batch_size]
            logits = model(torch.from_numpy(frames[chosen]).float()).mean(0)
            target = torch.from_numpy(labels[chosen])
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            functional.reset_net(model)
            losses += loss.item()
            correct += int((logits.argmax(1) == target).sum())
        share = 100 * correct / (batches * batch_size)
        spent = time.monotonic() - started
        print(
            f"epoch {epoch + 1:2d}/{epochs}  loss {losses / batches:.3f}  right {share:5.1f} %  {spent:4.0f} s",
            flush=True,
        )
    model.eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compile, verify and stream; returns 1 where something differs that must not."""
    parser = argparse.ArgumentParser(description="Train a tiny SpikingResformer on simulated events of digits.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--train-per-class", type=int, default=100, help="digits of each class (default: %(default)s)")
    parser.add_argument("--streamed", type=int, default=100, help="digits of the recording (default: %(default)s)")
    parser.add_argument("--backends", default="sim,lava", help="what streams (default: %(default)s)")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)

    images, labels = digits()
    images = images[:, :, 0]
    count = min(args.train_per_class, TRAIN_PER_CLASS)
    train = frames_of(images[:count].reshape(-1, SIZE, SIZE), POOL, seed=0)
    held_out, truth = images[TRAIN_PER_CLASS:].reshape(-1, SIZE, SIZE), labels[TRAIN_PER_CLASS:].ravel()
    print(f"{len(train)} digits of {train.sum() / len(train):.0f} events each")
    torch.manual_seed(0)
    model = SpikingResformer(ARCHITECTURE, timesteps=TIMESTEPS, image_size=SIZE // POOL)
    fit(model, train, labels[:count].ravel(), args.epochs, args.batch_size)
    save_checkpoint(model, args.folder / "model.pt")

    options = resformer.CompileOptions(timesteps=TIMESTEPS, image_size=SIZE // POOL, calibration=train[:100])
    compiled = resformer.compile(args.folder / "model.pt", target="lava", output=args.folder / "build", options=options)
    test = frames_of(held_out[:VERIFIED], POOL, seed=1)
    verification = compiled.verify(test, labels=truth[:VERIFIED], backend="sim")
    print(*verification.verdict, sep="\n")

    # a recording of many digits, one after the other, as a camera would write it
    recording = args.folder / "recording.npz"
    np.savez(recording, **record(held_out[: args.streamed], np.random.default_rng(2))._asdict())
    whole = compiled.run(compiled.read(recording, binning=BINNING), backend="sim")
    right = np.mean(whole.predictions == truth[: len(whole.predictions)])
    print(
        f"recording of {len(whole.predictions)} digits, {len(whole.predictions) * TIMESTEPS} steps: {right:.1%} right"
    )
    equal = True
    for backend in args.backends.split(","):
        started = time.monotonic()
        parts = [
            part.logits_int for part in compiled.stream(recording, backend=backend, binning=BINNING, batch_size=16)
        ]
        same = np.array_equal(np.concatenate(parts), whole.logits_int)
        equal &= same
        spent = time.monotonic() - started
        print(f"streamed through {backend} in {len(parts)} parts: {'equal' if same else 'DIFFERS'}, {spent:.0f} s")
    return int(not (verification.equivalent and equal))


if __name__ == "__main__":
    raise SystemExit(main())
