"""Where a compiled network came from, which says what it can be compared with and how it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resformer.compiler.atomic import temporary_folder
from resformer.compiler.backends import BACKENDS
from resformer.compiler.chips.chip import Chip
from resformer.compiler.export.checkpoint import quantized_module_state, quantized_state
from resformer.compiler.files.build import Build, copy_build, read_build
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.pipeline import CHECKPOINT, MODULE, NIR, Compilation, CompileOptions
from resformer.compiler.samples.arrays import Samples
from resformer.compiler.save.build import write_build
from resformer.errors import UnsupportedError
from resformer.runtime.given import Held
from resformer.runtime.verify.module_sides import module_sides
from resformer.runtime.verify.result import Verification
from resformer.runtime.verify.user_network import UserNetwork
from resformer.runtime.verify.verify import Comparing, verify, verify_sides

if TYPE_CHECKING:
    import nir
    import torch

NO_FILE = "a network that came from a NIR file has no quantized checkpoint; its quantized.nir comes with target nir"


class Origin(Protocol):
    """A compilation in memory, or a build folder."""

    @property
    def title(self) -> str:
        """What was compiled, in words."""
        ...

    @property
    def model(self) -> Path | None:
        """The checkpoint or NIR file that was compiled, if there is one and it is known where."""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Of ``resformer.compiler.files.build.TARGETS``."""
        ...

    @property
    def fine_tuned(self) -> bool:
        """Whether the original was fine-tuned for this program, so that it reads samples rounded as the program's."""
        ...

    def held(self) -> Held:
        """What is known of samples."""
        ...

    def chip(self) -> Chip | None:
        """The chip that was chosen."""
        ...

    def program(self) -> Scheduled:
        """The scheduled integer program."""
        ...

    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes."""
        ...

    def quantized_state(self) -> Mapping[str, torch.Tensor]:
        """The quantized network as a state dict, in float64."""
        ...

    def save(self, directory: Path) -> tuple[Path, ...]:
        """Write a build folder."""
        ...

    def build(self) -> AbstractContextManager[Build]:
        """A build folder to read, perhaps gone afterwards."""
        ...

    def verify(
        self,
        samples: Samples,
        program: Scheduled,
        *,
        model: Path | None,
        local: bool,
        how: Comparing,
        user: UserNetwork | None = None,
    ) -> Verification:
        """Compare all sides that there are, the user's own network among them if it is given."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """A network that was compiled in this process.

    Attributes:
        compilation: The float graph, the integer program and what they were made with.
        options: What the user chose.
        targets: What to write.
    """

    compilation: Compilation
    options: CompileOptions
    targets: tuple[str, ...]

    @property
    def title(self) -> str:
        """What was compiled, in words."""
        source = self.compilation.source
        if source.module is not None and source.path is None:
            return f"{MODULE.name} {source.module.name}"
        route = CHECKPOINT if source.architecture is not None or source.recognition is not None else NIR
        return f"{route.name} {source.path}"

    @property
    def model(self) -> Path | None:
        """The file that was compiled; None of a module."""
        return self.compilation.source.path

    @property
    def fine_tuned(self) -> bool:
        """Whether the checkpoint brought a plan of its own."""
        source = self.compilation.source
        return source.plan is not None and source.architecture is not None

    def held(self) -> Held:
        """What the options, or the calibration folder, say of samples."""
        return Held(self.compilation.preprocessing, self.compilation.classes)

    def chip(self) -> Chip | None:
        """The chip that was chosen."""
        return self.options.chip

    def program(self) -> Scheduled:
        """The scheduled integer program."""
        return self.compilation.program

    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes."""
        return self.compilation.folded

    def quantized_state(self) -> Mapping[str, torch.Tensor]:
        """The quantized network as a state dict, in float64.

        Raises:
            UnsupportedError: It came from a NIR file.
        """
        compilation, module = self.compilation, self.compilation.source.module
        if module is not None:
            graph, state = module.traced.graph, module.module.state_dict()
            return quantized_module_state(compilation.quantized, compilation.folded, graph, state)
        net = compilation.source.architecture
        if net is None:
            raise UnsupportedError(f"{self.title}: {NO_FILE}")
        return quantized_state(compilation.quantized, neuron=net.neuron, patches=compilation.source.patches)

    def save(self, directory: Path) -> tuple[Path, ...]:
        """Write a build folder."""
        return write_build(self.compilation, directory, self.targets, self.options)

    @contextmanager
    def build(self) -> Iterator[Build]:
        """A build folder of all that running needs, gone at the end."""
        source = self.compilation.source
        if source.path is None and source.module is not None:
            name = Path(source.module.name).suffix[1:]
        else:
            name = Path(source.path or "network").stem
        runs = next((target for target in self.targets if target in BACKENDS), "sim")
        with temporary_folder() as folder:
            directory = folder / (name or "network")
            write_build(self.compilation, directory, [runs], self.options)
            yield read_build(directory)

    def verify(
        self,
        samples: Samples,
        program: Scheduled,
        *,
        model: Path | None,
        local: bool,
        how: Comparing,
        user: UserNetwork | None = None,
    ) -> Verification:
        """Compare all sides: those of a module in memory, those of a file as its build has them.

        Raises:
            UnsupportedError: Something is asked of a module that only files have.
            ResformerError: A file cannot be read, is another network, or the backend failed.
        """
        if self.compilation.source.path is not None:
            with self.build() as build:
                return verify(build, samples, program, how, model=model or self.model, local=local, user=user)
        if model is not None or local:
            raise UnsupportedError(
                f"{self.title}: a module in memory has no file to compare with, and its layers are not compared alone; "
                "leave out model and local"
            )
        sides = module_sides(self.compilation, self.quantized_state())
        if user is None:
            return verify_sides(sides, samples, how, is_source=True)
        result = verify_sides(replace(sides, original=user), samples, how)
        return replace(result, notes=(*result.notes, user.note))


