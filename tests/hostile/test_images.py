"""Hostile folders of images: refused in one line; no program is started, no pipe waited for, no memory filled."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Input, Output
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.samples.image_files import FORMATS, find_images
from resformer.compiler.samples.images import ImageFolder, open_image_folder
from resformer.errors import FileFormatError, ResformerError
from resformer.models import limits


def network(size: int = 32) -> Program:
    entry = Input(Signal(SignalKind.GRADED, 6, -256, 256))
    output = Output(Signal(SignalKind.CURRENT, 3), divisor=1, bias=np.zeros(2))
    nodes = (Node("input", entry, (), (3, size, size)), Node("output", output, ("input",), (2,)))
    return Program(nodes, timesteps=2, metadata={"input": "static"})


def folder(path: Path, *, resize: bool = False) -> ImageFolder:
    return open_image_folder(path, network(), resize=resize)


def image(path: Path, size: tuple[int, int] = (32, 32), kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, kind)
    return path


def names(path: Path) -> list[str]:
    return [each.as_posix() for each in find_images(path)]


def test_a_folder_that_holds_itself_holds_each_image_once(tmp_path: Path) -> None:
    image(tmp_path / "z" / "a.png")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "z" / "again").symlink_to("..")
    (tmp_path / "z" / "self").symlink_to(".")
    (tmp_path / "b.png").symlink_to("z/a.png")
    os.link(tmp_path / "z" / "a.png", tmp_path / "z" / "b.png")
    assert names(tmp_path) == ["z/a.png"]


def test_links_lead_out_of_the_folder(tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "x.png", (31, 32))
    image(tmp_path / "elsewhere" / "deep" / "y.png")
    image(tmp_path / "file.png", (30, 32))
    (tmp_path / "given" / "cat").mkdir(parents=True)
    (tmp_path / "given" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "given" / "cat" / "1.png").symlink_to(tmp_path / "file.png")
    assert names(tmp_path / "given") == ["cat/1.png", "dog/deep/y.png", "dog/x.png"]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        find_images(tmp_path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("make", "kind"), [(a_pipe, "a pipe"), (a_socket, "a socket"), (a_device, "a device")])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(tmp_path / "b.png")
    for call in (lambda: folder(tmp_path).check(), lambda: folder(tmp_path).real()):
        with pytest.raises(FileFormatError, match=rf"b\.png: {kind}, no image file; remove it"):
            call()


def test_no_plug_in_that_starts_a_program_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_arguments: object, **_options: object) -> None:
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_text(text)
    for call in (lambda: folder(tmp_path).check(), lambda: folder(tmp_path).real()):
        with pytest.raises(FileFormatError, match=rf"no image that Pillow knows as one of {', '.join(FORMATS)}"):
            call()


@pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "PCX", "SGI"])
def test_formats_that_are_not_named_are_not_read(tmp_path: Path, kind: str) -> None:
    image(tmp_path / "a.png", kind=kind)
    with pytest.raises(FileFormatError, match=r"a\.png: a broken image"):
        folder(tmp_path).check()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_named_format_is_read_and_a_cut_one_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(1).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path, kind)
    assert folder(tmp_path).real().shape == (1, 3, 32, 32)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(FileFormatError, match=r"a\.png: a broken image \(.+\); repair or remove it"):
        folder(tmp_path).real()


def declared(path: Path, width: int, height: int) -> None:
    """A small file that states a large image."""
    path.write_bytes(f"P6 {width} {height} 255\n".encode() + bytes(100))


@pytest.mark.parametrize("size", [(10_000, 5_001), (10_000, 10_000), (100_000, 100_000)])
def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    declared(tmp_path / "a.ppm", *size)
    for resize in (False, True):
        # Pillow warns of the second, and raises at the third
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(FileFormatError, match=r"a\.ppm: .*pixels"):
                folder(tmp_path, resize=resize).check()
        assert caught == []


@pytest.mark.parametrize("size", [(1, 33_000), (33_000, 1)])
def test_pixels_are_counted_before_they_are_resized(tmp_path: Path, size: tuple[int, int]) -> None:
    image(tmp_path / "strip.png", size)
    strips = open_image_folder(tmp_path, network(64), resize=True)
    for call in (strips.check, strips.real):
        with pytest.raises(
            FileFormatError, match=rf"strip\.png: resized, an image of .* the limit is {limits.MOST_PIXELS:,}"
        ):
            call()


def test_limits_that_are_raised_allow_more(tmp_path: Path) -> None:
    """Raised limits may exceed Pillow's own. The file lacks the pixels that it declares: ``check`` reads no pixels."""
    declared(tmp_path / "a.ppm", 10_000, 10_000)
    with pytest.raises(FileFormatError, match=r"limit is 50,000,000; .*, or raise all limits with --limits 2$"):
        folder(tmp_path, resize=True).check()
    with limits.raised(2):
        folder(tmp_path, resize=True).check()
    with limits.raised(1.9), pytest.raises(FileFormatError, match=r"a\.ppm: "):
        folder(tmp_path, resize=True).check()


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.webp").open("wb") as file:
        file.truncate(limits.LARGEST_IMAGE_FILE + 1)
    with pytest.raises(FileFormatError, match=r"a\.webp: 268,435,457 bytes, the limit of an image file"):
        folder(tmp_path).check()


def test_whatever_a_reader_trips_over_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.png")
    for error in (KeyError("x"), RecursionError(), MemoryError(), OverflowError("y"), ZeroDivisionError("z")):

        def fail(*_arguments: object, error: Exception = error, **_options: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "convert", fail)
            with pytest.raises(FileFormatError, match=r"a\.png: a broken image \(.+\)"):
                folder(tmp_path).real()


@pytest.mark.filterwarnings("ignore")
def test_bytes_that_are_changed_are_read_or_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    pixels = Image.fromarray(generator.integers(256, size=(32, 32, 3), dtype=np.uint8))
    outcomes = set()
    for kind in FORMATS:
        path = tmp_path / kind / "a.png"
        path.parent.mkdir()
        pixels.save(path, kind)
        whole = path.read_bytes()
        for _ in range(30):
            content = bytearray(whole)
            for place in generator.integers(min(len(content), 200), size=generator.integers(1, 4)):
                content[place] = generator.integers(256)
            path.write_bytes(
                content[: generator.integers(1, len(content) + 1)] if generator.random() < 0.3 else content
            )
            try:
                folder(path.parent, resize=True).real()
                outcomes.add("read")
            except ResformerError as error:
                assert str(path) in str(error)  # noqa: PT017 # either is right
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


LIMITED = """
import resource, sys
from pathlib import Path
from test_images import folder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder(Path(sys.argv[1]), resize=True).real()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    """Eight images of 9 million pixels take the memory of one, whatever the number of cores."""
    for index in range(8):
        Image.new("L", (3_000, 3_000)).save(tmp_path / f"{index}.png")
    assert limits.LARGE_PIXELS < 3_000 * 3_000
    script = LIMITED.replace("import resource", "import os; os.cpu_count = lambda: 8\nimport resource", 1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr[-1000:]
    # an image takes 9 MB decoded, and 36 MB converted to RGB
    assert int(done.stdout) < 120_000
