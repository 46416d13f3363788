"""Run every command and every snippet of the README and the documentation.

    python tests/docs/run.py                                   # make docs-test
    python tests/docs/run.py docs/tutorial.md README.md        # these pages alone
    python tests/docs/run.py --language python                 # the Python alone

Each page runs in an empty folder, its blocks in order, beside small files under the names that pages use
(``tests/support/docs/inputs.py``). Blocks that cannot be run say so on their page, and are counted here.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
LOADED = (
    "resformer.runtime.cli.compile",
    "resformer.runtime.cli.run",
    "resformer.runtime.cli.verify",
    "resformer.runtime.cli.report",
    "resformer.runtime.compiled",
    "resformer.runtime.verify.verify",
    "resformer.runtime.page.content",
    "resformer.compiler.backends.sim.backend",
    "spikingjelly.activation_based.functional",
)
"""What is imported once, for all commands."""


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run them; 1 if any failed."""
    for name in THREADS:
        os.environ.setdefault(name, "1")  # threads do not survive a fork, and two pages run at a time
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.docs.blocks import RUN, blocks, pages
    from support.docs.inputs import uses_build
    from support.docs.running import make_build, run_pages

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run (default: all)")
    parser.add_argument("--language", action="append", choices=RUN, help="run these blocks alone (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pages at a time (default: one a core)")
    arguments = parser.parse_args()
    started = time.monotonic()
    for name in LOADED:
        importlib.import_module(name)
    paths = [path.resolve() for path in arguments.pages] or list(pages())
    languages = frozenset(arguments.language or RUN)
    ran = {path: [each for each in blocks(path) if each.runs and each.language in languages] for path in paths}
    paths.sort(key=lambda path: len(ran[path]), reverse=True)  # lest one core waits for the other
    run = [block for each in ran.values() for block in each]
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:
        needed = any(uses_build(block.text) for block in run)
        build = make_build(Path(folder)) if needed else Path(folder)
        tally = run_pages(paths, build, arguments.jobs, languages=languages, tell=tell)
    write = sys.stdout.write
    for where, reason in tally.skipped:
        write(f"not run: {where}: {reason}\n")
    reasons = Counter(reason for _, reason in tally.skipped)
    write(
        f"{tally.run} blocks with {tally.commands} commands ran, {tally.lines} lines of output as shown; "
        f"{len(tally.skipped)} blocks not run, for {len(reasons)} reasons; {len(tally.failures)} failed; "
        f"{time.monotonic() - started:.0f} s ({tally.seconds:.0f} s of a core)\n"
    )
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
