"""Event files of every format give the same events and the same frames."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from resformer.compiler.ir.program import Program
from resformer.compiler.samples.events.formats import is_event_file, open_events
from resformer.compiler.samples.events.frames import Binning, EventSamples, bin_events, stream_frames
from resformer.compiler.samples.events.stream import EventFile, Events
from resformer.errors import BackendMissingError, FileFormatError, InputError, UnsupportedError
from support.event_files import (
    AEDAT4_MAGIC,
    WRITERS,
    Recording,
    aedat4_header,
    some_events,
    write_aedat4,
    write_dat,
    write_evt2,
    write_evt3,
)
from support.program_builder import ProgramBuilder

SIZE = (34, 34)


def network(channels: int = 2, height: int = 34, width: int = 34, timesteps: int = 4) -> Program:
    net = ProgramBuilder((channels, height, width))
    net.conv("conv", "input", 1)
    return net.finish(timesteps=timesteps)


def all_events(file: EventFile) -> Events:
    return Events(*map(np.concatenate, zip(*file.blocks(), strict=True)))


def spikingjellys(events: Recording, split: str, frames: int) -> np.ndarray[Any, Any]:
    """The frames of its ``integrate_events_by_fixed_frames_number``, which cannot be imported with a torch for CPUs."""
    made = np.zeros((frames, 2, 34, 34))
    for index in range(frames):
        if split == "number":
            each = len(events.t) // frames
            chosen = slice(index * each, None if index == frames - 1 else (index + 1) * each)
        else:
            each = (events.t[-1] - events.t[0]) // frames
            inside = np.flatnonzero(
                (events.t >= events.t[0] + index * each) & (events.t < events.t[0] + (index + 1) * each)
            )
            chosen = slice(inside[0], None if index == frames - 1 else inside[-1] + 1)
        for x, y, on in zip(events.x[chosen], events.y[chosen], events.on[chosen], strict=True):
            made[index, int(on), y, x] += 1
    return made


def made(path: Path, binning: Binning, **sizes: int) -> EventSamples:
    return bin_events(open_events(path), binning, network(**sizes))


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Events in bursts of neighbours, so that EVT 3 has vectors."""
    events = some_events(400)
    t, x, y, on = (np.repeat(each, 6) for each in events)
    x = (x + 5 * np.tile(np.arange(6), 400)) % 34
    order = np.lexsort((x, t))
    return Recording(t[order], x[order], y[order], on[order])


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_events_and_frames(name: str, recording: Recording, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, recording)
    assert is_event_file(tmp_path / name)
    file = open_events(tmp_path / name)
    assert file.size in (SIZE, None)
    for found, expected in zip(all_events(file), recording, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(recording.t) == 2400

    sensor = None if file.size else SIZE
    expected = np.zeros((20, 2, 34, 34))
    np.add.at(expected, ((recording.t - recording.t[0]) // 5000, recording.on.astype(int), recording.y, recording.x), 1)
    samples = made(tmp_path / name, Binning(bin_us=5000, sensor=sensor))
    assert (len(samples), samples.frames) == (5, 18)
    np.testing.assert_array_equal(samples.real().reshape(expected.shape), expected)
    np.testing.assert_array_equal(samples.real(1, 3), samples.real()[1:3])
    assert samples.real().sum() == 2400


@pytest.mark.parametrize("at_once", [1, 3, 18, 100])
@pytest.mark.parametrize("binning", [Binning(bin_us=5000), Binning(bin_events=137), Binning(), Binning("number")])
def test_a_stream_of_frames_is_the_whole(
    at_once: int, binning: Binning, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resformer.compiler.samples.events.stream.AT_ONCE", 64)
    write_dat(tmp_path / "x.dat", recording)
    whole = made(tmp_path / "x.dat", binning)
    parts = list(stream_frames(open_events(tmp_path / "x.dat"), binning, network(), at_once))
    assert {len(part) for part in parts[:-1]} <= {at_once}
    together = np.concatenate(parts)
    assert len(together) == whole.frames
    np.testing.assert_array_equal(together, whole.real().reshape(-1, 2, 34, 34)[: whole.frames])


@pytest.mark.parametrize("split", ["time", "number"])
def test_a_sample_of_a_recording_is_spikingjellys(split: Any, recording: Recording, tmp_path: Path) -> None:
    write_dat(tmp_path / "x.dat", recording)
    found = made(tmp_path / "x.dat", Binning(split), timesteps=7)
    np.testing.assert_array_equal(found.real()[0], spikingjellys(recording, split, 7))
    assert found.notes == ()


def test_frames_of_a_number_of_events_hold_it(recording: Recording, tmp_path: Path) -> None:
    write_dat(tmp_path / "x.dat", recording)
    samples = made(tmp_path / "x.dat", Binning(bin_events=250))
    np.testing.assert_array_equal(samples.real().sum((2, 3, 4)).ravel(), [250] * 9 + [150, 0, 0])
    assert "other 2 are empty" in samples.notes[0]


def test_pixels_are_pooled_and_the_middle_is_kept(recording: Recording, tmp_path: Path) -> None:
    write_dat(tmp_path / "x.dat", recording)
    whole = made(tmp_path / "x.dat", Binning()).real()
    pooled = made(tmp_path / "x.dat", Binning(pool=2), height=17, width=17).real()
    np.testing.assert_array_equal(pooled, whole.reshape(1, 4, 2, 17, 2, 17, 2).sum((4, 6)))
    one = made(tmp_path / "x.dat", Binning(), channels=1).real()
    np.testing.assert_array_equal(one, whole.sum(2, keepdims=True))
    cut = made(tmp_path / "x.dat", Binning(keep_middle=True), height=32, width=40)
    np.testing.assert_array_equal(cut.real()[..., 3:37], whole[..., 1:33, :])
    assert cut.real()[..., :3].sum() == cut.real()[..., 37:].sum() == 0
    assert "outside the middle" in cut.notes[0]
    for wrong, says in (
        (Binning(pool=2), "pooled by 2 to 17x17 pixels|--keep-middle"),
        (Binning(sensor=(20, 20), keep_middle=True), "outside a sensor of 20x20.*--sensor-size"),
    ):
        with pytest.raises(InputError, match=says):
            made(tmp_path / "x.dat", wrong, height=32, width=32)
    with pytest.raises(InputError, match="--pool 2"):
        made(tmp_path / "x.dat", Binning(), height=17, width=17)
    with pytest.raises(InputError, match="3 channels"):
        made(tmp_path / "x.dat", Binning(), channels=3)


def test_clocks_that_wrap_go_on(tmp_path: Path) -> None:
    late = some_events(500, duration=3_000_000)
    for write, period, name in (
        (write_dat, 2**32, "x.dat"),
        (write_evt2, 2**34, "x.raw"),
        (write_evt3, 2**24, "y.raw"),
    ):
        events = late._replace(t=late.t + period - 1_000_000)
        write(tmp_path / name, events)
        np.testing.assert_array_equal(all_events(open_events(tmp_path / name)).t, events.t, err_msg=name)


def test_events_out_of_order_are_told(tmp_path: Path, recording: Recording) -> None:
    t = recording.t.copy()
    t[1000] -= 20_000
    write_dat(tmp_path / "x.dat", recording._replace(t=t))
    samples = made(tmp_path / "x.dat", Binning(bin_us=5000))
    assert "1 of 2,400 events are earlier" in samples.warnings[0]
    t[1000] = t[999]
    write_dat(tmp_path / "y.dat", recording._replace(t=t))
    np.testing.assert_array_equal(samples.real(), made(tmp_path / "y.dat", Binning(bin_us=5000)).real())


def test_a_file_that_does_not_say_its_size_needs_it(tmp_path: Path, recording: Recording) -> None:
    for name in ("events.npy", "events.h5"):
        WRITERS[name](tmp_path / name, recording)
        with pytest.raises(InputError, match="--sensor-size WIDTHxHEIGHT"):
            made(tmp_path / name, Binning())
    write_dat(tmp_path / "x.dat", recording, header="")
    with pytest.raises(InputError, match="--sensor-size"):
        made(tmp_path / "x.dat", Binning())


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_cut_is_refused(name: str, recording: Recording, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, recording)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
        all_events(open_events(tmp_path / name))


@pytest.mark.parametrize("compression", [1, 2, 3, 4])
def test_compressed_packets_hold_the_same(compression: int, recording: Recording, tmp_path: Path) -> None:
    pytest.importorskip("lz4")
    pytest.importorskip("zstandard")
    write_aedat4(tmp_path / "x.aedat4", recording, compression)
    for found, expected in zip(all_events(open_events(tmp_path / "x.aedat4")), recording, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_packet_that_grows_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lz4")
    pytest.importorskip("zstandard")
    monkeypatch.setattr("resformer.compiler.samples.events.aedat4.LARGEST_EVENT_PACKET", 2**16)
    still = Recording(*(np.zeros(50_000, np.int64) for _ in range(3)), np.zeros(50_000, bool))  # type: ignore[call-arg]
    for compression in (1, 3):
        write_aedat4(tmp_path / "x.aedat4", still, compression, packet=50_000)
        with pytest.raises(FileFormatError, match="when unpacked, the limit is 65536"):
            all_events(open_events(tmp_path / "x.aedat4"))


def test_packets_that_together_unpack_to_far_more_than_the_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each packet is within its own limit, but 10 MB of such packets once took minutes."""
    pytest.importorskip("zstandard")
    monkeypatch.setattr("resformer.compiler.samples.events.aedat4.LARGEST_UNPACKED", 2**20)
    still = Recording(*(np.zeros(200_000, dtype) for dtype in (np.int64, np.int64, np.int64, np.bool_)))
    write_aedat4(tmp_path / "x.aedat4", still, 3, packet=50_000)
    with pytest.raises(FileFormatError, match=r"its events are .* bytes larger than 64 times the file"):
        all_events(open_events(tmp_path / "x.aedat4"))


def test_a_missing_library_is_named(tmp_path: Path, recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    write_aedat4(tmp_path / "x.aedat4", recording, stated=1)
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'resformer\[events\]'"):
        open_events(tmp_path / "x.aedat4")


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("x.raw", b"% evt 2.1\n", UnsupportedError, "EVT 2.1"),
        ("x.raw", b"no header", FileFormatError, "names no version"),
        ("x.raw", b"%" * 5000, FileFormatError, "no end"),
        ("x.raw", b"% evt 3.0\n% geometry 99999x1\n", FileFormatError, "99999 x 1 pixels"),
        ("x.dat", b"% CD\n\x0c\x10", FileFormatError, "16 bytes"),
        ("x.dat", b"% CD\n", FileFormatError, "no header"),
        ("x.aedat4", b"#!AER-DAT3.1\r\n", FileFormatError, "does not begin with"),
        ("x.aedat4", b"#!AER-DAT4.0\r\n\xff\xff\xff\x7f", FileFormatError, "header has 2147483647 bytes"),
        ("x.aedat4", b"#!AER-DAT4.0\r\n\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", FileFormatError, "damaged"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", FileFormatError, "x.h5"),
        ("x.bin", b"\0" * 7, FileFormatError, "truncated: ends 2 bytes into record 1"),
        ("x.bin", b"", InputError, "no events"),
        ("none.bin", None, FileFormatError, "no such file"),
    ],
)
def test_hostile_files_are_refused_in_a_sentence(
    name: str, content: bytes | None, error: type[Exception], says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says) as raised:
        made(tmp_path / name, Binning(sensor=SIZE))
    assert str(raised.value).count(name) == 1


def test_hdf5_passes_the_gate_first(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["events"] = h5py.ExternalLink("other.h5", "/")
    with pytest.raises(FileFormatError, match=r"a link into another file.*write the events again"):
        open_events(tmp_path / "x.h5")


def test_time_that_leaps_is_no_million_frames(tmp_path: Path) -> None:
    t = np.array([0, 2**40])
    np.savez(tmp_path / "x.npz", t=t, x=t * 0, y=t * 0, p=t * 0)
    for binned in (
        lambda: made(tmp_path / "x.npz", Binning(bin_us=10, sensor=SIZE)),
        lambda: list(stream_frames(open_events(tmp_path / "x.npz"), Binning(bin_us=10, sensor=SIZE), network(), 4)),
    ):
        with pytest.raises(FileFormatError, match="109951162778 frames of 2 events, the limit is 16416"):
            binned()


@pytest.mark.parametrize("name", ["x.npz", "x.h5"])
def test_microseconds_as_floating_point_are_told_to_be_read_as_seconds(tmp_path: Path, name: str) -> None:
    t = np.arange(20.0) * 1000
    columns = {"t": t, "x": t * 0, "y": t * 0, "p": t * 0}
    if name == "x.npz":
        np.savez(tmp_path / name, **columns)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file["events"] = np.stack(list(columns.values()), axis=1)
    with pytest.raises(FileFormatError, match="its times are floating point, read as seconds; give whole microseconds"):
        made(tmp_path / name, Binning(bin_us=10, sensor=SIZE))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((1, 2), "go from 1 to 2, .* so all are brighter"),
        ((-1, 0), "go from -1 to 0, .* so all are darker"),
        ((0, 1), None),
        ((-1, 1), None),
        ((1, 1), None),
        ((0, 0), None),
    ],
)
def test_two_polarities_that_are_read_as_one_are_told(
    tmp_path: Path, values: tuple[int, int], told: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    """Some datasets write 1 for darker and 2 for brighter."""
    events = some_events(100)
    columns = {"t": events.t, "x": events.x, "y": events.y, "p": np.array(values)[events.on.astype(int)]}
    np.savez(tmp_path / "x.npz", **columns)
    binning = Binning(sensor=SIZE)
    (*warnings,) = made(tmp_path / "x.npz", binning).warnings
    assert bool(warnings) == (told is not None)
    assert made(tmp_path / "x.npz", binning, channels=1).warnings == ()
    list(stream_frames(open_events(tmp_path / "x.npz"), binning, network(), 4))
    list(stream_frames(open_events(tmp_path / "x.npz"), binning, network(channels=1), 4))
    assert [str(each.message) for each in recwarn] == warnings
    if told is not None:
        assert re.search(told, warnings[0])


def test_times_too_far_apart_to_subtract_are_refused(tmp_path: Path) -> None:
    events = some_events(2)._replace(t=np.array([-(2**63), 2**63 - 1]))
    write_aedat4(tmp_path / "x.aedat4", events)
    t = np.array([-(2**62), 2**62])
    np.savez(tmp_path / "x.npz", t=t, x=t * 0, y=t * 0, p=t * 0)
    for name in ("x.aedat4", "x.npz"):
        for binning in (Binning(sensor=SIZE), Binning(bin_us=10, sensor=SIZE)):
            with pytest.raises(FileFormatError, match=rf"{name}: a time of \d+ microseconds, the limit is {2**61}"):
                made(tmp_path / name, binning, timesteps=1)


def test_vectors_before_the_first_column_are_no_events(tmp_path: Path) -> None:
    words = [8 << 12, 6 << 12, 7, 4 << 12 | 1, 4 << 12 | 1, 3 << 12 | 5, 4 << 12 | 1]
    (tmp_path / "x.raw").write_bytes(b"% evt 3.0\n% geometry 34x34\n" + np.array(words, "<u2").tobytes())
    events = all_events(open_events(tmp_path / "x.raw"))
    assert (events.x.tolist(), events.y.tolist()) == ([5], [7])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", b"{'descr': [" + b"('t', 'f4') " * 40 + b"x"),
        ("x.raw", b"% evt 3.0\n" + (b"% width" + b" " * 4000 + b"x\n") * 50),
    ],
)
def test_headers_of_blanks_are_read_at_once(name: str, content: bytes, tmp_path: Path) -> None:
    if name == "x.npy":
        content = b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content
    (tmp_path / name).write_bytes(content)
    begin = time.process_time()
    if is_event_file(tmp_path / name):
        assert open_events(tmp_path / name).size is None
    assert time.process_time() - begin < 5


def test_streams_inside_streams_are_read_once(tmp_path: Path) -> None:
    count = 9000
    nested = b'<node name="1"><attr key="typeIdentifier">EVTS</attr>' * count + b"</node>" * count
    (tmp_path / "x.aedat4").write_bytes(AEDAT4_MAGIC + aedat4_header(0, nested))
    begin = time.process_time()
    assert "of its 9000 streams of events" in open_events(tmp_path / "x.aedat4").notes[0]
    assert time.process_time() - begin < 5


def test_a_damaged_array_of_an_archive_names_the_file_once(tmp_path: Path, recording: Recording) -> None:
    WRITERS["events.npz"](tmp_path / "events.npz", recording)
    content = bytearray((tmp_path / "events.npz").read_bytes())
    content[300] ^= 1
    (tmp_path / "events.npz").write_bytes(content)
    with pytest.raises(FileFormatError, match="truncated or damaged") as raised:
        open_events(tmp_path / "events.npz")
    assert str(raised.value).count("events.npz") == 1


def test_arrays_of_samples_are_no_recordings(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    assert not any(is_event_file(tmp_path / name) for name in ("x.npy", "x.npz", "x.png"))
