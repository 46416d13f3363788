"""Several processes that share the samples of one run, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from resformer.errors import InputError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long one process waits for the others' results: torchrun ends all when one fails."""
STORE_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        rank: This one's number; the first gathers the results and is the only one to speak.
        count: How many there are.
        local_rank: This one's number among those on the same machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process gathers, prints and writes."""
        return self.rank == 0

    def share(self, samples: int) -> tuple[int, int]:
        """The first and the past-the-last of this process's samples.

        Raises:
            InputError: Some process would have none.
        """
        if samples < self.count:
            raise InputError(f"{samples} samples for {self.count} processes; start at most {samples}")
        return samples * self.rank // self.count, samples * (self.rank + 1) // self.count

    def device(self, asked: str) -> str:
        """The device of this process: of several that ask for "cuda", each gets a GPU of its own."""
        return f"cuda:{self.local_rank}" if asked == "cuda" and self.count > 1 else asked

    def gather(self, part: T) -> list[T] | None:
        """What all processes have made, in the order of their ranks; None where this one does not lead."""
        if self.count == 1:
            return [part]
        from torch import distributed

        distributed.init_process_group("gloo", timeout=PATIENCE)
        try:
            parts: list[T | None] | None = [None] * self.count if self.leads else None
            distributed.gather_object(part, parts)
        finally:
            distributed.destroy_process_group()
        return None if parts is None else [each for each in parts if each is not None]

    def claim_failure(self) -> bool:
        """Whether this process is the first to fail, and so the one to say why.

        The first fails for all: torchrun ends the others.
        """
        if self.count == 1:
            return True
        from torch import distributed

        try:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                host, port, is_master=False, timeout=STORE_TIMEOUT, wait_for_workers=False
            )
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            return int(store.add(f"resformer/failed/{attempt}", 1)) == 1
        except (KeyError, ValueError, RuntimeError):
            return True  # nobody to ask: better told twice than not at all


def from_environment(environment: Mapping[str, str] | None = None) -> Processes:
    """The processes that ``torchrun``, or whatever sets the same variables, has started; else this one alone."""
    environment = os.environ if environment is None else environment
    wanted = [environment.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if "MASTER_ADDR" not in environment or not all(value.isdecimal() for value in wanted):
        return Processes()
    rank, count, local_rank = map(int, wanted)
    return Processes(rank, count, local_rank)
