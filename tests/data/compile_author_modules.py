"""Compile the authors' own class from memory, and verify it: nothing of their code is kept here.

    git clone https://github.com/xyshi2000/SpikingResformer
    python tests/data/compile_author_modules.py SpikingResformer

Each case of ``CASES`` gets the weights of ``author_recipe.py`` and is compiled by ``resformer.compile(module, …)``;
then a checkpoint is saved of it, compiled by its tensors, and verified with their class on the left of E1, as
``resformer-verify --model-code`` puts it there. E1 and E2 must find nothing, and E3 nothing where it is demanded.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import author_recipe as recipe
import torch
from make_author_vectors import build_theirs, import_authors

import resformer
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED, Verification

SMALL = {"ti": {"image_size": 64, "timesteps": 2}, "cifar": {}, "dvsg": {"image_size": 32, "timesteps": 3}}
"""The authors' variants, at sizes that take seconds."""

OTHERS = ("two_stages_one_channel", "uneven_blocks_and_deep_feed_forward")
"""Their class with other numbers."""

CASES = tuple(
    dataclasses.replace(case, **SMALL.get(case.name, {})) for case in recipe.CASES if case.name in (*SMALL, *OTHERS)
)


def check(what: str, result: Verification) -> None:
    """Print a verification; stop unless it is equivalent, all checks having run."""
    for name in (FLOAT_GRAPH, BACKEND, QUANTIZED):
        each = result.checks[name]
        print(f"  {what}, {name}: {each.mismatched:,} of {each.compared:,} ({each.note})", flush=True)  # noqa: T201
    if not result.equivalent or result.checks[FLOAT_GRAPH].mismatched or not result.checks[FLOAT_GRAPH].compared:
        raise SystemExit(f"{what}: not equivalent")


def main() -> None:
    """Compile and verify every case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of github.com/xyshi2000/SpikingResformer")
    parser.add_argument("cases", nargs="*", help="their names; all if none is given")
    arguments = parser.parse_args()
    authors = import_authors(arguments.checkout)
    for case in CASES:
        if arguments.cases and case.name not in arguments.cases:
            continue
        started = time.monotonic()
        theirs = build_theirs(authors, case).double()
        theirs.load_state_dict(recipe.state_dict(theirs.state_dict()), strict=True)
        example = recipe.network_input(case)
        compiled = resformer.compile(theirs, example, "sim")
        check(f"{case.name} from memory", compiled.verify(example, backend="sim"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.pt")
            torch.save({"model": theirs.state_dict()}, path)
            options = resformer.CompileOptions(timesteps=case.timesteps, image_size=case.image_size)
            compiled = resformer.compile(path, target="sim", options=options)
            check(f"{case.name} from a checkpoint", compiled.verify(example, backend="sim", model=theirs))
        print(f"{case.name}: {time.monotonic() - started:.1f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.path.insert(0, str(Path(__file__).parent))
    main()
