"""Fine-tune a network for CIFAR-10 with quantized weights, and weigh what it costs.

    python examples/cifar10/finetune.py FOLDER --bits 4                 # beside the checkpoint: …_4bit.pt
    python examples/cifar10/finetune.py FOLDER --bits 4 --price 0.3     # pays for synaptic operations: …_4bit_0.3.pt
    python examples/cifar10/finetune.py FOLDER --bits 4 --price 0.3 --chip loihi2    # pays for energy
    python examples/cifar10/finetune.py FOLDER --bits 4 --timesteps 3   # learns to do with fewer steps: …_4bit_t3.pt
    resformer-compile examples/cifar10/spikingresformer_cifar10_tiny_4bit.pt --target lava -o build/cifar4

The network begins from what calibration finds and is trained on varied training images, to give the labels and, for a
share of the loss, the float network's answers (distillation): under bfloat16 autocast, and by several processes under
``torchrun``. With a price, what it costs as a share of the float network's cost is added to the loss, so that it learns
to answer with fewer spikes.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from images import Images, as_input, augment, on, read
from learning import autocast, device_of_this_process, learning_rate, predictions, rank_and_processes
from torch import nn

import resformer.quantize
from resformer.compiler.chips.chip import Chip, load_chip
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.operations import SynapticOperations
from resformer.models.spikingresformer import SpikingResformer
from resformer.models.stateless import make_stateless

HERE = Path(__file__).parent
CHECKPOINT = HERE / "spikingresformer_cifar10_tiny.pt"
CALIBRATION_IMAGES = 256
TEMPERATURE = 2.0
"""Of the softmax in which both networks' answers are compared."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a network is fine-tuned.

    Attributes:
        epochs: how often each image is seen; a part of an epoch will do.
        batch_size: images a step of the optimizer, of all processes together.
        peak_lr: the highest learning rate, after warm-up.
        distilled: share of the loss that compares with the float network's answers; the rest compares with labels.
        strength: of the augmentation, 0 to 1.
        price: what the float network's whole cost would add to the loss.
        chip: whose energies make up the cost; None for synaptic operations.
        early_steps: T of both networks in the first part of the training, which it makes faster.
        early_share: how long that part is, as a share of the training.
        seed: of all that is random.
        merged: whether torch.compile merges the steps of each population.
    """

    epochs: float = 3.0
    batch_size: int = 128
    peak_lr: float = 5e-4
    distilled: float = 0.25
    strength: float = 0.0
    price: float = 0.0
    chip: Chip | None = None
    early_steps: int = 2
    early_share: float = 0.0
    seed: int = 0
    merged: bool = False


def calibration_images(data: Images, count: int = CALIBRATION_IMAGES, *, seed: int = 0) -> torch.Tensor:
    """Return bytes (count, 3, 32, 32) of images drawn at random."""
    return data.pixels[torch.randperm(len(data.pixels), generator=torch.Generator().manual_seed(seed))[:count]]


def float_network(path: Path, timesteps: int | None = None) -> SpikingResformer:
    """Return a checkpoint's network in float32, in evaluation mode, with another T if one is given."""
    return build_model(load_checkpoint(path), timesteps=timesteps, dtype=torch.float32)


def tuned_name(checkpoint: Path, bits: int, *, price: float = 0.0, timesteps: int | None = None) -> str:
    """Return the name of the file that a fine-tuned checkpoint is written to."""
    steps = "" if timesteps is None else f"_t{timesteps}"
    return f"{checkpoint.stem}_{bits}bit{steps}{f'_{price:g}' if price else ''}.pt"


def cost(operations: SynapticOperations, chip: Chip | None) -> torch.Tensor:
    """Return what the last call cost: synaptic operations, or pJ on a chip beyond what its neurons take at rest."""
    if chip is None:
        return operations.total()
    spike_pj = chip.neuron_update_active_pj - chip.neuron_update_inactive_pj + chip.spike_in_tile_pj
    return operations.energy_pj(operation_pj=chip.synaptic_op_pj, spike_pj=spike_pj)


def fine_tune(
    student: resformer.quantize.QuantizedSpikingResformer, teacher: SpikingResformer, data: Images, how: FineTuning
) -> None:
    """Train the student on labels and the teacher's answers, and print a line an epoch.

    Args:
        student: what ``resformer.quantize.prepare`` made; its LIFs become stateless.
        teacher: the float network, in evaluation mode; likewise.
        data: images to train on; their device is everything's.
        how: see ``FineTuning``.
    """
    device = data.pixels.device
    rank, processes = rank_and_processes()
    for model in (student, teacher):
        make_stateless(model.to(device), merged=how.merged)
    student.train()
    answers: nn.Module = student
    if processes > 1:
        answers = nn.parallel.DistributedDataParallel(student)
    optimizer = torch.optim.Adam(student.parameters())
    own = [(model, model.timesteps) for model in (student, teacher)]
    batches = max(1, len(data.labels) // how.batch_size)
    steps = max(1, round(how.epochs * batches))
    order, mixed = torch.empty(0), torch.Generator().manual_seed(how.seed)
    torch.manual_seed(how.seed * 1000 + rank)
    started, seen = time.monotonic(), []
    for step in range(steps):
        if step % batches == 0:
            order = torch.randperm(len(data.labels), generator=mixed)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / steps, peak=how.peak_lr)
        for model, timesteps in own:
            model.timesteps = how.early_steps if step / steps < how.early_share else timesteps
        start = step % batches * how.batch_size
        mine = order[start : start + how.batch_size][rank::processes].to(device)
        shown, labels = augment(data.pixels[mine], strength=how.strength), data.labels[mine]
        with autocast(device):
            with torch.no_grad():
                wanted, usual = _answered(teacher, teacher, shown, how)
            logits, taken = _answered(answers, student, shown, how)
        share = taken / usual.clamp_min(1)
        loss = _loss(logits, wanted, labels, how.distilled)
        if how.price:
            loss = loss + how.price * share
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append((loss.item(), float((logits.argmax(1) == wanted.argmax(1)).float().mean()), float(share.detach())))
        if rank == 0 and ((step + 1) % batches == 0 or step + 1 == steps):
            mean = torch.tensor(seen).mean(0).tolist()
            costs = f"cost {100 * mean[2]:5.1f} %  " if how.price else ""
            print(
                f"epoch {(step + 1) / batches:5.2f}/{how.epochs:g}  loss {mean[0]:.4f}  agrees {100 * mean[1]:5.2f} %  "
                f"{costs}{time.monotonic() - started:6.0f} s",
                flush=True,
            )
            seen.clear()
    for model, timesteps in own:
        model.timesteps = timesteps


