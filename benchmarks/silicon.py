"""Our network, against what Intel's silicon and compiler printed and recorded (E5).

    git clone https://github.com/lava-nc/lava-dl
    python benchmarks/silicon.py --lava-dl lava-dl

Files are read from checkouts that the user gives; what they lack is said, and left out. Exit status: 0 if no recorded
spike, current or potential differs, else 1.
"""

import argparse
import sys
from pathlib import Path

from networks import print_machine, print_table
from silicon_spikes import HEADER, Row, compare_oxford, compare_pilotnet, table


def main() -> int:
    """Compare, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lava-dl", type=Path, metavar="PATH", help="checkout of lava-nc/lava-dl")
    arguments = parser.parse_args()
    if arguments.lava_dl is None:
        parser.error("give --lava-dl PATH, a checkout of lava-nc/lava-dl")
    print_machine()
    return show_spikes(arguments.lava_dl)


def show_spikes(lava_dl: Path) -> int:
    """Print the tables of recorded spikes; returns the exit status."""
    status = 0
    for title, rows in (
        ("PilotNet-LIF, its recorded road frame, spikes, u and v of silicon", compare_pilotnet(lava_dl)),
        ("Oxford, the hidden layer's recorded spikes", compare_oxford(lava_dl)),
    ):
        print(f"## {title}\n")
        print_table(HEADER, table(rows))
        status |= any_differs(rows)
    return status


def any_differs(rows: list[Row]) -> int:
    """1 if any value differs, or none was compared; else 0."""
    compared = [row for row in rows if row.compared]
    return int(not compared or any(row.differing for row in compared))


if __name__ == "__main__":
    sys.exit(main())
