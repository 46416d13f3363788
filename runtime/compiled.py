"""The front door: any source compiled, or a build opened, and then the same methods for all of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
from resformer.compiler.samples.arrays import Samples
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
"""Where costs are counted unless another is named: every backend fires the same spikes, and this one is fast."""


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
            FileFormatError: The build folder holds none (``target="nir"``), or it is damaged.
        """
        return self.origin.program()

    @cached_property
    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes.

        Raises:
            FileFormatError: That of the build folder is absent or damaged.
        """
        return self.origin.graph()

    @property
    def targets(self) -> tuple[str, ...]:
        """What it was compiled for; the first that is a backend runs it unless another is named."""
        return self.origin.targets

    @property
    def compilation(self) -> Compilation:
        """All that compiling yielded, such as the integers before they were scheduled.

        Raises:
            UnsupportedError: The network was loaded from a build folder, which does not keep it.
        """
        return self._in_memory.compilation

    @property
    def options(self) -> CompileOptions:
        """What the user chose.

        Raises:
            UnsupportedError: The network was loaded from a build folder, whose report.json says it.
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
        """What is known of samples: what is done to them, and the names of the classes."""
        return self.origin.held()

    def summary(self) -> Summary:
        """What it was compiled from, and what it takes, gives and holds."""
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
            images: (N, C, H, W), one image for all steps, or (N, T, C, H, W), a frame for each; or (N, F). An array, a
                tensor, a path to an array (.npy, .npz), or a path to a folder of images. Pixels of 8 bits are divided
                by 255. Then what was chosen at compile time is done to them, as ``read`` has it.
            backend: A key of ``BACKENDS``; None: the first target that is one, else "sim".
            record: Keep every population's spikes.
            count: Count what every population sends, for ``cost``, which takes no more memory for more samples.
            samples: Take the first N only.
            batch_size: How many samples are in memory together; None: what fits.
            self_check: With "sim": check every product of the run; three to four times slower.
            progress: Told how far it is.

        Warns:
            ResformerWarning: Input was clipped, or (where spikes are recorded) populations never fired or always.

        Returns:
            Logits (N, T, classes), predictions (N,), and spikes (T, N, ...) by population if they were recorded.

        Raises:
            ResformerError: The samples do not fit, or the backend failed.
        """
        backend = self._backend(backend)
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
        """Inference on a recording of any length, in memory that does not depend on it.

        Samples of T frames follow one another without a gap. Each gives what ``run`` gives of it, bit for bit, however
        the recording is cut into chunks. In Lava the processes start once, and keep what they hold from chunk to chunk.
        Frames are always normalized as the build says: that an array ``is_normalized_already`` only shows in the whole.

        Example:
            Classes of a recording, second by second::

                for part in compiled.stream("recording.raw", binning=Binning(bin_us=10_000)):
                    print(part.predictions)

        Args:
            recording: Chunks of frames, (steps, C, H, W) each, of any lengths and one type: from a generator, memory
                holds what is in use. Or a path: to a recording of an event camera, or to an array of frames,
                (steps, C, H, W).
            backend: As ``run`` takes it.
            binning: How a recording of an event camera becomes frames; None: all of it is one sample.
            batch_size: How many samples are in memory together; None: as many as are fast.
            device: With "sim": "cpu", "cuda" or "cuda:N".
            record: Keep every population's spikes, of each part.

        Yields:
            Results of one or more samples at a time, in their order. Of a recording that ends within a sample, that
            sample's last frames are zeros.

        Raises:
            ResformerError: A chunk does not fit, a file is damaged, or the backend failed.
        """
        backend = self._backend(backend)
        samples = batch_size or min(AT_ONCE, samples_at_once(self.program, backend, record=record))
        chunks = open_recording(recording, self.program, binning, samples * self.program.timesteps)
        runner = open_backend(backend, device=device, batch_size=batch_size)
        preprocessing = self.held.preprocessing

        def read(values: Frames) -> Samples:
            return read_given(values, self.program, held=self.held, preprocessing=preprocessing).samples

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
        """The four equivalences, every spike of every population.

        Args:
            images: As ``run`` takes them.
            backend: As ``run`` takes it.
            labels: (N,), the true classes, or a path to them, for accuracies.
            samples: Take the first N only.
            model: The checkpoint or NIR file that was compiled, where it is not the one known; a loaded build needs it
                for E1 and E4. Or your own network, a module of SpikingJelly's neurons with its weights: it then stands
                on the left of E1, its populations matched by name or else in the order in which they run.
            local: Measure each layer's own error, fed the original's inputs.
            stock_models: With "lava": use only Lava's own process models.
            device: With "sim": "cpu", "cuda" or "cuda:N".
            batch_size: How many samples the backend is given together; None: what fits.
            self_check: As ``run`` takes it.
            min_agreement: The least share of samples, 0 to 1, whose class must be the original's; else the result has
                not ``passed``.
            max_accuracy_drop: By how much accuracy may be lower than the original's, 0 to less than 1 (0.01 is one
                point); likewise. It needs labels.
            progress: Told how far it is.

        Warns:
            ResformerWarning: Input was clipped, or populations never fired or always.

        Raises:
            InputError: A limit is out of its range, or cannot be known.
            ResformerError: The samples do not fit, a file is another network, or the backend failed.
        """
        limits = Limits(min_agreement, max_accuracy_drop)
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
        """The program on neurocores, which it may exceed: ``Placement.require()`` raises if so.

        Args:
            chip: A packaged chip's name, a YAML file, or a ``Chip``; None: the one it was compiled for, and the layout
                that was chosen there, else loihi2.

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
            backend: Where to run images; None: sim, since all backends fire the same spikes.
            samples: Take the first N images only.
            progress: Told how far it is.

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
        graph's, in float64. It runs the whole network in both, so a few samples are enough.

        Args:
            images: As ``run`` takes them.
            population: Its name, such as ``program.spiking_names`` has them.
            neuron: (channel, row, column), or its place in the flattened population.
            samples: Take the first N only.

        Raises:
            InputError: There is no such population, or no such neuron in it.
            ResformerError: The samples do not fit, or the build lacks its float graph.
        """
        neuron_index(self.program, population, neuron)
        real = self.read(images, samples=samples).samples.real()
        return trace(self.program, self.graph, real, population, neuron, rounded=self.origin.fine_tuned)

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write a build folder as resformer-compile does, or copy the one it was loaded from; returns its files.

        It appears complete or not at all, and replaces an older build in its place.

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
        """Write the page that shows the network, and a run of samples in sim if they are given.

        Args:
            path: The HTML file to write.
            images: As ``run`` takes them.
            samples: Take the first N only; None: 16 at most.
            labels: (N,), the true classes, or a path to them.
            verification: What ``verify`` returned, to be shown as well.
            cost: What ``cost`` returned; None: estimated of the run.
            chip: As ``place`` takes it, for that estimate.
            traced: Neurons whose membrane traces are shown beside those that are chosen: population and neuron of each.
            progress: Told how far it is.

        Raises:
            ResformerError: The samples do not fit, or a result is of another network.
            OSError: It cannot be written.
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
        """What a page shows of it, for ``resformer.runtime.page.write.write_page``.

        Args:
            given: Samples to run in sim; None: nothing runs.
            verification: As JSON.
            cost: As JSON; None: estimated of the run.
            chip: As ``place`` takes it, for that estimate.
            verified: The samples of the verification, whose images are shown of those that changed their class.
            traced: Neurons whose membrane traces are shown beside those that are chosen: population and neuron of each.
            progress: Told how far it is.

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
        """Samples as ``run`` takes them, read and checked once for several uses: ``run`` and all others take them too.

        What is done to them that was not chosen at compile time is warned of, as a ``ResformerWarning``.

        Args:
            images: As ``run`` takes them.
            samples: Take N only: the first; of a folder with folders of classes the first of each class.
            labels: (N,), the true classes, or a path to them.
            preprocessing: What is done to them, whatever they are: "build" for what was chosen at compile time, "none"
                for nothing. None: what was chosen at compile time, but not to floating-point maps with negative values,
                which are normalized already where a mean above 0 would be subtracted.
            binning: How a recording of an event camera becomes frames; None: the whole recording is one sample.

        Raises:
            ResformerError: They do not fit.
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
            UnsupportedError: The network came from a NIR file.
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

    A module's graph is proved to fire the module's spikes on the example. docs/modules.md says what a module may hold.
    What a user should know of the network, such as populations that can never fire, is a ``ResformerWarning`` each.

    Args:
        source: A path to a checkpoint, of a SpikingResformer or of another family (docs/zoo.md), to a NIR file if it
            ends in ``.nir``, or to a netx network of lava-dl if it ends in ``.net``; or a module in memory, in any mode
            and type: what it computes in eval mode and float64 is compiled. A module forgets its potentials and is
            otherwise left alone.
        example_input: Of a module: samples as its ``forward`` takes them, (T, N, C, H, W) or (T, N, F), or (N, C, H, W)
            or (N, F) if it repeats them over time itself.
        target: Of "lava", "sim", "onnx" and "nir", one or several: a sequence, or separated by commas.
        output: A folder to write the build to, as ``Compiled.save`` does; a network that exceeds the chosen chip is
            then refused.
        options: Quantization, calibration samples, a chip; the defaults where None.
        observe: Told each pass's name and result.
        progress: Told how far it is.

    Raises:
        ResformerError: The network or a choice cannot be compiled; the message names the node, or the line of code.
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
        FileFormatError: It is no build, one of another format version, or damaged.
        InputError: There is no such model.
    """
    if model is not None and not Path(model).exists():
        raise InputError(f"{model}: no such file; name the checkpoint or NIR file that was compiled, or leave it out")
    return Compiled(InFolder(read_build(Path(build)), None if model is None else Path(model)))


def _as_input(source: Any, example_input: torch.Tensor | None) -> Path | ModuleInput:
    """What the pipeline compiles.

    Raises:
        InputError: It is neither a path nor a module, or the example does not go with it.
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
