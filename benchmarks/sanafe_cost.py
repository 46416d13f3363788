"""Our costs on Loihi 1 against SANA-FE's simulation of it, spike by spike and message by message.

    pip install sanafe            # GPL-3.0
    python benchmarks/sanafe_cost.py

A small network of two convolutions and a dense layer, with random weights and without biases, runs on random samples.
SANA-FE plays the first layer's spikes into the other layers, on the cores that our placement gave them. With our
constants, SANA-FE's spikes, operations, messages, hops and energies must equal ours. With its own constants, which were
fitted to measurements, the ratio says how far the published table is from them.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import nir
import numpy as np
import numpy.typing as npt
from networks import print_machine, print_table

from resformer.compiler.backends import open_backend
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.pipeline import CompileOptions, compile_nir
from resformer.compiler.placement.activity import measure
from resformer.compiler.placement.place import place
from resformer.runtime.cost.cost import estimate
from resformer.runtime.cost.sanafe import compare, simulate
from resformer.runtime.run.encode import encode

SIZE = 20
TIMESTEPS = 4


def make_network(folder: Path, seed: int) -> Program:
    """A network with random weights, such that a part of each layer's neurons fires."""
    rng = np.random.default_rng(seed)

    def convolution(outputs: int, inputs: int, size: int, stride: int) -> nir.Conv2d:
        weight = rng.normal(0.06, 0.35, (outputs, inputs, 3, 3))
        return nir.Conv2d((size, size), weight, stride, 1, 1, 1, np.zeros(outputs))

    def neurons(*shape: int) -> nir.LIF:
        ones = np.ones(shape)
        return nir.LIF(tau=2e-4 * ones, r=2 * ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)

    half = SIZE // 2
    nodes = {
        "input": nir.Input({"input": np.array([1, SIZE, SIZE])}),
        "conv1": convolution(8, 1, SIZE, 1),
        "lif1": neurons(8, SIZE, SIZE),
        "conv2": convolution(16, 8, SIZE, 2),
        "lif2": neurons(16, half, half),
        "flatten": nir.Flatten({"input": np.array([16, half, half])}, 0, -1),
        "dense": nir.Linear(rng.normal(0.004, 0.06, (32, 16 * half * half))),
        "lif3": neurons(32),
        "output": nir.Output({"output": np.array([32])}),
    }
    names = list(nodes)
    nir.write(folder / "network.nir", nir.NIRGraph(nodes, list(itertools.pairwise(names))))
    return compile_nir(folder / "network.nir", CompileOptions(timesteps=TIMESTEPS, dt=1e-4)).program


def one_sample(program: Program, image: npt.NDArray[np.float64]) -> dict[str, SpikeTrain]:
    """The spikes of each population for one sample, from sim."""
    return dict(open_backend("sim")(program, encode(image[None], program).values, record=True).spikes)


def main() -> None:
    """Run, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="(default: %(default)s)")
    arguments = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        program = make_network(Path(folder), seed=1)
    placement = place(program, load_chip("loihi1"))
    print("cores of Loihi 1:", ", ".join(f"{each.population.name} {each.cores}" for each in placement.layers))
    images = np.random.default_rng(2).random((arguments.samples, 1, SIZE, SIZE))
    for sample, image in enumerate(images):
        spikes = one_sample(program, image)
        cost = estimate(program, measure(program, spikes), placement)
        rows = []
        for whose in ("our", "their"):
            run = simulate(program, spikes, 0, placement, own_constants=whose == "their")
            for line in compare(cost, spikes, run):
                if whose == "our" or line.is_energy:
                    ratio = f"{line.theirs / line.ours:.4f}" if line.ours else "-"
                    name = f"{line.name}, {whose} constants" if line.is_energy else line.name
                    rows.append([name, f"{line.ours:,.1f}", f"{line.theirs:,.1f}", ratio])
        print(f"\nsample {sample}\n")
        print_table(["", "ours", "SANA-FE", "ratio"], rows)


if __name__ == "__main__":
    main()
