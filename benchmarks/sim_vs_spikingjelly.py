"""How fast sim is beside SpikingJelly: the same checkpoint, the same images, the same threads, in turn.

    python benchmarks/sim_vs_spikingjelly.py                          # Ti and S at 224x224, T = 4, batches of 1 and 8
    python benchmarks/sim_vs_spikingjelly.py --variants ti --batches 8 --contestants eager

SpikingJelly runs the float32 checkpoint in inference mode: eagerly; and through torch.compile, as it is and with
frozen weights, which take minutes to compile. sim runs the integers that the compiler makes of it. The networks are
random, so nothing is recognised; how often both give an image the same top-1 class is printed all the same, and with
--exact the first image also runs as quantized.pt in SpikingJelly, in float64, whose spikes must be sim's.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from networks import ROOT, Network, interleaved, network, print_machine, print_table
from spikingjelly.activation_based import functional

from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.export.checkpoint import quantized_state
from resformer.compiler.pipeline import compile_checkpoint
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.run.encode import decode, real_logits
from resformer.runtime.verify.torch_network import TorchNetwork

CONTESTANTS = ("eager", "compiled", "frozen")
RECOMPILATIONS = 64

Logits = npt.NDArray[np.float64]


def spikingjelly(net: Network, images: torch.Tensor, contestant: str) -> Callable[[], Logits]:
    """A function that runs the images in SpikingJelly; it may compile when it is first called."""
    model = net.model()
    forward: Callable[[torch.Tensor], torch.Tensor] = model
    if contestant != "eager":
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        forward = torch.compile(model, dynamic=False, options={"freezing": contestant == "frozen"})
    return functools.partial(_forward, model, forward, images)


def _forward(model: SpikingResformer, forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Logits:
    functional.reset_net(model)
    # not inference_mode: frozen weights are refused there, and it gains compiled code nothing
    with torch.inference_mode() if forward is model else torch.no_grad():
        return forward(images).numpy().astype(np.float64)


def compare(net: Network, batch: int, contestants: Sequence[str], rounds: int) -> list[list[str]]:
    """One table row for each contestant on one batch."""
    backend, samples, images = SimBackend(), net.samples(batch), torch.from_numpy(net.real(batch))
    runs: dict[str, Callable[[], object]] = {"sim": lambda: backend.run(net.program, samples)}
    wanted = real_logits(backend.run(net.program, samples).logits, net.program).mean(0).argmax(-1)
    agreement = {"sim": "-"}
    for contestant in contestants:
        run = spikingjelly(net, images, contestant)
        logits = _first_logits(run, f"{net.name}, batch {batch}, {contestant}")
        if logits is not None:
            agreement[contestant] = f"{int((logits.mean(0).argmax(-1) == wanted).sum())}/{batch}"
            runs[contestant] = run
    timings = interleaved(runs, rounds)
    sim = timings["sim"]
    return [
        [
            f"{net.name}, batch {batch}: {'sim' if name == 'sim' else f'SpikingJelly {name}'}",
            f"{timing.wall:.3f}",
            f"{batch / timing.wall:.2f}",
            f"{timing.wall / sim.wall:.1f}x",
            f"{timing.cpu:.2f}",
            f"{timing.cpu / sim.cpu:.1f}x",
            agreement[name],
        ]
        for name, timing in timings.items()
    ]


def _first_logits(run: Callable[[], Logits], name: str) -> Logits | None:
    """The logits of a first run, or None, said aloud, where torch.compile cannot run the network."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 # torch.compile raises all kinds
        print(f"{name}: does not run: {str(error).splitlines()[0]}")
        return None


def mismatches(net: Network) -> int:
    """How many spikes differ between sim and quantized.pt in SpikingJelly, float64, on the first image."""
    model = build_model(load_checkpoint(net.checkpoint))
    model.load_state_dict(quantized_state(compile_checkpoint(net.checkpoint).quantized))
    trace, counts = SimBackend().run(net.program, net.samples(1), record=True), []

    def count(name: str, _currents: torch.Tensor, spikes: torch.Tensor) -> None:
        ours = trace.spikes[name].dense()
        counts.append(int((spikes.numpy().reshape(ours.shape) != ours).sum()))

    TorchNetwork(model).run(decode(net.samples(1), net.program), count)
    assert len(counts) == len(trace.spikes)
    return sum(counts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast sim is beside SpikingJelly.")
    parser.add_argument("--variants", nargs="+", default=["ti", "s"], metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--exact", action="store_true", help="compare with quantized.pt in float64, too")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    print_machine()
    rows = []
    for variant in args.variants:
        net = network(variant, args.folder)
        for batch in args.batches:
            torch.compiler.reset()
            rows += compare(net, batch, args.contestants, args.rounds)
        if args.exact:
            print(
                f"{variant}: {mismatches(net)} spikes differ from quantized.pt in SpikingJelly, float64, on one image"
            )
    print_table(["", "s", "images/s", "sim is", "CPU s", "sim is", "same top-1"], rows)


if __name__ == "__main__":
    main()