def _answered(
    called: nn.Module, model: nn.Module, images: torch.Tensor, how: FineTuning
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of images, (N, classes), and what they cost: 0 where nothing asks for it, since counting takes time.

    Args:
        called: the network, or what spreads it over processes.
        model: the network itself.
        images: (N, 3, 32, 32).
        how: whose price and chip count.
    """
    if not how.price:
        return called(images).mean(0).float(), torch.zeros((), device=images.device)
    with SynapticOperations(model) as operations:
        logits = called(images).mean(0).float()
    return logits, cost(operations, how.chip)


def _loss(logits: torch.Tensor, wanted: torch.Tensor, labels: torch.Tensor, distilled: float) -> torch.Tensor:
    """How far logits (N, classes) are from the teacher's and from the labels."""
    loss = torch.zeros((), device=logits.device)
    if distilled > 0:
        theirs = F.softmax(wanted / TEMPERATURE, dim=1)
        ours = F.log_softmax(logits / TEMPERATURE, dim=1)
        loss = loss + distilled * F.kl_div(ours, theirs, reduction="batchmean") * TEMPERATURE**2
    if distilled < 1:
        loss = loss + (1 - distilled) * F.cross_entropy(logits, labels, label_smoothing=0.1)
    return loss


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune for each width, write the checkpoints and print what they keep."""
    parser = argparse.ArgumentParser(description="Fine-tune a network for CIFAR-10 with quantized weights.")
    parser.add_argument("folder", type=Path, help="holds train and test, each a folder of classes or its .tar.xz")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the float network")
    parser.add_argument("-o", "--output", type=Path, help="the folder of the results (default: the checkpoint's)")
    parser.add_argument("--bits", type=int, nargs="+", default=[4], help="widths of a weight")
    parser.add_argument("--epochs", type=float, default=FineTuning.epochs)
    parser.add_argument("--batch-size", type=int, default=FineTuning.batch_size)
    parser.add_argument("--learning-rate", type=float, default=FineTuning.peak_lr, help="the highest, after warm-up")
    parser.add_argument("--distilled", type=float, default=FineTuning.distilled, help="share of the loss, 0 to 1")
    parser.add_argument("--strength", type=float, default=FineTuning.strength, help="of the augmentation, 0 to 1")
    parser.add_argument("--price", type=float, default=FineTuning.price, help="of the float network's whole cost")
    parser.add_argument("--chip", help="count energy on it rather than synaptic operations (loihi1, loihi2, a YAML)")
    parser.add_argument("--timesteps", type=int, help="T of the result (default: the checkpoint's)")
    parser.add_argument("--early-steps", type=int, default=FineTuning.early_steps, help="T in the first part")
    parser.add_argument(
        "--early-share", type=float, default=FineTuning.early_share, help="length of the first part, 0 to 1"
    )
    parser.add_argument("--shown", type=int, default=10_000, help="test images to measure on")
    parser.add_argument("--seed", type=int, default=FineTuning.seed)
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch chooses if not given)")
    parser.add_argument("--compile", action="store_true", help="let torch.compile merge the steps of each population")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = device_of_this_process()
    data, test = (on(read(args.folder, split), device) for split in ("train", "test"))
    some = torch.linspace(0, len(test.labels) - 1, min(args.shown, len(test.labels))).long()
    pixels, labels = test.pixels[some], test.labels[some]
    teacher = float_network(args.checkpoint).to(device)
    expected = predictions(teacher, pixels)
    accuracy = 100 * float((expected == labels).double().mean())
    how = FineTuning(
        epochs=args.epochs,
        batch_size=args.batch_size,
        peak_lr=args.learning_rate,
        distilled=args.distilled,
        strength=args.strength,
        price=args.price,
        chip=None if args.chip is None else load_chip(args.chip),
        early_steps=args.early_steps,
        early_share=args.early_share,
        seed=args.seed,
        merged=args.compile,
    )
    rank, _ = rank_and_processes()
    for bits in args.bits:
        shown = as_input(calibration_images(data, seed=args.seed)).cpu().numpy()
        student = resformer.quantize.prepare(
            float_network(args.checkpoint, args.timesteps), bits=bits, calibration=shown, calibrated=True
        )
        fine_tune(student, teacher, data, how)
        if rank:
            continue
        name = tuned_name(args.checkpoint, bits, price=args.price, timesteps=args.timesteps)
        path = (args.output or args.checkpoint.parent) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        student.save(path)
        found = predictions(student.eval(), pixels)
        right, agrees = (100 * float((found == wanted).double().mean()) for wanted in (labels, expected))
        print(
            f"{path.name}: {right:.2f} % of {len(labels):,} test images are right, {right - accuracy:+.2f} points from "
            f"the float network's {accuracy:.2f} %, with which it agrees on {agrees:.2f} %",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
