"""The fast backend: bit-exact with ``resformer.compiler.ir.reference``, on CPU and CUDA.

``backend`` cuts a batch into tiles, ``plan`` says once for each program what runs together, ``engine`` runs a plan on a
tile, ``torch_kernels`` computes each step on any device, and ``cpu_kernels`` (with ``loops``) does what a CPU can do
faster: DSSA by ``strips``, with the instructions that ``byte_products`` finds, convolutions by ``events`` where these
multiply no bytes, and loops in vectors (``lanes``, ``tiles``). ``gpu`` holds the kernels of a GPU. ``products`` tries
what these call in libraries. ``frame`` holds the values of a tile, ``recorder`` what the trace keeps of them.

Why it is exact
---------------
All values are integers. ``resformer.compiler.ir.bounds`` bounds each node's output and all of its partial sums, and a
kernel is used only where these bounds show that its numbers hold every integer on the way: int32 below 2^31, float32
below 2^24, float64 below 2^53. Sums are then the same in whatever order they are made. Where float32 does not suffice
(a classifier's sums, a PLIF's decay by other than halves), float64 computes, more slowly; nothing falls back to less.

That would do if libraries' kernels added rightly, and they do not all: oneDNN's int8 convolution sums wrongly on
processors with AMX for kernels of 8x8 and 32 channels, among others, and torch's int8 product saturates on processors
older than VNNI. So no library's kernel is trusted before it was tried (``products``): when a step is bound, its kernel
runs on that very shape, on a thread like those that will run it, on values as large as they can be and on random ones,
and every sum is checked in int64. What is wrong is replaced by the next kernel, at last by torch's plain loops over
int64, and ``SimBackend.notes`` says so. Layers of one shape are tried once a process: for SpikingResformer-Ti 23
trials, 0.16 s of the 9 s that compiling it and running 8 images take. ``self_check`` checks every product of a run in
the same way.

What was chosen, by measuring
-----------------------------
One thread of an AMD EPYC of family 26 (AVX-512 VNNI), torch 2.13, layers of SpikingResformer-Ti at 224x224, in
G multiply-accumulates a second (GMAC/s) or in G neuron updates a second:

- Convolutions: oneDNN's int8 convolution of spikes with 8-bit mantissas makes 370 to 520 GMAC/s, of the 500 that
  ``torch._int_mm`` reaches on large matrices; float32 makes 55.
- Patches (kernel = stride) of more than 3x3 taps: a reshape and ``torch._int_mm``, up to twice as slow as oneDNN
  where both are right (on a Xeon with AMX), in layers that cost little.
- DSSA's products, on one thread of a Xeon with AMX: ``torch._int_mm`` makes 300 to 500 GMAC/s, in calls of 10 to 30 us
  whose sums of two digits go through the cache. By strips (``strips``) AMX makes 580 to 1300 GMAC/s and VNNI 320 to
  360, and sums stay in the nearest caches until the neurons have fired: attention takes 9 ms of an image, not 31.
- Processors without VNNI, such as an AMD EPYC of family 25: oneDNN's int8 convolution makes 40 to 80 GMAC/s with AVX2,
  float32 40, ``torch._int_mm`` 1, for it is plain loops there. So DSSA's strips multiply words of 16 bits, and of
  these the pairs alone in which something spikes (98 to 135 GMAC/s of the digits that a library would multiply), and a
  convolution adds a row of weights for each spike (``events``): with a fifth of spikes as fast as 53 to 237 GMAC/s. An
  image takes 134 ms of one thread, not 3,155. To let neurons fire from a convolution's sums, a few rows of targets at a
  time, was tried and took as long as both loops one after the other.
- Sums, relays and neurons, over all steps in one pass: written in vectors (``lanes``), whose potentials stay in
  registers, they take 0.18 to 0.5 ns an update; as loops in which LLVM finds vectors, twice as long; in torch's own
  operations, each of them a pass over memory, ten times. torch.compile, or C++, would need a compiler on the user's
  machine. So numba is an optional dependency; without it sim is slower, not other.
- Convolutions by strips, with neurons at once, were tried once, not tuned, and are not here: oneDNN's int8 convolution
  makes 900 GMAC/s with its sums written, and strips made 500 to 800.
- Memory: what a block of channels makes stays in the cache until it is read (``plan.Segment``), attention maps are
  never whole (``cpu_kernels.CpuKernels.attention``), and memory is handed out again last in, first out. Fresh memory
  for a layer's output costs more than the layer.
- Threads: each runs whole samples with torch's own threads off. Threads inside operations wait for each other at every
  one of some 500 operations a sample. The last few samples are shared: by blocks of channels, each thread a segment's,
  where libraries convolve; by rows, loop by loop (``team``), where loops of ours do, which would list the same spikes
  for each block.
- What is the same at all steps (the stem of a static image) is computed once.

``benchmarks/roofline.py`` and ``benchmarks/sim_vs_spikingjelly.py`` measure the outcome: half of the int8 roofline of
VNNI over a whole image, 80 % in the convolutions, and a third of AMX's.

On a GPU (``gpu``), where Triton is installed, synapses and what reads them are one kernel (``plan.LayerStep``): int8
products summed in int32 from spikes where they lie, no taps gathered, then a second summand, a relay and all T steps of
the neurons in registers; DSSA is another, whose attention map never leaves the chip. On an H200, a kernel of layers is
held up by its loads wherever the compiler cannot see that they are aligned (three times as slow), then by the
instructions that follow each product, about 25 a number and step. Values are kept in 16 bits where bounds allow it. A
CUDA graph launches a batch's 70 kernels at once; samples of the next batch are looked at, narrowed and sent meanwhile.
What these kernels do not compute, and everything without Triton, runs in torch's operations, all samples and channels
at once.
"""

from resformer.compiler.backends.sim.backend import SimBackend

__all__ = ["SimBackend"]