@dataclass(frozen=True, eq=False)
class InFolder:
    """A network in a build folder.

    Attributes:
        folder: The build.
        model: The checkpoint or NIR file that was compiled, if it is given.
    """

    folder: Build
    model: Path | None = None

    @property
    def title(self) -> str:
        """What was compiled, in words."""
        route = MODULE if self.folder.from_module else NIR if self.folder.from_nir else CHECKPOINT
        return f"{route.name} in build {self.folder.directory}"

    @property
    def targets(self) -> tuple[str, ...]:
        """What was written."""
        return tuple(self.folder.report["targets"])

    @property
    def fine_tuned(self) -> bool:
        """What the build's report says."""
        return self.folder.report["fine_tuned"]

    def held(self) -> Held:
        """What the build's report says of samples."""
        return Held.by(self.folder.report)

    def chip(self) -> Chip | None:
        """The chip that the program was placed on."""
        return self.folder.chip()

    def program(self) -> Scheduled:
        """The scheduled integer program."""
        return self.folder.program()

    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes (of a module: its own layers, batch normalisations folded)."""
        return self.folder.network()

    def quantized_state(self) -> Mapping[str, torch.Tensor]:
        """The quantized network as a state dict, in float64.

        Raises:
            UnsupportedError: It came from a NIR file.
        """
        import torch

        if self.folder.from_nir:
            raise UnsupportedError(f"{self.title}: {NO_FILE}")
        content: Any = torch.load(self.folder.quantized_path, weights_only=True)
        state: Mapping[str, torch.Tensor] = content["model"]
        return state

    def save(self, directory: Path) -> tuple[Path, ...]:
        """Copy the build folder."""
        return copy_build(self.folder, directory)

    @contextmanager
    def build(self) -> Iterator[Build]:
        """The build folder."""
        yield self.folder

    def verify(
        self,
        samples: Samples,
        program: Scheduled,
        *,
        model: Path | None,
        local: bool,
        how: Comparing,
        user: UserNetwork | None = None,
    ) -> Verification:
        """Compare all sides that the build has, and with the file that was compiled those that it lacks.

        Raises:
            UnsupportedError: ``local`` needs that file.
            ResformerError: A file cannot be read, is another network, or the backend failed.
        """
        model = model or self.model
        if local and model is None:
            raise UnsupportedError(
                f"{self.title}: each layer's own error is against the original; give model, the file that was compiled"
            )
        return verify(self.folder, samples, program, how, model=model, local=local, user=user)
