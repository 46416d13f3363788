"""Where a compiled network came from: this decides what it can be compared with and how it is saved."""

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
        """The checkpoint or NIR file that was compiled, if there is one and its path is known."""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, a selection of ``resformer.compiler.files.report.TARGETS``."""
        ...

    @property
    def fine_tuned(self) -> bool:
        """Whether the original was fine-tuned for this program: it then reads samples rounded as the program's are."""
        ...

    def held(self) -> Held:
        """What is known of samples: their preprocessing, and the names of the classes."""
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
        """A build folder to read, which may be removed at the end."""
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
        """Compare all sides that are available; the user's own network is one of them if it is given."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """A network that was compiled in this process.

    Attributes:
        compilation: The float graph, the integer program and what they were made with.
        options: What the user chose.
        targets: The targets to write.
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
        """The file that was compiled; None if a module in memory was compiled."""
        return self.compilation.source.path

    @property
    def fine_tuned(self) -> bool:
        """Whether the checkpoint brought a quantization plan of its own."""
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
            UnsupportedError: The network came from a NIR file or a netx network.
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
        """A temporary build folder with all that running needs; it is removed at the end."""
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
        """Compare all sides: a module's in memory, a file's by way of a temporary build folder.

        Raises:
            UnsupportedError: ``model`` or ``local`` is given for a module in memory.
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
        """The targets that the build folder was written for."""
        return tuple(self.folder.report["targets"])

    @property
    def fine_tuned(self) -> bool:
        """Whether the original was fine-tuned for this program, as the build's report says."""
        return self.folder.report["fine_tuned"]

    def held(self) -> Held:
        """What the build's report says of samples: their preprocessing, and the names of the classes."""
        return Held.by(self.folder.report)

    def chip(self) -> Chip | None:
        """The chip that the program was placed on."""
        return self.folder.chip()

    def program(self) -> Scheduled:
        """The scheduled integer program."""
        return self.folder.program()

    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes (for a module: its own layers, with batch normalisations folded)."""
        return self.folder.network()

    def quantized_state(self) -> Mapping[str, torch.Tensor]:
        """The quantized network as a state dict, in float64.

        Raises:
            UnsupportedError: The network came from a NIR file or a netx network.
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
        """Compare all sides that the build has, and those that need the file that was compiled if it is given.

        Raises:
            UnsupportedError: ``local`` is set, but that file is not given.
            ResformerError: A file cannot be read, is another network, or the backend failed.
        """
        model = model or self.model
        if local and model is None:
            raise UnsupportedError(
                f"{self.title}: each layer's own error is against the original; give model, the file that was compiled"
            )
        return verify(self.folder, samples, program, how, model=model, local=local, user=user)
