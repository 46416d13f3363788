"""Fine-tune the digit network with quantized weights, and measure what is lost on the held-out digits.

    python examples/mnist/finetune.py                              # 8, 4, 3 and 2 bits, a few minutes each on a CPU
    python examples/mnist/finetune.py --bits 4 --seeds 0 --save    # writes the checkpoint that lies beside this file
    resformer-compile examples/mnist/spikingresformer_mnist_4bit.pt --target lava -o build/mnist4

The network is trained to give the float network's answers (distillation) on the digits that trained it, with weights
and biases rounded as the compiler will round them. Each seed draws its own calibration images from those digits.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from digits import HERE, TEST_IMAGES, TEST_LABELS, TRAIN_PER_CLASS, as_input, augment, digits, learning_rate
from spikingjelly.activation_based import functional
from train import CHECKPOINT

import resformer.quantize
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer

CALIBRATION_COUNT = 256
TEMPERATURE = 2.0
"""Of the softmax in which both networks' answers are compared."""


@dataclass(frozen=True)
class Score:
    """What a network does on the held-out digits.

    Attributes:
        accuracy: Share that is right, in percent.
        agreement: Share on which it agrees with the float network, in percent.
    """

    accuracy: float
    agreement: float


@torch.no_grad()
def predictions(model: SpikingResformer, images: torch.Tensor, *, batch_size: int = 100) -> torch.Tensor:
    """Return the class of each of images (N, 1, 32, 32), (N,)."""
    found = []
    for part in images.split(batch_size):
        found.append(model(part).mean(0).argmax(1))
        functional.reset_net(model)
    return torch.cat(found)


def score(model: SpikingResformer, images: torch.Tensor, labels: torch.Tensor, expected: torch.Tensor) -> Score:
    """Measure a network in float64, as the compiled program computes it."""
    found = predictions(model.double().eval(), images.double())
    return Score(*(100 * float((found == wanted).double().mean()) for wanted in (labels, expected)))


def fine_tune(
    student: resformer.quantize.QuantizedSpikingResformer,
    teacher: SpikingResformer,
    images: torch.Tensor,
    *,
    epochs: int,
    batch_size: int,
    peak_lr: float,
) -> None:
    """Train the student to give the teacher's answers on images (N, 1, 32, 32) in [0, 1]."""
    student.to(images).train()
    optimizer = torch.optim.Adam(student.parameters())
    batches = len(images) // batch_size
    for epoch in range(epochs):
        order = torch.randperm(len(images), device=images.device)
        for batch in range(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * batches + batch, steps=epochs * batches, peak=peak_lr)
            shown = augment(images[order[batch * batch_size : (batch + 1) * batch_size]])
            with torch.no_grad():
                wanted = F.softmax(teacher(shown).mean(0) / TEMPERATURE, dim=1)
            answers = F.log_softmax(student(shown).mean(0) / TEMPERATURE, dim=1)
            loss = F.kl_div(answers, wanted, reduction="batchmean") * TEMPERATURE**2
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            functional.reset_net(student)
            functional.reset_net(teacher)


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune for each width and seed, and print a table."""
    parser = argparse.ArgumentParser(description="Fine-tune the digit network with quantized weights.")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3, 2], help="widths of a weight")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each draws calibration images and batches")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the checkpoint and the digits are")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="the highest, after warm-up")
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch chooses if not given)")
    parser.add_argument("--save", action="store_true", help="write each width's checkpoint, of the last seed")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels, _ = digits()
    training = as_input(pixels[:TRAIN_PER_CLASS]).to(device)
    images = as_input(np.load(args.folder / TEST_IMAGES), dtype=torch.float64).to(device)
    labels = torch.from_numpy(np.load(args.folder / TEST_LABELS)).to(device)
    checkpoint = load_checkpoint(args.folder / CHECKPOINT)
    expected = predictions(build_model(checkpoint).to(device), images)
    accuracy = 100 * float((expected == labels).double().mean())
    print(f"float: {accuracy:.2f} % of {len(labels)} held-out digits are right")
    print("bits  seed  rounded  agrees  fine-tuned    drop  agrees  seconds")
    for bits in args.bits:
        drops = []
        for seed in args.seeds:
            torch.manual_seed(seed)
            started = time.monotonic()
            chosen = torch.randperm(len(training))[:CALIBRATION_COUNT]
            teacher = build_model(checkpoint, dtype=torch.float32).to(device)
            student = resformer.quantize.prepare(teacher, bits=bits, calibration=training[chosen].cpu())
            before = score(student, images, labels, expected)
            fine_tune(
                student,
                teacher,
                training,
                epochs=args.epochs,
                batch_size=args.batch_size,
                peak_lr=args.learning_rate,
            )
            after = score(student, images, labels, expected)
            drops.append(accuracy - after.accuracy)
            print(
                f"{bits:4d}  {seed:4d}  {before.accuracy:5.2f} %  {before.agreement:5.2f}%  {after.accuracy:8.2f} %  "
                f"{drops[-1]:+6.2f}  {after.agreement:5.2f}%  {time.monotonic() - started:7.0f}",
                flush=True,
            )
        print(f"{bits:4d}  mean drop over {len(drops)} seed(s): {np.mean(drops):+.2f} points", flush=True)
        if args.save:
            student.save(args.folder / CHECKPOINT.replace(".pt", f"_{bits}bit.pt"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
