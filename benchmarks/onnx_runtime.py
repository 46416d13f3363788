"""The integer ONNX model in ONNX Runtime at full size: whether it gives the program's spikes, its speed, its memory.

    python benchmarks/onnx_runtime.py                       # Ti at 224x224, one image, against sim
    python benchmarks/onnx_runtime.py ti l --reference      # against the numpy interpreter, which takes a minute

Every spike of every neuron at every step, every graded value and every logit is compared. ONNX Runtime and sim are
timed in turn, without recording. Memory is the largest resident set of a process that loads ``program.onnx`` and runs
it with numpy and ONNX Runtime alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from networks import ROOT, Network, interleaved, network, print_machine, print_table

from resformer.compiler.backends.onnx import OnnxBackend
from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.export.onnx.integer_model import export_integer
from resformer.compiler.ir import reference
from resformer.compiler.ir.trace import Trace

MEBI = 2**20

ALONE = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for _ in range(2):
    session.run(None, {"input": numpy.load(sys.argv[2])})
with open("/proc/self/status") as status:
    (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
print(peak)
"""


def differences(trace: Trace, expected: Trace) -> tuple[int, int]:
    """The number of values that were compared, and the number of those that differ."""
    assert trace.saturated == expected.saturated
    compared, mismatched = expected.logits.size, int(np.count_nonzero(trace.logits != expected.logits))
    for name, train in expected.spikes.items():
        compared += train.size
        mismatched += train.mismatches(trace.spikes[name])
    for name, values in expected.graded.items():
        compared += values.size
        mismatched += int(np.count_nonzero(trace.graded[name] != values))
    return compared, mismatched


def peak_bytes(model: Path, samples: Path) -> int:
    """The largest resident set of a process that only loads the model and runs it, in bytes."""
    command = [sys.executable, "-c", ALONE, str(model), str(samples)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024


def measure(net: Network, batch: int, rounds: int, folder: Path, *, by_reference: bool) -> list[str]:
    """Compare and time one network; return its row of the table."""
    samples, onnx, sim = net.samples(batch), OnnxBackend(), SimBackend()
    trace = onnx.run(net.program, samples, record=True)
    expected = (reference.run if by_reference else sim.run)(net.program, samples, record=True)
    compared, mismatched = differences(trace, expected)
    timings = interleaved(
        {"onnx": lambda: onnx.run(net.program, samples), "sim": lambda: sim.run(net.program, samples)}, rounds
    )
    model, input_file = folder / f"{net.name}.onnx", folder / f"{net.name}_encoded.npy"
    model.write_bytes(export_integer(net.program).SerializeToString())
    np.save(input_file, samples)
    return [
        f"{net.name}, batch {batch}",
        f"{compared:,}",
        f"{mismatched:,}",
        f"{timings['onnx'].wall / batch:.2f}",
        f"{timings['onnx'].cpu / batch:.2f}",
        f"{timings['sim'].cpu / batch:.2f}",
        f"{model.stat().st_size / MEBI:.0f}",
        f"{peak_bytes(model, input_file) / MEBI:.0f}",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The integer ONNX model in ONNX Runtime.")
    parser.add_argument("variants", nargs="*", default=["ti"], help="ti, s, m, l, cifar or dvsg (default: ti)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference", action="store_true", help="compare with the numpy interpreter, not with sim")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()

    rows = [
        measure(network(variant, args.folder), args.batch, args.rounds, args.folder, by_reference=args.reference)
        for variant in args.variants
    ]
    print_machine()
    header = ["variant", "compared", "mismatched", "s/image", "processor s/image", "sim's", "model MiB", "peak MiB"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
