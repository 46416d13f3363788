"""The architecture as data, feature-map sizes, and the network's inputs and outputs."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional

from resformer.errors import InputError, UnsupportedError
from resformer.models.layers import DSSA
from resformer.models.spikingresformer import (
    VARIANTS,
    Architecture,
    SpikingResformer,
    nearest_image_sizes,
    patch_counts,
    smallest_image_size,
)

SMALL = Architecture(
    planes=(8, 16),
    blocks=(("DSSA", "GWFFN"), ("DSSA",)),
    num_heads=(1, 2),
    patch_sizes=(2, 1),
    ffn_ratios=(4, 1),
    ffn_convs=(1, 1),
    group_sizes=(8, 1),
    num_classes=5,
    stem="conv3x3",
)


def trained(model: SpikingResformer) -> SpikingResformer:
    """The network after one batch, which sets its firing rates; those of a new network are 0."""
    torch.manual_seed(0)
    model.double().train()
    size = model.image_size
    model(8 * torch.rand(2, model.architecture.in_channels, size, size, dtype=torch.float64))
    functional.reset_net(model)
    return model.eval()


@pytest.mark.parametrize(
    ("variant", "millions"), [("ti", 11.18), ("s", 17.81), ("m", 35.60), ("l", 60.38), ("cifar", 10.79), ("dvsg", 2.71)]
)
def test_variants_have_their_number_of_parameters(variant: str, millions: float) -> None:
    with torch.device("meta"):
        model = SpikingResformer(VARIANTS[variant], timesteps=4, image_size=64)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("variant", "image_size", "sizes"),
    [
        ("ti", 224, (56, 28, 14)),
        ("ti", 288, (72, 36, 18)),
        ("s", 128, (32, 16, 8)),
        ("cifar", 32, (32, 16, 8)),
        ("dvsg", 64, (64, 32, 16)),
        ("ti", 223, (56, 28, 14)),
    ],
)
def test_stages_hold_squares_of_patches(variant: str, image_size: int, sizes: tuple[int, ...]) -> None:
    counts = tuple((size // patch) ** 2 for size, patch in zip(sizes, VARIANTS[variant].patch_sizes, strict=True))
    assert patch_counts(VARIANTS[variant], image_size, "ceil") == counts


@pytest.mark.parametrize("image_size", [4, 6, 7, 9, 13, 16])
@pytest.mark.parametrize("stem", ["imagenet", "conv3x3"])
def test_patches_are_counted_as_the_feature_maps_have_them(image_size: int, stem: Any) -> None:
    architecture = dataclasses.replace(SMALL, patch_sizes=(1, 1), stem=stem)
    model = trained(SpikingResformer(architecture, timesteps=1, image_size=image_size))
    attentions = [module for module in model.modules() if isinstance(module, DSSA)]
    seen: list[int] = []
    for attention in attentions:
        attention.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[-1]))
    model(torch.rand(1, 3, image_size, image_size, dtype=torch.float64))
    assert tuple(size**2 for size in seen) == patch_counts(architecture, image_size, "ceil")
    assert [attention.num_patches for attention in attentions] == [size**2 for size in seen]


def test_a_stage_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"image size 200: stage 0 is 50x50.*4x4.*multiple of 64"):
        SpikingResformer(VARIANTS["ti"], timesteps=4, image_size=200)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_multiple_of_the_smallest_image_size_fits(variant: str) -> None:
    smallest = smallest_image_size(VARIANTS[variant])
    for factor in (1, 2, 3, 7):
        # patch_counts refuses stages that patches do not fill, and sizes that the authors' class rounds differently
        assert min(patch_counts(VARIANTS[variant], factor * smallest, None)) >= 1


def test_an_image_is_presented_at_every_step() -> None:
    model = trained(SpikingResformer(SMALL, timesteps=3, image_size=8))
    images = 8 * torch.rand(2, 3, 8, 8, dtype=torch.float64)
    logits = model(images)
    functional.reset_net(model)
    frames = model(images.unsqueeze(1).expand(-1, 3, -1, -1, -1))
    assert logits.shape == (3, 2, 5)
    assert torch.equal(logits, frames)
    assert logits.abs().max() > 0


def test_frames_are_samples_first_and_bring_their_own_steps() -> None:
    model = trained(SpikingResformer(SMALL, timesteps=3, image_size=8))
    frames = 8 * torch.rand(2, 5, 3, 8, 8, dtype=torch.float64)
    together = model(frames)
    assert together.shape == (5, 2, 5)
    for sample in range(2):
        functional.reset_net(model)
        # One convolution over another batch may sum in another order.
        torch.testing.assert_close(model(frames[sample : sample + 1])[:, 0], together[:, sample], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 16), (2, 3, 16, 16), (3, 8, 8), (1, 1, 1, 3, 8, 8)])
def test_an_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    model = SpikingResformer(SMALL, timesteps=3, image_size=8)
    with pytest.raises(InputError, match=re.escape(f"{shape}: this network takes (N, 3, 8, 8)")):
        model(torch.zeros(shape))


def test_no_steps_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="timesteps is 0"):
        SpikingResformer(SMALL, timesteps=0, image_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": (8,)}, "'planes': 1"),
        ({"planes": (8, 15)}, "stage 1: 15 planes cannot be split evenly into 2 heads"),
        ({"group_sizes": (7, 1)}, "stage 0: 32 inner channels cannot be split into groups of 7"),
        ({"patch_sizes": (2, 0)}, "stage 1: patch_sizes is 0"),
        ({"blocks": (("DSSA",), ("MLP",))}, "stage 1: block 'MLP' is unknown"),
        ({"blocks": (("DSSA",), ())}, "stage 1 has no blocks"),
        ({"stem": "vgg"}, "stem is 'vgg': must be one of imagenet, conv3x3"),
        ({"neuron": "QIF"}, "neuron is 'QIF': must be one of IF, LIF, PLIF"),
        ({"stem_stride": 4}, "stem_stride is 4: must be 1 to 3"),
        ({"stem_stride": 0}, "stem_stride is 0: must be 1 to 3"),
        ({"num_classes": 0}, "num_classes 0"),
    ],
)
def test_architectures_that_contradict_themselves_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        dataclasses.replace(SMALL, **change)


# -- sizes that are odd where they are halved ------------------------------------------------------------------------


def test_a_stem_that_is_the_published_one_is_described_in_one_way() -> None:
    assert dataclasses.replace(SMALL, stem_stride=1, stem_pool=False) == SMALL
    assert dataclasses.replace(SMALL, stem_stride=2) != SMALL
    assert dataclasses.replace(SMALL, stem_stride=2, stem_pool=True).stem_layout == (3, 2, True)


def authors_counts(architecture: Architecture, image_size: int) -> list[int]:
    """The authors' constructor restated: the given size, halved by //, is divided by the patch size."""
    size = image_size // 4 if architecture.stem == "imagenet" else image_size
    counts = []
    for stage, patch_size in enumerate(architecture.patch_sizes):
        if stage:
            size //= 2
        counts.append((size // patch_size) ** 2)
    return counts


@pytest.mark.parametrize("variant", ["ti", "cifar"])
def test_patches_counted_by_floor_are_the_authors(variant: str) -> None:
    architecture, tried = VARIANTS[variant], 0
    for size in range(32, 300):
        try:
            counts = patch_counts(architecture, size, "floor")
        except UnsupportedError:
            continue
        assert list(counts) == authors_counts(architecture, size)
        tried += counts != patch_counts(architecture, size, "ceil")
    assert tried > 10 if variant == "ti" else tried == 0  # all of cifar's patches call for sizes that agree


def test_attention_is_scaled_by_the_count() -> None:
    architecture = dataclasses.replace(SMALL, patch_sizes=(1, 1))
    for rounding, counts in (("floor", [49, 9]), ("ceil", [49, 16])):
        model = SpikingResformer(architecture, timesteps=1, image_size=7, feature_rounding=rounding)  # type: ignore[arg-type]
        assert [module.num_patches for module in model.modules() if isinstance(module, DSSA)] == counts


def test_a_size_at_which_it_matters_is_refused_unless_it_is_said() -> None:
    architecture = dataclasses.replace(SMALL, patch_sizes=(1, 1))
    with pytest.raises(UnsupportedError, match=r"image size 7: stage 1 has 16 patches.* were 9.*: 6 and 8 work"):
        SpikingResformer(architecture, timesteps=1, image_size=7, feature_rounding=None)
    only_first = dataclasses.replace(architecture, blocks=(("DSSA",), ("GWFFN",)))
    SpikingResformer(only_first, timesteps=1, image_size=7, feature_rounding=None)  # no attention, no L


def test_a_stage_without_a_patch_by_floor_is_refused() -> None:
    architecture = dataclasses.replace(SMALL, patch_sizes=(1, 1))
    with pytest.raises(UnsupportedError, match="image size 1: stage 1 has no patch where sizes are rounded down"):
        SpikingResformer(architecture, timesteps=1, image_size=1, feature_rounding="floor")


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="feature_rounding is 'round': must be one of floor, ceil"):
        SpikingResformer(SMALL, timesteps=1, image_size=8, feature_rounding="round")  # type: ignore[arg-type]


ADVISED: dict[str, Architecture] = {
    "small": SMALL,
    "patches of 1": dataclasses.replace(SMALL, patch_sizes=(1, 1)),
    "large stem": dataclasses.replace(SMALL, stem="imagenet"),
    "stride 3": dataclasses.replace(SMALL, stem_stride=3, patch_sizes=(1, 3)),
    "stride 2 and a pool": dataclasses.replace(SMALL, stem_stride=2, stem_pool=True),
    "large stem, no pool": dataclasses.replace(SMALL, stem="imagenet", stem_stride=1, stem_pool=False),
    "patches of 3 and 2": dataclasses.replace(SMALL, patch_sizes=(3, 2)),
    "attention in the second stage only": dataclasses.replace(SMALL, blocks=(("GWFFN",), ("DSSA",))),
}


@pytest.mark.parametrize("rounding", [None, "floor", "ceil"])
@pytest.mark.parametrize("name", ADVISED)
def test_every_size_that_an_error_recommends_is_built_and_runs(name: str, rounding: Any) -> None:
    recommended: set[int] = set()
    for size in range(-1, 40):
        if works(ADVISED[name], size, rounding):
            continue
        with pytest.raises(UnsupportedError) as caught:
            SpikingResformer(ADVISED[name], timesteps=1, image_size=size, feature_rounding=rounding)
        advice = re.search(r"(\d+)(?: and (\d+))? works?, as does every multiple of (\d+)", str(caught.value))
        assert advice, caught.value
        recommended |= {int(each) for each in advice.groups() if each}
        recommended.add(2 * int(advice[3]))
        below, above = int(advice[1]), int(advice[2] or advice[1])
        assert not any(works(ADVISED[name], each, rounding) for each in range(below + 1, above))
    assert recommended
    for size in sorted(recommended):
        model = trained(SpikingResformer(ADVISED[name], timesteps=1, image_size=size, feature_rounding=rounding))
        assert model(torch.rand(1, 3, size, size, dtype=torch.float64)).isfinite().all()


def works(architecture: Architecture, size: int, rounding: Any) -> bool:
    try:
        with torch.device("meta"):
            SpikingResformer(architecture, timesteps=1, image_size=size, feature_rounding=rounding)
    except UnsupportedError:
        return False
    return True


@pytest.mark.parametrize("size", [5000, 10**12])
def test_a_size_above_the_limit_is_refused_at_once(size: int) -> None:
    with pytest.raises(UnsupportedError, match="the limit is 4096"):
        SpikingResformer(SMALL, timesteps=1, image_size=size)


def test_no_size_is_recommended_where_none_fits() -> None:
    architecture = dataclasses.replace(SMALL, patch_sizes=(5000, 1))
    with pytest.raises(UnsupportedError, match="no size up to 4096 fits this network"):
        SpikingResformer(architecture, timesteps=1, image_size=8)


@pytest.mark.parametrize(
    ("variant", "rounding", "size", "nearest"),
    [
        ("ti", None, 200, (192, 208)),
        ("ti", None, 224, (208, 224)),
        ("cifar", None, 33, (32, 36)),
        ("ti", None, 0, (16,)),
    ],
)
def test_nearest_sizes(variant: str, rounding: Any, size: int, nearest: tuple[int, ...]) -> None:
    assert nearest_image_sizes(VARIANTS[variant], size, rounding) == nearest
