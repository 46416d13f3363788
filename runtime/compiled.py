"""The Python interface: compile any source or open a build; both give the same class with the same methods."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from resformer.compiler.backends import BACKENDS, CPU, open_backend
from resformer.compiler.chips.chip import DEFAULT, Chip, load_chip
from resformer.compiler.files.build import check_replaceable, read_build
from resformer.compiler.files.report import TARGETS
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.ir.summary import Rows, Summarized, Summary, counted, sizes
from resformer.compiler.pipeline import (
    Compilation,
    CompileOptions,
    ModuleInput,
    Observer,
    compile_network,
)
from resformer.compiler.placement.activity import activity, events
from resformer.compiler.placement.place import Placement
from resformer.compiler.placement.place import place as place_program
from resformer.compiler.progress import Progress, no_progress
from resformer.compiler.samples.arrays import Samples, as_part
from resformer.compiler.samples.events.frames import Binning
from resformer.compiler.samples.files import SampleFiles
from resformer.compiler.samples.preprocessing import Preprocessing
from resformer.errors import InputError, ResformerError, ResformerWarning, UnsupportedError
from resformer.runtime.cost import cost as costs
from resformer.runtime.cost.cost import Cost
from resformer.runtime.cost.placed import placed
from resformer.runtime.given import (
    Given,
    GivenBuild,
    Held,
    Images,
    Labels,
    describe_run,
    describe_verification,
    open_recording,
    read_given,
    warn_of_rounding,
)
from resformer.runtime.membrane import Membrane, NeuronIndex, neuron_index, trace
from resformer.runtime.origin import InFolder, InMemory, Origin
from resformer.runtime.page.content import SAMPLES, Json, Shown, as_shown, run_and_show
from resformer.runtime.page.write import write_page
from resformer.runtime.run.infer import Inference, Record, infer, require_room_for_spikes, samples_at_once
from resformer.runtime.run.stream import AT_ONCE, Frames
from resformer.runtime.run.stream import stream as run_stream
from resformer.runtime.verify import as_json as verifications
from resformer.runtime.verify.limits import Limits
from resformer.runtime.verify.module_sides import require_same_spikes
from resformer.runtime.verify.result import Verification
from resformer.runtime.verify.user_network import user_network
from resformer.runtime.verify.verify import Comparing

if TYPE_CHECKING:
    import nir
    import torch
    from torch import nn

COST_BACKEND = "sim"
"""The backend that runs samples for a cost if none is named: all backends fire the same spikes, and it is fast."""


@dataclass(frozen=True, eq=False, repr=False)
class Compiled(Summarized):
    """A compiled network; ``resformer.compile`` and ``resformer.load`` make them.

    Attributes:
        origin: A compilation in memory, or a build folder.
    """

    origin: Origin

    @cached_property
    def program(self) -> Scheduled:
        """The scheduled integer program: what every backend runs.

        Raises:
            FileFormatError: The build folder holds no program (``target="nir"``), or the program is damaged.
        """
        return self.origin.program()

    @cached_property
    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes.

        Raises:
            FileFormatError: The build folder's float graph is absent or damaged.
        """
        return self.origin.graph()

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of the compilation; the first one that is a backend runs the network unless one is named."""
        return self.origin.targets

    @property
    def compilation(self) -> Compilation:
        """All that compiling yielded, such as the integers before they were scheduled.

        Raises:
            UnsupportedError: The network was loaded from a build folder, which does not keep all of that.
        """
        return self._in_memory.compilation

    @property
    def options(self) -> CompileOptions:
        """The options that the user chose.

        Raises:
            UnsupportedError: The network was loaded from a build folder; its report.json holds the options.
        """
        return self._in_memory.options

    @property
    def _in_memory(self) -> InMemory:
        if not isinstance(self.origin, InMemory):
            raise UnsupportedError(
                f"{self.origin.title}: keeps only what compiling ended with; compile its source again with "
                "resformer.compile"
            )
        return self.origin

    @property
    def held(self) -> Held:
        """What is known of samples: their preprocessing, and the names of the classes."""
        return self.origin.held()

    def summary(self) -> Summary:
        """The source of the network, its input and output, and the size of its program."""
        rows = [("from", self.origin.title), ("targets", ", ".join(self.targets))]
        try:
            program = self.program
        except ResformerError as error:
            return "Compiled network", [*rows, ("program", str(error))]
        populations = program.spiking_names
        neurons = sum(math.prod(program[name].shape) for name in populations)
        return "Compiled network", [
            *rows,
            ("input", f"{sizes(program.input.shape)}, {counted(program.timesteps, 'step')} a sample"),
            ("output", f"{program.output.shape[0]} classes, {counted(program.latency, 'step')} of latency"),
            (
                "program",
                f"{counted(len(program), 'node')}, {neurons:,} neurons in {counted(len(populations), 'population')}",
            ),
        ]

    def details(self) -> tuple[str, Rows] | None:
        """Every population of the program."""
        try:
            program = self.program
        except ResformerError:
            return None
        rows = [
            (name, type(program[name].op).__name__, sizes(program[name].shape), f"{math.prod(program[name].shape):,}")
            for name in program.spiking_names
        ]
        return f"Its {counted(len(rows), 'population')}", (("population", "neurons", "shape", " how many"), rows)

    def run(
        self,
        images: Images,
        *,
        backend: str | None = None,
        record: bool = False,
        count: bool = False,
        samples: int | None = None,
        batch_size: int | None = None,
        self_check: bool = False,
        progress: Progress = no_progress,
    ) -> Inference:
        """Inference by a backend.

        Args:
            images: (N, C, H, W), one image for all steps, or (N, T, C, H, W), a frame for each step; or (N, F). An
                array, a tensor, a path to an array (.npy, .npz), or a path to a folder of images. Pixels of 8 bits are
                divided by 255. The preprocessing that was chosen at compile time follows, as ``read`` describes it.
            backend: A key of ``BACKENDS``; None: the first target that is a backend, or "sim" if no target is one.
            record: Keep every population's spikes.
            count: Count what every population sends, for ``cost``. The counts take no more memory for more samples.
            samples: Take N samples only, as ``read`` chooses them.
            batch_size: How many samples are in memory together; None: as many as fit.
            self_check: With "sim": check every product of the run; three to four times slower.
            progress: Called with the progress of the run.

        Warns:
            ResformerWarning: Input was clipped; or, if spikes are recorded, a population never fired or always fired.

        Returns:
            Logits (N, T, classes), predictions (N,), and spikes (T, N, ...) by population if they were recorded.

        Raises:
            ResformerError: The samples do not fit, or the backend failed.
        """
        backend = self._backend(backend)
        _check_batch_size(batch_size)
        given = self.read(images, samples=samples)
        if record:
            require_room_for_spikes(self.program, len(given.samples))
        result = infer(
            self.program,
            given.samples,
            backend,
            record=Record(kept=None if record else 0, counts=count) if record or count else False,
            batch_size=batch_size,
            self_check=self_check,
            progress=lambda done, total: progress(f"running in {backend}", done, total),
        )
        result = describe_run(result, given)
        _warn(result.to_know)
        return result

    def stream(
        self,
        recording: str | Path | Iterable[object],
        *,
        backend: str | None = None,
        binning: Binning | None = None,
        batch_size: int | None = None,
        device: str = CPU,
        record: bool = False,
    ) -> Iterator[Inference]:
        """Inference on a recording of any length, in memory that does not depend on the length.

        The recording is read as samples of T frames that follow one another without a gap. Each sample gives, bit for
        bit, what ``run`` gives for it, however the recording is cut into chunks. In Lava the processes start once and
        keep their state from chunk to chunk. Frames are always normalized as the build says, because only a whole array
        can show that it ``is_normalized_already``.

        Example:
            Classes of a recording, part by part::

                for part in compiled.stream("recording.raw", binning=Binning(bin_us=10_000)):
                    print(part.predictions)

        Args:
            recording: Chunks of frames, (steps, C, H, W) each, of any lengths and of one type. If a generator gives the
                chunks, memory holds only those in use. Or a path to a recording of an event camera, or to an array of
                frames, (steps, C, H, W).
            backend: As ``run`` takes it.
            binning: How a recording of an event camera becomes frames; None: the whole recording is one sample.
            batch_size: How many samples are in memory together; None: 64, or fewer if 64 do not fit.
            device: With "sim": "cpu", "cuda" or "cuda:N".
            record: Keep every population's spikes in each result.

        Yields:
            Results of one or more samples at a time, in their order. If the recording ends within a sample, zeros take
            the place of that sample's missing frames.

        Raises:
            ResformerError: A chunk does not fit, a file is damaged, or the backend failed.
        """
        backend = self._backend(backend)
        _check_batch_size(batch_size)
        samples = batch_size or min(AT_ONCE, samples_at_once(self.program, backend, record=record))
        chunks = open_recording(recording, self.program, binning, samples * self.program.timesteps)
        runner = open_backend(backend, device=device, batch_size=batch_size)
        preprocessing = self.held.preprocessing

        told = False

        def read(values: Frames) -> Samples:
            nonlocal told
            part = as_part(values, self.program)
            found = read_given(
                part, self.program, held=self.held, preprocessing=preprocessing, tell_rounding=False
            ).samples
            told = told or warn_of_rounding(found, self.program, "recording")  # once, not for each part
            return found

        return run_stream(self.program, chunks, backend, runner, read, at_once=samples, record=record)

    def verify(
        self,
        images: Images,
        *,
        backend: str | None = None,
        labels: Labels = None,
        samples: int | None = None,
        model: str | Path | nn.Module | None = None,
        local: bool = False,
        stock_models: bool = False,
        device: str = CPU,
        batch_size: int | None = None,
        self_check: bool = False,
        min_agreement: float | None = None,
        max_accuracy_drop: float | None = None,
        progress: Progress = no_progress,
    ) -> Verification:
        """Check the four equivalences (E1 to E4), for every spike of every population.

        Args:
            images: As ``run`` takes them.
            backend: As ``run`` takes it.
            labels: (N,), the true classes, or a path to them, for accuracies.
            samples: Take N samples only, as ``read`` chooses them.
            model: The checkpoint or NIR file that was compiled, if its path is not known yet; E1 and E4 of a loaded
                build need that file. Or your own network, a module of SpikingJelly's neurons with its weights: it then
                takes the left side of E1. Its populations are matched by name, or in the order in which they run if
                the names differ.
            local: Measure each layer's own error, when the layer is fed the original's inputs.
            stock_models: With "lava": use only Lava's own process models.
            device: With "sim": "cpu", "cuda" or "cuda:N".
            batch_size: How many samples the backend is given together; None: as many as fit.
            self_check: As ``run`` takes it.
            min_agreement: The least share of samples, 0 to 1, whose class must be the original's; below it, the result
                has not ``passed``.
            max_accuracy_drop: By how much accuracy may be lower than the original's, 0 to less than 1 (0.01 is one
                point). After a larger drop, the result has not ``passed``. This limit needs labels.
            progress: Called with the progress of the verification.

        Warns:
            ResformerWarning: Input was clipped, or a population never fired or always fired.

        Raises:
            InputError: A limit is out of its range, or nothing is given to measure it by.
            ResformerError: The samples do not fit, a file is another network, or the backend failed.
        """
        limits = Limits(min_agreement, max_accuracy_drop)
        _check_batch_size(batch_size)
        given = self.read(images, samples=samples, labels=labels)
        path = Path(model) if isinstance(model, str | Path) else None
        user = None
        if model is not None and path is None:
            user = user_network(model, self.program, called=type(model).__name__)  # type: ignore[arg-type]
        result = self.origin.verify(
            given.samples,
            self.program,
            model=path,
            local=local,
            user=user,
            how=Comparing(
                backend=self._backend(backend),
                labels=given.labels,
                stock_models=stock_models,
                device=device,
                batch_size=batch_size,
                self_check=self_check,
                limits=limits,
                update=progress,
            ),
        )
        result = describe_verification(result, given)
        _warn(result.doubts)
        return result

    def place(self, chip: str | Path | Chip | None = None) -> Placement:
        """Place the program on neurocores. It may exceed their limits: ``Placement.require()`` raises if it does.

        Args:
            chip: A packaged chip's name, a YAML file, or a ``Chip``. None: the chip and the layout that the network was
                compiled for, or loihi2 if it was compiled for no chip.

        Raises:
            ResformerError: There is no such chip.
        """
        if chip is None and isinstance(self.origin, InMemory) and self.origin.compilation.placement is not None:
            return self.origin.compilation.placement
        if chip is None and isinstance(self.origin, InFolder):
            return placed(self.origin.folder, self.program)
        return place_program(self.program, self._chip(chip) or load_chip(DEFAULT))

    def cost(
        self,
        images: Images | Inference,
        chip: str | Path | Chip | None = None,
        *,
        backend: str | None = None,
        samples: int | None = None,
        progress: Progress = no_progress,
    ) -> Cost:
        """Synaptic operations, and an estimate of energy (mJ) and time (us) of a sample on a chip.

        Args:
            images: As ``run`` takes them, or what ``run(…, record=True)`` or ``run(…, count=True)`` returned.
            chip: As ``place`` takes it.
            backend: The backend that runs the images; None: sim, since all backends fire the same spikes.
            samples: Take N images only, as ``read`` chooses them.
            progress: Called with the progress of the run.

        Raises:
            InputError: The run neither counted nor recorded spikes.
            ResformerError: The samples do not fit, or the backend failed.
        """
        if isinstance(images, Inference):
            if samples is not None or backend is not None:
                raise InputError("cost: the inference has run; leave out samples and backend, or give its images")
            if images.events is None and not images.spikes and self.program.spiking_names:
                raise InputError(
                    "cost: the inference recorded no spikes; give run(images, record=True) or run(images, count=True), "
                    "or the images"
                )
            result = images
        else:
            result = self.run(images, backend=backend or COST_BACKEND, count=True, samples=samples, progress=progress)
        seen = events(self.program, result.spikes) if result.events is None else result.events
        return costs.estimate(self.program, activity(self.program, seen), self.place(chip))

    def membrane(self, images: Images, population: str, neuron: NeuronIndex, *, samples: int | None = None) -> Membrane:
        """The membrane trace of one neuron: current, potential and spikes at each step, beside the original's.

        The integers are the reference interpreter's, which every backend equals; the original's numbers are the float
        graph's, in float64. Both run the whole network, so give a few samples only.

        Args:
            images: As ``run`` takes them.
            population: The population's name, one of ``program.spiking_names``.
            neuron: (channel, row, column), or the neuron's index in the flattened population.
            samples: Take N samples only, as ``read`` chooses them.

        Raises:
            InputError: There is no such population, or no such neuron in it.
            ResformerError: The samples do not fit, or the build lacks its float graph.
        """
        neuron_index(self.program, population, neuron)
        real = self.read(images, samples=samples).samples.real()
        return trace(self.program, self.graph, real, population, neuron, rounded=self.origin.fine_tuned)

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write a build folder as resformer-compile does, or copy the one that was loaded; return its files.

        The folder appears complete or not at all, and it replaces an older build at the same path.

        Raises:
            ResformerError: The path is taken by something that is no build.
            OSError: A file cannot be written.
        """
        return self.origin.save(Path(path))

    def report(
        self,
        path: str | Path,
        images: Images | None = None,
        *,
        samples: int | None = None,
        labels: Labels = None,
        verification: Verification | None = None,
        cost: Cost | None = None,
        chip: str | Path | Chip | None = None,
        traced: Sequence[tuple[str, NeuronIndex]] = (),
        progress: Progress = no_progress,
    ) -> None:
        """Write the page that shows the network and, if samples are given, a run of them in sim.

        Args:
            path: The HTML file to write.
            images: As ``run`` takes them.
            samples: Take N samples only, as ``read`` chooses them; None: 16 at most.
            labels: (N,), the true classes, or a path to them.
            verification: What ``verify`` returned, to be shown as well.
            cost: What ``cost`` returned; None: the cost is estimated from the run.
            chip: As ``place`` takes it, for that estimate.
            traced: Population and neuron of further membrane traces, beside those that the page chooses itself.
            progress: Called with the progress of the run.

        Raises:
            ResformerError: The samples do not fit, or a result is of another network.
            OSError: The page cannot be written.
        """
        given = whole = None
        if images is not None:
            whole = self.read(images, samples=samples, labels=labels)
            given = whole if samples is not None else whole.first(SAMPLES)
        shown = self.shown(
            given,
            verification=None if verification is None else verifications.to_json(verification),
            cost=None if cost is None else costs.to_json(cost),
            chip=chip,
            verified=whole if whole is None or verification is None else whole.first(verification.samples),
            traced=traced,
            progress=progress,
        )
        write_page((shown,), Path(path))

    def shown(
        self,
        given: Given | None = None,
        *,
        verification: Json | None = None,
        cost: Json | None = None,
        chip: str | Path | Chip | None = None,
        verified: Given | None = None,
        traced: Sequence[tuple[str, NeuronIndex]] = (),
        progress: Progress = no_progress,
    ) -> Shown:
        """What a page shows of the network, for ``resformer.runtime.page.write.write_page``.

        Args:
            given: Samples to run in sim; None: nothing runs.
            verification: A verification as JSON.
            cost: A cost as JSON; None: the cost is estimated from the run.
            chip: As ``place`` takes it, for that estimate.
            verified: The samples of the verification; the page shows the images of those that changed their class.
            traced: Population and neuron of further membrane traces, beside those that the page chooses itself.
            progress: Called with the progress of the run.

        Raises:
            ResformerError: The backend failed, or a result is of another network.
        """
        run = estimated = None
        with self.origin.build() as build:

            def of_build(each: Given) -> GivenBuild:
                return GivenBuild(**vars(each), build=build, program=self.program)

            if given is not None:
                samples = of_build(given)
                other = None if chip is None else self._chip(chip)
                run, estimated = run_and_show(
                    samples, chip=other, model=self.origin.model, traced=traced, update=progress
                )
            return as_shown(
                build,
                verification=verification,
                cost=estimated if cost is None else cost,
                run=run,
                verified=None if verified is None else of_build(verified),
            )

    def read(
        self,
        images: Images,
        *,
        samples: int | None = None,
        labels: Labels = None,
        preprocessing: Preprocessing | Literal["build", "none"] | None = None,
        binning: Binning | None = None,
    ) -> Given:
        """Read and check samples once, for several uses: ``run`` and every other method take the result as images.

        A ``ResformerWarning`` names whatever is doubtful, such as a preprocessing that was not chosen at compile time.

        Args:
            images: As ``run`` takes them.
            samples: Take N samples only: the first ones; from a folder with one folder per class, the first of each
                class.
            labels: (N,), the true classes, or a path to them.
            preprocessing: What is done to the samples, whatever they are: "build" for what was chosen at compile time,
                "none" for nothing. None: what was chosen at compile time, with one exception. Where that subtracts a
                mean above 0, floating-point maps with negative values are normalized already, and left as they are.
            binning: How a recording of an event camera becomes frames; None: the whole recording is one sample.

        Raises:
            ResformerError: The samples do not fit.
        """
        named = {"build": self.held.preprocessing, "none": Preprocessing(), None: None}
        if not isinstance(preprocessing, Preprocessing):
            if preprocessing not in named:
                raise InputError(f"preprocessing: {preprocessing!r} is neither build, nor none, nor a Preprocessing")
            preprocessing = named[preprocessing]
        given = read_given(
            images,
            self.program,
            samples=samples,
            labels=labels,
            held=self.held,
            preprocessing=preprocessing,
            binning=binning,
        )
        if not isinstance(images, Given):
            for warning in given.warnings:
                warnings.warn(warning, ResformerWarning, stacklevel=2)
        return given

    def quantized_state(self) -> Mapping[str, torch.Tensor]:
        """The quantized network as a state dict of the original's class, in float64: load it after ``model.double()``.

        Raises:
            UnsupportedError: The network came from a NIR file or a netx network.
        """
        return self.origin.quantized_state()

    def _backend(self, wanted: str | None) -> str:
        return wanted or next((target for target in self.targets if target in BACKENDS), "sim")

    def _chip(self, wanted: str | Path | Chip | None) -> Chip | None:
        if wanted is None:
            return self.origin.chip()
        return wanted if isinstance(wanted, Chip) else load_chip(str(wanted))


