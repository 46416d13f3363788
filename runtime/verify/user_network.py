"""A user's own module beside a build: try out how it takes samples, and match its populations to the program's."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resformer.compiler.frontend.module.importer import in_float64
from resformer.compiler.frontend.module.kinds import is_population, reset
from resformer.compiler.frontend.module.tracing import InFloat64
from resformer.compiler.ir.program import Scheduled
from resformer.errors import InputError
from resformer.runtime.verify.torch_network import SAMPLE_AXES, PopulationObserver, TorchNetwork
from resformer.runtime.verify.user_code import reported

Float64Array = npt.NDArray[np.float64]

Feed: TypeAlias = Callable[[torch.Tensor, int], torch.Tensor]
"""Called with samples, (N, C, H, W) or (N, T, C, H, W), and T; returns the samples as a module takes them."""

SEED = 0
"""The seed of the random samples that a module is tried on."""


def _images(samples: torch.Tensor, _steps: int) -> torch.Tensor:
    return samples


def _time_first(samples: torch.Tensor, steps: int) -> torch.Tensor:
    if samples.dim() == SAMPLE_AXES + 1:
        return samples.expand(steps, *samples.shape)
    return samples.transpose(0, 1)


def _samples_first(samples: torch.Tensor, steps: int) -> torch.Tensor:
    return _time_first(samples, steps).transpose(0, 1)


def _vectors(feed: Feed) -> Feed:
    return lambda samples, steps: feed(samples, steps).flatten(-SAMPLE_AXES)


FEEDS: Mapping[str, Feed] = MappingProxyType(
    {
        "(N, C, H, W)": _images,
        "(T, N, C, H, W)": _time_first,
        "(N, T, C, H, W)": _samples_first,
        "(N, F)": _vectors(_images),
        "(T, N, F)": _vectors(_time_first),
        "(N, T, F)": _vectors(_samples_first),
    }
)
"""The ways in which modules take samples."""
FORMS = ("N", "TN", "NT")
"""The forms in which modules return logits: the axes before the axis of classes."""


class UserNetwork(TorchNetwork):
    """A user's module in float64, in the place of the original.

    Args:
        model: In eval mode.
        populations: The paths of its populations in the module, by the program's names.
        feed: How it takes samples, a key of ``FEEDS``.
        form: How it returns logits, one of ``FORMS``.
        timesteps: T.
        called: What messages call the module.
        by_name: Whether its populations have the program's names; if not, they were matched in the order in which they
            run.
        fine_tuned: As :class:`TorchNetwork` takes it.
    """

    source = "model code"

    def __init__(
        self,
        model: nn.Module,
        populations: Mapping[str, str],
        feed: str,
        form: str,
        *,
        timesteps: int,
        called: str,
        by_name: bool,
        fine_tuned: bool = False,
    ) -> None:
        super().__init__(model, fine_tuned=fine_tuned)
        own = self.neurons
        self.neurons = {name: own[path] for name, path in populations.items()}
        self.populations, self.feed, self.form, self.timesteps = populations, feed, form, timesteps
        self.called, self.by_name = called, by_name

    @property
    def note(self) -> str:
        """What a reader of the results should know."""
        matched = "by name" if self.by_name else "in the order in which they run"
        return (
            f"{self.called} is on the left of E1: code of yours that was run, trusted, in float64; its "
            f"{len(self.populations)} populations were matched {matched}, and it was given {self.feed}"
        )

    def copy(self) -> UserNetwork:
        """A copy of the network, with its own state."""
        return self._like(copy.deepcopy(self.model), fine_tuned=self.fine_tuned)

    def tuned(self, *, fine_tuned: bool) -> UserNetwork:
        """The same network, which is given samples rounded as the program's are if ``fine_tuned``."""
        return self._like(self.model, fine_tuned=fine_tuned)

    def _like(self, model: nn.Module, *, fine_tuned: bool) -> UserNetwork:
        return UserNetwork(
            model,
            self.populations,
            self.feed,
            self.form,
            timesteps=self.timesteps,
            called=self.called,
            by_name=self.by_name,
            fine_tuned=fine_tuned,
        )

    @torch.no_grad()
    def run(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
        """As ``TorchNetwork.run``: the logits, (T, N, classes), or (1, N, classes) if it returns one vector per sample.

        Raises:
            InputError: The user's code raises something, or its populations or logits are not as when it was tried.
        """
        given = torch.from_numpy(samples)
        with reported(self.called):
            fired: dict[str, Calls] = {}
            returned = _run(self.model, self.neurons, FEEDS[self.feed](given, self.timesteps), fired)
            steps = {name: _steps(calls, self.timesteps, len(samples)) for name, calls in fired.items()}
            _, logits = _logits(returned, self.timesteps, len(samples), self.called, (self.form,))
            if not torch.isfinite(logits).all():
                raise InputError(
                    f"{self.called}: returns logits that are not finite; give the network that was compiled"
                )
        for name, found in steps.items():
            if found is None:
                raise InputError(f"{self.called}: {self.populations[name]} does not fire T times for each sample")
            observe(name, *found)
        return logits.numpy()


Calls: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"
"""What a population was given and what it fired, for each call."""


def _run(
    model: nn.Module, populations: Mapping[str, nn.Module], given: torch.Tensor, fired: dict[str, Calls]
) -> object:
    """Run a module from rest.

    Args:
        model: The module.
        populations: The populations to observe, by name.
        given: The samples as the module takes them.
        fired: Receives the calls of each population, in the order of their first calls.

    Returns:
        What the module returned.
    """
    hooks = [
        node.register_forward_hook(
            lambda _node, inputs, spikes, name=name: fired.setdefault(name, []).append((inputs[0], spikes))
        )
        for name, node in populations.items()
    ]
    try:
        reset(model)
        with InFloat64():
            returned = model(given)
    finally:
        for hook in hooks:
            hook.remove()
        reset(model)
    return returned


def _same_order(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes may be groupings of the same neurons in the same order: their axes end at common places.

    A view of tokens, (H * W, C) in place of (C, H, W), is none in general.
    """
    ends = sorted({math.prod(shape[axis:]) for shape in (one, other) for axis in range(len(shape))})
    return all(large % small == 0 for small, large in itertools.pairwise(ends))


def _steps(calls: Calls, steps: int, samples: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What a population was given and fired, (T, N, ...), if it was called once, or once a step; otherwise None."""
    if len(calls) == 1 and calls[0][1].shape[:2] == (steps, samples):
        return calls[0]
    if len(calls) == steps and all(spikes.shape[:1] == (samples,) for _, spikes in calls):
        return torch.stack([given for given, _ in calls]), torch.stack([spikes for _, spikes in calls])
    return None


def _logits(
    returned: object, steps: int, samples: int, called: str, forms: Sequence[str] = FORMS
) -> tuple[str, torch.Tensor]:
    """The form of a module's logits, one of ``forms``, and the logits as (T, N, classes) or (1, N, classes).

    The first form that fits is taken. If N is T, the shape alone does not tell the forms apart.
    """
    if isinstance(returned, list | tuple) and len(returned) == steps and all(map(torch.is_tensor, returned)):
        returned = torch.stack(list(returned))
    what = f"a {type(returned).__name__}"
    if isinstance(returned, torch.Tensor):
        sizes = {"N": samples, "T": steps}
        for form in forms:
            if tuple(returned.shape[:-1]) == tuple(sizes[axis] for axis in form):
                return form, {"N": returned[None], "TN": returned, "NT": returned.transpose(0, 1)}[form]
        what = f"a tensor of shape {tuple(returned.shape)}"
    raise InputError(f"{called}: returns {what}; it must return logits, (T, N, classes) or (N, classes)")


def user_network(module: nn.Module, program: Scheduled, *, called: str) -> UserNetwork:
    """A user's module as the original of a program.

    Args:
        module: The module with its weights; it is copied.
        program: The build's program.
        called: What messages call the module.

    Raises:
        InputError: The user's code raises something for each way to give samples, or has other populations.
    """
    with reported(called):
        twin = in_float64(module)
    wanted = {name: math.prod(program[name].shape) for name in program.spiking_names}
    errors: list[tuple[bool, int, InputError]] = []
    for feed in _possible(program):
        fired: dict[str, Calls] = {}
        try:
            return _matched(twin, program, wanted, feed, called, fired)
        except InputError as error:
            errors.append((error.__cause__ is None, len(fired), error))
    # the error of a module that ran says more than that of one whose code raised, and that, if it came late, more than
    # one that came as soon as the code saw samples of another shape than it takes
    raise max(errors, key=lambda each: each[:2])[2]


def _possible(program: Scheduled) -> Sequence[str]:
    """The ways in which a module may take the program's samples."""
    vectors = program.input.shape[1:] == (1, 1)
    kinds = ["(T, N, C, H, W)", "(N, T, C, H, W)"] + (["(T, N, F)", "(N, T, F)"] if vectors else [])
    if program.metadata.get("input") == "frames":
        return kinds
    return ["(N, C, H, W)", *(["(N, F)"] if vectors else []), *kinds]


@torch.no_grad()
def _matched(
    module: nn.Module,
    program: Scheduled,
    wanted: Mapping[str, int],
    feed: str,
    called: str,
    fired: dict[str, Calls],
) -> UserNetwork:
    """The network of a module, which must run as the program does when it is given samples by ``feed``.

    ``fired`` is filled with the calls of each population, even if the module's code raises after them.

    Raises:
        InputError: The module does not run so, or its populations are not the program's.
    """
    steps = program.timesteps
    # N must not be T, or the two axes could be mistaken for each other
    samples = 2 if steps != 2 else 3
    axes = (
        (samples, *program.input.shape)
        if feed in ("(N, C, H, W)", "(N, F)")
        else (samples, steps, *program.input.shape)
    )
    given = torch.rand(axes, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    own = {name: node for name, node in module.named_modules() if is_population(node)}
    with reported(f"{called}: given {feed}"):
        returned = _run(module, own, FEEDS[feed](given, steps), fired)
        ran = {name: _steps(calls, steps, samples) for name, calls in fired.items()}
        form, logits = _logits(returned, steps, samples, called)
    sizes: dict[str, int] = {}
    for name, found in ran.items():
        if found is None:
            calls = fired[name]
            shapes = tuple(calls[0][1].shape)
            raise InputError(
                f"{called}: given {feed} with T = {steps} and N = {samples}, {name} fires {len(calls)} times in shape "
                f"{shapes}; every population must fire (T, N, ...), or T times (N, ...)"
            )
        sizes[name] = found[1].numel() // (steps * samples)
    by_name = sizes.keys() == wanted.keys()
    if len(sizes) != len(wanted):
        raise InputError(
            f"{called}: {len(sizes)} populations of SpikingJelly's neurons fire, the build has {len(wanted)}; give the "
            "network that was compiled"
        )
    populations = {name: name for name in wanted} if by_name else dict(zip(wanted, sizes, strict=True))
    for name, path in populations.items():
        if sizes[path] != wanted[name]:
            raise InputError(
                f"{called}: {path} has {sizes[path]} neurons, {name} of the build has {wanted[name]}; give the network "
                "that was compiled, its populations running in the same order or bearing the same names"
            )
        found = ran[path]
        assert found is not None
        own_shape, shape = tuple(found[1].shape[2:]), program[name].shape
        if not _same_order(own_shape, shape):
            raise InputError(
                f"{called}: {path} fires {own_shape} a step, {name} of the build {shape}, and which neuron is which "
                "cannot be told; let it fire (T, N, C, H, W)"
            )
    if logits.shape[-1] != program.output.shape[0]:
        raise InputError(
            f"{called}: returns {logits.shape[-1]} values for a sample, the build has {program.output.shape[0]} "
            "classes; give the network that was compiled"
        )
    return UserNetwork(module, populations, feed, form, timesteps=steps, called=called, by_name=by_name)
