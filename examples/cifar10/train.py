"""Train a SpikingResformer on CIFAR-10.

    python examples/cifar10/train.py FOLDER --size tiny --minutes 90   # on two CPU cores
    python examples/cifar10/train.py FOLDER --size tiny --resume       # goes on after the last epoch that ended
    torchrun --nproc-per-node 2 examples/cifar10/train.py FOLDER --size small --epochs 100
    python examples/cifar10/train.py FOLDER --size tiny --evaluate     # measures the checkpoint that is there

``images.py`` says what FOLDER holds. AdamW with a warm-up and a cosine, label smoothing, bfloat16 autocast, and an
exponential average of the weights, which is what is measured and saved. The first part of the training presents each
image for fewer steps, which costs less; the last part for all four. Everything random of an epoch follows from the
seed and the epoch's number, so training that was cut off and resumed ends where training in one go does.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from images import IMAGE_SIZE, Images, augment, on, read
from learning import autocast, device_of_this_process, learning_rate, rank_and_processes, share_right
from torch import nn
from torch.optim.swa_utils import update_bn

from resformer.compiler.atomic import write_atomically
from resformer.errors import InputError
from resformer.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from resformer.models.spikingresformer import Architecture, SpikingResformer
from resformer.models.stateless import make_stateless

HERE = Path(__file__).parent
TIMESTEPS = 4
AVERAGED_STEPS = 500
"""Over about how many steps of the optimizer weights are averaged, once there were many more."""
STATISTICS_BATCHES, STATISTICS_BATCH = 20, 128
"""On how many training images the statistics of averaged weights are estimated: batches, and images of each."""


class Recipe(NamedTuple):
    """A network, and how it is trained.

    Attributes:
        architecture: the network's.
        epochs: how often each image is seen.
        batch_size: images a step of the optimizer, of all processes together.
        peak_lr: the highest learning rate.
        strength: of the augmentation, 0 to 1.
        early_steps: T in the first part of the training.
        early_share: how long that part is, as a share of the training.
    """

    architecture: Architecture
    epochs: int
    batch_size: int
    peak_lr: float
    strength: float
    early_steps: int
    early_share: float


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "tiny": Recipe(
            # Most of what training costs lies where the image is large, so the stem halves it and one block reads it.
            Architecture(
                planes=(64, 128),
                blocks=(("GWFFN",), ("DSSA", "GWFFN") * 2),
                num_heads=(1, 2),
                patch_sizes=(1, 1),
                ffn_ratios=(1, 2),
                ffn_convs=(1, 1),
                group_sizes=(64, 32),
                num_classes=10,
                stem="conv3x3",
                stem_stride=2,
            ),
            epochs=20,
            batch_size=128,
            peak_lr=3e-3,
            strength=0.0,
            early_steps=2,
            early_share=0.75,
        ),
        "small": Recipe(
            Architecture(
                planes=(64, 128, 256),
                blocks=(("DSSA", "GWFFN"), ("DSSA", "GWFFN") * 2, ("DSSA", "GWFFN") * 2),
                num_heads=(1, 2, 4),
                patch_sizes=(4, 2, 1),
                ffn_ratios=(2, 2, 2),
                ffn_convs=(1, 1, 1),
                group_sizes=(64, 64, 64),
                num_classes=10,
                stem="conv3x3",
            ),
            epochs=100,
            batch_size=256,
            peak_lr=3e-3,
            strength=0.5,
            early_steps=2,
            early_share=0.5,
        ),
    }
)
"""The networks by ``--size``."""


LENGTH = ("epochs", "minutes")
"""Settings that may change where a training is resumed."""


@dataclass(frozen=True)
class Settings:
    """What the weights of a training depend on; one that is resumed keeps all but its length.

    Attributes:
        size: of the network, a key of ``RECIPES``.
        epochs: how often each image is seen; None where ``minutes`` tells.
        minutes: how long the training takes; None where ``epochs`` tells.
        batch_size: images a step of the optimizer, of all processes together.
        peak_lr: the highest learning rate.
        strength: of the augmentation, 0 to 1.
        early_steps: T in the first part of the training.
        early_share: how long that part is, as a share of the training.
        seed: of all that is random.
    """

    size: str
    epochs: int | None
    minutes: float | None
    batch_size: int
    peak_lr: float
    strength: float
    early_steps: int
    early_share: float
    seed: int


def new_network(architecture: Architecture, *, merged: bool) -> SpikingResformer:
    """Return a network with new weights whose LIFs keep nothing between calls."""
    model = SpikingResformer(architecture, timesteps=TIMESTEPS, image_size=IMAGE_SIZE)
    make_stateless(model, merged=merged)
    for module in model.modules():
        # so that everything between convolutions has channels last too
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return model


class Classifier(nn.Module):
    """A network's logits, (N, classes), averaged over T; the stem, whose result no step changes, runs once."""

    def __init__(self, model: SpikingResformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, steps: int) -> torch.Tensor:
        """Classify images, (N, 3, 32, 32) in [0, 1], presented for some steps."""
        features = self.model.prologue(images.unsqueeze(0)).expand(steps, -1, -1, -1, -1)
        # the classifier is linear: its mean over T is that of the mean
        return F.linear(self.model.layers(features).mean((0, 3, 4)), self.model.classifier.weight)


