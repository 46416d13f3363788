"""A compiled network inside a Lava program of your own: between your source and your sink.

    make demo                                                      # compiles the digits to build/mnist, once
    python examples/lava/own_program.py build/mnist examples/mnist/test_images.npy

With the file that ``resformer-run -o OUT.npz --record-spikes`` wrote of these images as a third argument, it compares
every logit and every spike with that run. Four things must be right, each marked below: the encoding of what goes in,
the step at which a sample begins (its neurons are reset by it), the latency, and what the integers that come out mean.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

import resformer

# Ours comes before Lava's own: since Python 3.11, Lava cannot be imported without its repair.
from resformer.compiler.backends.lava.build import CHANNEL_SIZE, build_network, run_config

# isort: split

from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from resformer.compiler.backends.lava.record import Recorder
from resformer.runtime.run.encode import encode, predict, real_logits

SAMPLES = 4
"""Images that are shown, of those in the file."""


class Camera(AbstractProcess):
    """Your source: shows each image for as many steps as a sample has, one image after the other.

    Args:
        frames: (N, C, H, W) or (N, T, C, H, W), the integers that the network takes.
        timesteps: T.
    """

    def __init__(self, frames: npt.NDArray[np.int32], timesteps: int) -> None:
        super().__init__(frames=frames, timesteps=timesteps)
        self.s_out = OutPort(shape=frames.shape[:-4:-1])  # Lava's order is (W, H, C)


@implements(proc=Camera, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCamera(PyLoihiProcessModel):
    """One frame a step."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.frames = proc_params["frames"]
        self.timesteps = proc_params["timesteps"]

    def run_spk(self) -> None:
        """Send this step's frame; after the last sample, darkness."""
        # Reset: sample 0 begins at Lava's step 1, sample 1 T steps later, and so on without a gap. The network's
        # neurons reset themselves by the same count, each as late as the sample reaches it.
        sample, step = divmod(self.time_step - 1, self.timesteps)
        if sample >= len(self.frames):
            frame = np.zeros(self.frames.shape[-3:], np.int32)
        else:
            frame = self.frames[sample] if self.frames.ndim == 4 else self.frames[sample, step]
        self.s_out.send(frame.T)


class Readout(AbstractProcess):
    """Your sink: keeps the logits of each step.

    Args:
        classes: How many logits come each step.
        samples, timesteps: N and T.
        latency: Steps from a sample's first frame to its first logits.
    """

    def __init__(self, classes: int, samples: int, timesteps: int, latency: int) -> None:
        super().__init__(latency=latency)
        self.a_in = InPort(shape=(classes,))
        self.logits = Var(shape=(samples * timesteps, classes), init=0)


@implements(proc=Readout, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyReadout(PyLoihiProcessModel):
    """One step's logits a step."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    logits: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.latency = proc_params["latency"]

    def run_spk(self) -> None:
        """Keep what belongs to a sample."""
        received = self.a_in.recv()
        # Latency: what comes before is what an empty network says.
        step = self.time_step - 1 - self.latency
        if 0 <= step < len(self.logits):
            self.logits[step] = received


def main(build: str, images: str, results: str | None = None) -> int:
    """Run, print the classes, and compare with a file of results; returns the exit status."""
    compiled = resformer.load(build)
    program = compiled.program
    # Encoding: what the build was compiled to do to samples (read), then integers, rint(x * 2^k) within the input's
    # range (encode). A program of spikes or of counts of events has k = 0, and takes these as they are.
    samples = compiled.read(images, samples=SAMPLES).samples.real()
    frames = encode(samples, program).values

    recorder = Recorder(program, len(frames), values=True)  # leave it out where no spikes are looked at
    camera = Camera(frames, program.timesteps)
    network = build_network(program, recorder=recorder)
    readout = Readout(program.output.shape[0], len(frames), program.timesteps, program.latency)
    camera.s_out.connect(network.in_port)
    network.out_port.connect(readout.a_in)
    config = run_config(models=[PyCamera, PyReadout])
    try:
        # The last sample's last logits come as many steps after its last frame as the latency.
        steps = len(frames) * program.timesteps + program.latency
        camera.run(RunSteps(steps), config, {"pypy_channel_size": CHANNEL_SIZE})
        logits_int = readout.logits.get().astype(np.int64).reshape(len(frames), program.timesteps, -1)
    finally:
        camera.stop()

    # Readout: the integers stand for real numbers, and the class is that of the largest mean over a sample's steps.
    logits = real_logits(logits_int, program)
    print("classes:", *predict(logits.swapaxes(0, 1)))
    spikes = recorder.trace().spikes
    for name, train in spikes.items():
        print(f"{name}: {train.count:,} spikes of {train.size:,}")
    if results is None:
        return 0
    expected = resformer.load_spikes(results)
    wrong = [name for name in expected if (spikes[name].by_sample() != expected[name][: len(frames)]).any()]
    if (logits_int != expected.logits_int[: len(frames)]).any():
        wrong.append("logits")
    print("equal to resformer-run's, logits and all spikes" if not wrong else f"differs: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", metavar="BUILD", help="a build folder")
    parser.add_argument("images", metavar="IMAGES", help="samples, such as an .npy file")
    parser.add_argument("results", nargs="?", metavar="OUT.npz", help="what resformer-run wrote of them, to compare")
    raise SystemExit(main(**vars(parser.parse_args())))
