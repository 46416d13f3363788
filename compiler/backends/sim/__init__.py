"""The fast backend: bit-exact with ``resformer.compiler.ir.reference``, on CPU and CUDA.

``backend`` cuts samples into tiles. ``plan`` decides once for each program which operations run together. ``engine``
runs a plan on a tile. ``torch_kernels`` computes each step on any device. ``cpu_kernels`` has the kernels that are
faster on a CPU: DSSA by ``strips``, with the instructions that ``byte_products`` finds; convolutions by ``events``,
where vectors do not multiply bytes; and fused ``loops``. They are written in vectors (``lanes``, ``tiles``). ``gpu``
holds the kernels of a GPU. ``products`` tries kernels before they are used. ``frame`` holds the values of a tile, and
``recorder`` those that the trace keeps.

Why it is exact
---------------
All values are integers. ``resformer.compiler.ir.bounds`` bounds each node's output and all of its partial sums. A
kernel is used only where these bounds show that its numbers hold every integer on the way: int32 below 2^31, float32
below 2^24, float64 below 2^53. Sums are then the same in any order. Where float32 does not suffice (a classifier's
sums, a PLIF whose decay is not by a power of two), float64 computes, more slowly. Nothing falls back to a type that
rounds.

These bounds would suffice if all kernels of libraries added rightly. Some do not: oneDNN's int8 convolution sums
wrongly on processors with AMX for kernels of 8x8 and 32 channels, among others, and torch's int8 product saturates on
processors older than VNNI. So no library's kernel is trusted before it was tried (``products``). When a step is bound,
its kernel runs on the step's own shape, on a thread like those that will run it, on values as large as they can be and
on random ones, and every sum is checked in int64. A kernel that sums wrongly is replaced by the next one, in the end by
torch's plain loops over int64, and ``SimBackend.notes`` says so. Layers of one shape are tried once in a process: for
SpikingResformer-Ti there are 23 trials, 0.16 s of the 9 s that compiling it and running 8 images take. ``self_check``
checks every product of a run in the same way.

What was chosen, by measuring
-----------------------------
Measured on one thread of an AMD EPYC of family 26 (AVX-512 VNNI) unless said otherwise, with torch 2.13, on layers of
SpikingResformer-Ti at 224x224, in 10^9 multiply-accumulates a second (GMAC/s) or in time for a neuron update:

- Convolutions: oneDNN's int8 convolution of spikes with 8-bit mantissas makes 370 to 520 GMAC/s; ``torch._int_mm``
  reaches 500 on large matrices, and float32 55.
- Patches (kernel = stride) of more than 3x3 taps: a reshape and ``torch._int_mm`` take up to twice as long as oneDNN
  where both are right (on a Xeon with AMX), in layers that cost little.
- DSSA's products, on one thread of a Xeon with AMX: ``torch._int_mm`` makes 300 to 500 GMAC/s, in calls of 10 to 30 us
  whose sums of two digits go through the cache. By ``strips``, AMX makes 580 to 1300 GMAC/s and VNNI 320 to 360, and
  sums stay in the nearest caches until the neurons have fired: attention takes 9 ms of an image, not 31.
- Processors without VNNI, such as an AMD EPYC of family 25: oneDNN's int8 convolution makes 40 to 80 GMAC/s with AVX2,
  float32 makes 40, and ``torch._int_mm`` makes 1, because it runs in plain loops there. So DSSA's strips multiply words
  of 16 bits, and only those pairs of words in which something spikes; this is as fast as a library that multiplies
  digits at 98 to 135 GMAC/s. A convolution adds a row of weights for each spike (``events``); where a fifth of the
  inputs spike, this is as fast as 53 to 237 GMAC/s. An image takes 134 ms of one thread, not 3,155. Firing neurons from
  a convolution's sums at once, a few rows of targets at a time, was tried; it took as long as two separate loops.
- Sums, relays and neurons run over all steps in one pass. Written in vectors (``lanes``), with potentials in registers,
  an update takes 0.18 to 0.5 ns. Loops in which LLVM finds the vectors take twice as long. Torch's own operations, each
  a pass over memory, take ten times as long. torch.compile, or C++, would need a compiler on the user's machine. numba
  needs none and is an optional dependency; without it, sim is slower and its results are the same.
- Convolutions by strips, with the neurons fired at once, were tried, but not tuned; they are not used. oneDNN's int8
  convolution makes 900 GMAC/s, writing its sums included, and strips made 500 to 800.
- Memory: the values of a block of channels stay in the cache until they are read (``plan.Segment``). An attention map
  is never stored whole (``cpu_kernels.CpuKernels.attention``). Freed memory is reused, the last freed first, since
  fresh memory for a layer's output costs more than the layer.
- Threads: each thread runs whole samples, with torch's own threads off. Torch's threads would wait for each other at
  every one of some 500 operations of a sample. All threads share each of the last few samples. Where libraries
  convolve, each thread runs a segment on blocks of channels. Where our loops convolve (``events``), each thread runs a
  part of the rows of every loop (``team``), since blocks of channels would each list the same spikes again.
- What is the same at all steps (the stem of a static image) is computed once.

``benchmarks/roofline.py`` and ``benchmarks/sim_vs_spikingjelly.py`` measure the outcome: half of the int8 roofline of
VNNI over a whole image, 80 % of it in the convolutions, and a third of the roofline of AMX.

On a GPU (``gpu``) with Triton, synapses and the neurons that read them are one kernel (``plan.LayerStep``). It sums
int8 products in int32, reading spikes from where they lie without gathering taps; then it adds a second summand and
runs a relay and all T steps of the neurons in registers. DSSA is another kernel, whose attention map never leaves the
chip. On an H200, a layer's kernel is three times as slow wherever the compiler cannot see that its loads are aligned;
otherwise, the instructions that follow each product limit it, about 25 for each number and step. Values are kept in 16
bits where bounds allow it. A CUDA graph launches a batch's 70 kernels at once; meanwhile the samples of the next batch
are checked, narrowed and sent. Operations that these kernels do not compute, and all operations where Triton is
missing, run as torch's operations, on all samples and channels at once.
"""

from resformer.compiler.backends.sim.backend import SimBackend

__all__ = ["SimBackend"]