class Average:
    """An exponential average of a network's parameters.

    A network of averaged weights needs statistics of its own: with those of the weights that were averaged it is no
    better than chance while they still move.

    Attributes:
        model: a network that holds it, in evaluation mode.
        steps: how often it was updated.
    """

    def __init__(self, model: SpikingResformer) -> None:
        self.model = copy.deepcopy(model).eval()
        self.steps = 0

    @torch.no_grad()
    def update(self, model: SpikingResformer) -> None:
        """Move towards the network as it is now: far at first, and less as there is more to average."""
        share = max(1 / (1 + self.steps), 1 / AVERAGED_STEPS)
        self.steps += 1
        for mine, its in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(its, share)
        for mine, its in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(its)

    def estimate_statistics(self, images: torch.Tensor) -> None:
        """Let its normalisations see images, (N, 3, 32, 32) in [0, 1], and nothing else."""
        with autocast(images.device):
            update_bn(images.split(STATISTICS_BATCH), self.model)


class Training:
    """A training that can be cut off after each epoch.

    Attributes:
        settings: what it was begun with.
        model: what is trained.
        average: of it, which is what is measured and saved.
        epoch: how many have ended.
        spent: seconds they took, those before it was resumed included.
    """

    def __init__(self, settings: Settings, device: torch.device, *, compiled: bool) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = device
        self.model = new_network(RECIPES[settings.size].architecture, merged=compiled).to(device)
        self.average = Average(self.model)
        decayed = [each for each in self.model.parameters() if each.dim() > 1]
        others = [each for each in self.model.parameters() if each.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.epoch = 0
        self.spent = 0.0
        self.rank, self.ranks = rank_and_processes()
        self.classify: nn.Module = Classifier(self.model)
        if dist.is_initialized():
            self.classify = nn.parallel.DistributedDataParallel(self.classify)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {
            "settings": json.dumps(asdict(self.settings)),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "averaged": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "spent": self.spent,
        }

    def load(self, path: Path) -> None:
        """Go on where ``state`` was written to a file.

        Raises:
            InputError: where that training was begun with other settings.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        theirs, mine = json.loads(state["settings"]), asdict(self.settings)
        if changed := [key for key in mine if key not in LENGTH and theirs.get(key) != mine[key]]:
            listed = ", ".join(f"{key} {theirs.get(key)}, not {mine[key]}" for key in changed)
            raise InputError(f"{path}: was begun with {listed}; resume with these, or begin in another folder")
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.steps = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.spent = state["epoch"], state["spent"]

    def run_epoch(self, data: Images) -> Iterator[tuple[float, float]]:
        """Train on each image once, or until the time is over.

        Yields:
            The loss of each step and the share of its images that were right.
        """
        settings = self.settings
        order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(self._seed(0)))
        torch.manual_seed(self._seed(1 + self.rank))
        batches = max(1, len(order) // settings.batch_size)
        started = time.monotonic()
        self.model.train()
        for batch, chosen in enumerate(order[: batches * settings.batch_size].chunk(batches)):
            done = self._done(batch / batches, time.monotonic() - started)
            if done >= 1:
                break
            mine = chosen[self.rank :: self.ranks].to(self.device)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(done, peak=settings.peak_lr)
            shown = augment(data.pixels[mine], strength=settings.strength)
            yield self._step(
                shown, data.labels[mine], settings.early_steps if done < settings.early_share else TIMESTEPS
            )
            self.average.update(self.model)
        self.epoch += 1
        self.spent += time.monotonic() - started

    def estimate_statistics(self, data: Images) -> None:
        """Let the averaged network's normalisations see training images, varied as they were in training."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        chosen = torch.randperm(len(data.labels), generator=generator)[: STATISTICS_BATCHES * STATISTICS_BATCH]
        self.average.estimate_statistics(augment(data.pixels[chosen], strength=self.settings.strength))

    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return self._done(0.0, 0.0) >= 1

    def _step(self, images: torch.Tensor, labels: torch.Tensor, steps: int) -> tuple[float, float]:
        """One step of the optimizer; the loss, and the share that was right."""
        with autocast(self.device):
            logits = self.classify(images, steps)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item(), float((logits.argmax(1) == labels).float().mean())

    def _done(self, of_epoch: float, seconds: float) -> float:
        """The share of the training that is over, 0 to 1, a share of this epoch and its seconds counted."""
        if self.settings.epochs is not None:
            return (self.epoch + of_epoch) / self.settings.epochs
        assert self.settings.minutes is not None
        spent = torch.tensor((self.spent + seconds) / (60 * self.settings.minutes), device=self.device)
        if dist.is_initialized():  # or the processes would not agree
            dist.broadcast(spent, 0)
        return float(spent)

    def _seed(self, use: int) -> int:
        """A seed of this epoch's."""
        return ((self.settings.seed * 100_000 + self.epoch) * 1000 + use) % 2**63


def evaluate(path: Path, data: Images, device: torch.device) -> None:
    """Print the accuracy of a checkpoint, run in SpikingJelly in float32."""
    model = build_model(load_checkpoint(path), dtype=torch.float32).to(device)
    right = share_right(model, data)
    parameters = sum(each.numel() for each in model.parameters())
    print(
        f"{path.name}: {parameters:,} parameters in {path.stat().st_size:,} bytes; {round(right * len(data.labels)):,} "
        f"of {len(data.labels):,} test images are right: {100 * right:.2f} %"
    )


def train(training: Training, data: Images, shown: Images, state: Path) -> None:
    """Train to the end; write the state and print a line after each epoch.

    Args:
        training: new, or loaded.
        data: what it learns from.
        shown: of which the share that is right is printed.
        state: where the state is written.
    """
    while not training.over():
        used = time.process_time()
        seen = torch.tensor(list(training.run_epoch(data)) or [(math.nan, math.nan)], dtype=torch.float64)
        if training.rank:
            continue
        loss, right = seen.mean(0).tolist()
        training.estimate_statistics(data)
        with autocast(training.device):
            accuracy = share_right(training.average.model, shown)
        write_atomically(state, lambda file: torch.save(training.state(), file))
        print(
            f"epoch {training.epoch:3d}{'' if training.settings.epochs is None else f'/{training.settings.epochs}'}  "
            f"loss {loss:.4f}  training accuracy {100 * right:5.2f} %  test accuracy {100 * accuracy:5.2f} %  "
            f"{training.spent:6.0f} s, {time.process_time() - used:5.0f} s of processors",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a SpikingResformer on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="holds train and test, each a folder of classes or its .tar.xz")
    parser.add_argument("--size", choices=RECIPES, default="tiny", help="which network")
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="the folder of the checkpoint")
    parser.add_argument("--evaluate", action="store_true", help="only measure the checkpoint that is there")
    parser.add_argument("--resume", action="store_true", help="go on after the last epoch that ended")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="how often each image is seen (default: the size's)")
    length.add_argument("--minutes", type=float, help="train for as long, in place of epochs")
    parser.add_argument("--batch-size", type=int, help="of all processes together (default: the size's)")
    parser.add_argument("--learning-rate", type=float, help="the highest, after warm-up (default: the size's)")
    parser.add_argument("--strength", type=float, help="of the augmentation, 0 to 1 (default: the size's)")
    parser.add_argument("--early-steps", type=int, help="T in the first part (default: the size's)")
    parser.add_argument("--early-share", type=float, help="length of the first part, 0 to 1 (default: the size's)")
    parser.add_argument("--shown", type=int, default=2000, help="test images that are measured after each epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch chooses if not given)")
    parser.add_argument("--compile", action="store_true", help="let torch.compile merge the steps of each population")
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = device_of_this_process()
    path = args.output / f"spikingresformer_cifar10_{args.size}.pt"
    test = on(read(args.folder, "test"), device)
    if args.evaluate:
        evaluate(path, test, device)
        return 0

    def chosen(name: str) -> Any:
        given = getattr(args, name)
        return getattr(RECIPES[args.size], name) if given is None else given

    settings = Settings(
        size=args.size,
        epochs=None if args.minutes is not None else chosen("epochs"),
        minutes=args.minutes,
        batch_size=chosen("batch_size"),
        peak_lr=RECIPES[args.size].peak_lr if args.learning_rate is None else args.learning_rate,
        strength=chosen("strength"),
        early_steps=chosen("early_steps"),
        early_share=chosen("early_share"),
        seed=args.seed,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    state = path.with_suffix(".state")
    training = Training(settings, device, compiled=args.compile)
    if args.resume:
        training.load(state)
    # evenly of all classes, which lie one after the other
    some = torch.linspace(0, len(test.labels) - 1, min(args.shown, len(test.labels))).long()
    train(
        training,
        on(read(args.folder, "train"), device),
        Images(test.pixels[some], test.labels[some], test.classes),
        state,
    )
    if training.rank == 0:
        model = SpikingResformer(training.model.architecture, timesteps=TIMESTEPS, image_size=IMAGE_SIZE)
        model.load_state_dict(training.average.model.state_dict())
        save_checkpoint(model, path)
        evaluate(path, test, device)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