def compile(  # noqa: A001
    source: str | Path | nn.Module,
    example_input: torch.Tensor | None = None,
    target: str | Sequence[str] = "lava",
    *,
    output: str | Path | None = None,
    options: CompileOptions | None = None,
    observe: Observer | None = None,
    progress: Progress = no_progress,
) -> Compiled:
    """Compile a checkpoint, a NIR file, a netx network or a SpikingJelly module to a scheduled integer program.

    The graph of a module is proved to fire the module's spikes on the example. docs/modules.md says what a module may
    hold. Whatever a user should know of the network, such as a population that can never fire, is a
    ``ResformerWarning``.

    Args:
        source: A path to a checkpoint, of a SpikingResformer or of another family (docs/zoo.md), to a NIR file if it
            ends in ``.nir``, or to a netx network of lava-dl if it ends in ``.net``. Or a module in memory, in any mode
            and type: what it computes in eval mode and float64 is compiled. The module's potentials are reset; nothing
            else in it changes.
        example_input: For a module: samples as its ``forward`` takes them, (T, N, C, H, W) or (T, N, F), or
            (N, C, H, W) or (N, F) if it repeats them over time itself. None for a file.
        target: One or several of "lava", "sim", "onnx" and "nir", as a sequence or separated by commas.
        output: A folder to write the build to, as ``Compiled.save`` does. A network that exceeds the chosen chip is
            then refused.
        options: Quantization, calibration samples, a chip; None: the defaults.
        observe: Called with each pass's name and result.
        progress: Called with the progress of the compilation.

    Raises:
        ResformerError: The network or an option cannot be compiled; the message names the node, or the line of code.
        OSError: The build cannot be written.
    """
    targets = tuple(dict.fromkeys(target.split(",") if isinstance(target, str) else target))
    for each in targets or (target,):
        if each not in TARGETS:
            raise InputError(f"target: {each!r} is none of {', '.join(TARGETS)}")
    options = options or CompileOptions()
    if output is not None:
        calibration = options.calibration
        read = (source, calibration.path if isinstance(calibration, SampleFiles) else None)
        check_replaceable(Path(output), [Path(each) for each in read if isinstance(each, str | Path)])
    compilation = compile_network(_as_input(source, example_input), options, observe, progress)
    if example_input is not None:
        require_same_spikes(compilation, example_input)
    _warn(compilation.warnings)
    compiled = Compiled(InMemory(compilation, options, targets))
    if output is not None:
        if compilation.placement is not None:
            compilation.placement.require()
        progress("writing", 0, 0)
        compiled.save(output)
    return compiled


