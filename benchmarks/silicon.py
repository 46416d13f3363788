"""Our programs compared with what Intel's silicon recorded and Intel's compiler printed (E5).

    git clone https://github.com/lava-nc/lava-dl
    git clone https://github.com/neuromorphs/NIR
    python benchmarks/silicon.py --lava-dl lava-dl --nir NIR

Files are read from checkouts that the user gives; a file that a checkout lacks is named and left out. Exit status: 0 if
no recorded spike, current or potential differs, else 1.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import silicon_cost
from networks import print_machine, print_table
from silicon_spikes import HEADER, NIR_LIF, OXFORD, RECORDED, Row, compare_nir, compare_oxford, compare_pilotnet, table


def main() -> int:
    """Compare, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lava-dl", type=Path, metavar="PATH", help="checkout of lava-nc/lava-dl")
    parser.add_argument("--nir", type=Path, metavar="PATH", help="checkout of neuromorphs/NIR")
    arguments = parser.parse_args()
    if arguments.lava_dl is None and arguments.nir is None:
        parser.error("give --lava-dl PATH, a checkout of lava-nc/lava-dl, or --nir PATH, one of neuromorphs/NIR")
    for path, needed in ((arguments.lava_dl, (RECORDED, OXFORD)), (arguments.nir, (NIR_LIF,))):
        for each in needed:
            if path is not None and not (path / each).is_dir():
                parser.error(f"{path}: has no folder {each}; name a whole checkout")
    print_machine()
    status = show_spikes(arguments.lava_dl, arguments.nir)
    if arguments.lava_dl is not None:
        print("## Cores, operations, steps and energies beside what Intel's compiler and silicon printed\n")
        silicon_cost.show(arguments.lava_dl)
    return status


def show_spikes(lava_dl: Path | None, nir: Path | None) -> int:
    """Print the tables of recorded spikes from the checkouts that were given; return the exit status."""
    tables: list[tuple[str, Callable[[Path], list[Row]], Path | None]] = [
        ("PilotNet-LIF on its recorded road frame: spikes, u and v of silicon", compare_pilotnet, lava_dl),
        ("Oxford: spikes recorded of the hidden layer", compare_oxford, lava_dl),
        ("The NIR paper's neuron on Loihi: spikes and v", compare_nir, nir),
    ]
    status = 0
    for title, compare, checkout in tables:
        if checkout is not None:
            rows = compare(checkout)
            print(f"## {title}\n")
            print_table(HEADER, table(rows))
            status |= int(differs(rows))
    return status


def differs(rows: list[Row]) -> bool:
    """Whether any value differs, or none was compared."""
    compared = [row for row in rows if row.compared]
    return not compared or any(row.differing for row in compared)


if __name__ == "__main__":
    sys.exit(main())
