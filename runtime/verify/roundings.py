"""The spikes of neurons that a module's code computes itself, observed as the operations run.

Neurons of levels are known by their roundings, however the code is written; neurons that the code writes out over a
loop of steps are known by their comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from resformer.compiler.frontend.module.levels import HALF, ROUNDINGS, LevelCall
from resformer.compiler.frontend.module.written import COMPARISONS
from resformer.errors import InputError


class Roundings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which ``observe`` is called for each population that the module's code computes itself.

    ``observe`` gets what the population's rounding or comparison reads, and what the population sends, both
    (T, N, ...). The rounding of a population of levels reads its potential, clamped; a comparison reads the potential,
    which is given in thresholds, even if the code compares the difference from the threshold.

    Args:
        calls: For each rounding of a forward pass, in order, the population that it belongs to, or None. If any neurons
            are written out with comparisons, also for each comparison.
        timesteps: T.
        observe: Called with a population's name, what its operation reads, and what it sends.
        unseen: Modules whose operations are ignored: those that the frontend does not look into.
    """

    def __init__(
        self,
        calls: Sequence[LevelCall | None],
        timesteps: int,
        observe: Callable[[str, torch.Tensor, torch.Tensor], None],
        unseen: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        compares = any(each is not None and each.threshold is not None for each in calls)
        self.counted = ROUNDINGS | COMPARISONS.keys() if compares else ROUNDINGS
        self.unseen, self.inside, self.hooks = tuple(unseen), 0, list[RemovableHandle]()
        self.calls, self.timesteps, self.observe = calls, timesteps, observe
        self.count = 0
        self.steps: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note it if it is a rounding, or a comparison where these are watched.

        Raises:
            InputError: The module's code rounds or compares more often than when it was traced.
        """
        made = func(*args, **(kwargs or {}))
        if not self.inside and str(func) in self.counted:
            if self.count >= len(self.calls):
                raise _other(len(self.calls))
            call, self.count = self.calls[self.count], self.count + 1
            if call is not None and call.threshold is not None:
                # code that compares v - threshold with 0 instead of v with the threshold
                potential = (args[0].double() + (call.threshold - args[1])) / call.threshold
                self._note(call, *(call.arranged(each.double(), self.timesteps) for each in (potential, made)))
            elif call is not None:
                # code that rounds down has added a half, taken off here; code may clamp later, so both are clamped here
                half = HALF if func is torch.ops.aten.floor.default else 0.0
                both = ((each - extra).clamp(0, call.most) for each, extra in ((args[0], half), (made, 0.0)))
                given, sent = (call.arranged(each, self.timesteps) for each in both)
                self._note(call, given, sent)
        return made

    def _note(self, call: LevelCall, given: torch.Tensor, sent: torch.Tensor) -> None:
        """Report a population; if the code computes it step by step, report it once after the last step."""
        if call.step is not None:
            steps = self.steps.setdefault(call.name, [])
            steps.append((given, sent))
            if len(steps) < self.timesteps:
                return
            given, sent = (torch.cat(each) for each in zip(*self.steps.pop(call.name), strict=True))
        self.observe(call.name, given, sent)

    def __enter__(self) -> Any:
        """Begin to observe."""
        for each in self.unseen:
            self.hooks.append(each.register_forward_pre_hook(lambda *_: self._enter(1)))
            self.hooks.append(each.register_forward_hook(lambda *_: self._enter(-1)))
        return super().__enter__()  # type: ignore[no-untyped-call]

    def _enter(self, by: int) -> None:
        self.inside += by

    def __exit__(self, *error: Any) -> None:
        """Stop observing, and see that every expected rounding and comparison ran.

        Raises:
            InputError: The module's code rounds or compares less often than when it was traced.
        """
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if error[0] is None and self.count != len(self.calls):
            raise _other(len(self.calls))


def _other(count: int) -> InputError:
    return InputError(
        f"module: its code rounds or compares values another number of times than the {count} that it was traced with; "
        "leave out roundings and comparisons whose results nothing reads"
    )
