"""What training and fine-tuning on CIFAR-10 have in common."""

import contextlib
import math
import os

import torch
import torch.distributed as dist
from images import Images, as_input
from spikingjelly.activation_based import functional
from torch import nn

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""
EVALUATION_BATCH = 250


def learning_rate(done: float, *, peak: float) -> float:
    """Rise linearly, then fall along a cosine to 0.

    Args:
        done: share of the training, 0 to 1.
        peak: the highest.
    """
    if done < WARM_UP:
        return peak * (done / WARM_UP + 0.01)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Let convolutions and products be computed in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16)


def device_of_this_process() -> torch.device:
    """Its GPU, or the CPU where there is none; processes of ``torchrun`` meet."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def rank_and_processes() -> tuple[int, int]:
    """Which of how many processes this is."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@torch.no_grad()
def predictions(model: nn.Module, pixels: torch.Tensor, *, noise: float = 0.0) -> torch.Tensor:
    """Return the class that a network gives to each of images (N, 3, 32, 32), (N,), in its parameters' type.

    Args:
        model: in evaluation mode.
        pixels: bytes.
        noise: the standard deviation of what is added to each input value, where a pixel's step is 1/255.
    """
    dtype = next(model.parameters()).dtype
    generator = torch.Generator(pixels.device).manual_seed(0)
    found = []
    for part in pixels.split(EVALUATION_BATCH):
        shown = as_input(part, dtype=dtype)
        if noise:
            shown = shown + noise * torch.randn(shown.shape, generator=generator, dtype=dtype, device=shown.device)
        found.append(model(shown).mean(0).argmax(1))
        functional.reset_net(model)
    return torch.cat(found)


def share_right(model: nn.Module, data: Images) -> float:
    """Return the share of images that a network gets right."""
    return float((predictions(model, data.pixels) == data.labels).double().mean())