def _check_batch_size(size: int | None) -> None:
    """Check how many samples a user wants in memory together.

    Raises:
        InputError: It is not a whole number of at least 1.
    """
    if size is not None and (not isinstance(size, int | np.integer) or size < 1):
        raise InputError(
            f"batch_size: {size!r} is not a whole number of at least 1; give one, or None for as many as fit"
        )


def _warn(lines: Sequence[str]) -> None:
    """Give warnings that name the line of the user's code that called a public function of this module."""
    for line in lines:
        warnings.warn(line, ResformerWarning, stacklevel=3)


def load(build: str | Path, model: str | Path | None = None) -> Compiled:
    """Open a build folder that ``resformer-compile`` or ``Compiled.save`` wrote.

    Args:
        build: The folder.
        model: The checkpoint or NIR file that was compiled: verifying needs it for E1 and E4.

    Raises:
        FileFormatError: The folder is no build, a build of another format version, or damaged.
        InputError: There is no such model.
    """
    if model is not None and not Path(model).exists():
        raise InputError(f"{model}: no such file; name the checkpoint or NIR file that was compiled, or leave it out")
    return Compiled(InFolder(read_build(Path(build)), None if model is None else Path(model)))


def _as_input(source: Any, example_input: torch.Tensor | None) -> Path | ModuleInput:
    """The source as the pipeline takes it.

    Raises:
        InputError: The source is neither a path nor a module, or the example does not go with it.
    """
    if isinstance(source, str | Path):
        if example_input is not None:
            raise InputError(f"{source}: a file says what it takes; leave out example_input, or give a module")
        return Path(source)
    from torch import nn

    if not isinstance(source, nn.Module):
        raise InputError(
            f"source: a {type(source).__name__} is neither a path nor a torch module; name a checkpoint or a .nir file"
        )
    if example_input is None:
        raise InputError(
            f"example_input: a module ({type(source).__name__}) is compiled by running it; give samples as its forward "
            "takes them"
        )
    return ModuleInput(source, example_input)
