"""Hostile files: refused in a line that names them, with status 1, soon, in little memory, with and without ``-O``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.builds import Tiny
from support.hostile_files import (
    ARRAYS,
    CHECKPOINTS,
    CHIPS,
    NET,
    NIR,
    VERIFICATIONS,
    Write,
    chip,
    content,
    folder,
    pipe,
    verification,
)

SECONDS, MEBIBYTES = 10, 1536
"""The most processor time and memory that refusing a file may take."""

RUN = """
import contextlib, gc, io, json, os, signal, sys
from resformer.runtime.cli import compile_options, report, run
import h5py, nir, torch, yaml  # once for all of them, as what follows
import resformer.compiler.backends.reference, resformer.compiler.pipeline, resformer.compiler.save.build
import resformer.runtime.compiled, resformer.runtime.cost.cost, resformer.runtime.page.write

mains = {"compile": compile_options.main, "run": run.main, "report": report.main}
gc.freeze()  # else each child looks at all of it, and the system copies it
for line in sys.stdin:
    name, command, *arguments = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(6 * int(sys.argv[1]))  # of the clock: others may use this machine
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = mains[command](arguments)
            except BaseException as error:
                status = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps([status, out.getvalue()[-999:], err.getvalue()[-9999:]]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, ended, used = os.wait4(child, 0)
    status, out, err = json.loads(said) if said else [f"ended by {ended}", "", ""]
    print(json.dumps([name, status, out, err, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10]), flush=True)
"""
"""Runs each command of standard input in a child of its own, and prints a line of JSON for each."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and pipes with a name")


class Case(NamedTuple):
    """A hostile file.

    Attributes:
        write: Writes the file.
        file: The file's name.
        command: The command and its arguments; {} stands for the file.
        says: A part of the error message.
    """

    write: Write
    file: str
    command: tuple[str, ...]
    says: str


def cases() -> Iterator[tuple[str, Case]]:
    """Every hostile file with every command that reads files of its kind."""
    compiling = ("compile", "{}", "--target", "nir", "-o", "{}.build", "--dt", "1e-4")
    placing = ("compile", "{model}", "--check", "--chip", "{}", "--input-size", "16")
    running = ("run", "{build}", "--backend", "reference")
    reporting = ("report", "{build}", "-o", "{}.html")
    for files, ending, commands in (
        (NIR, ".nir", {"compile": compiling}),
        (NET, ".net", {"compile": compiling[:-2]}),
        (
            ARRAYS,
            ".npy",
            {"run": (*running, "--input", "{}"), "labels": (*running, "--input", "{images}", "--labels", "{}")},
        ),
        (CHECKPOINTS, ".pt", {"compile": ("compile", "{}", "--target", "lava", "-o", "{}.build")}),
        (CHIPS, ".yaml", {"place": placing, "cost": (*running, "--input", "{images}", "--cost", "--chip", "{}")}),
        (VERIFICATIONS, ".json", {"report": (*reporting, "--verify", "{}")}),
    ):
        others = {"pipe": (pipe, "is no regular file")}
        if ending != ".npy":  # a folder may hold images
            others["folder"] = (folder, "is a directory")
        for name, (write, says) in {**files, **others}.items():
            for kind, command in commands.items():
                steps = ("--timesteps", "4") if ending in (".nir", ".net") and name != "infinite timesteps" else ()
                yield (
                    f"{kind} {name}{ending}",
                    Case(write, f"{name.replace(' ', '_')}{ending}", (*command, *steps), says),
                )


CASES = dict(cases())


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["asserts", "no asserts"])
def test_a_hostile_file_is_refused_in_one_line(tiny: Tiny, tmp_path: Path, flags: tuple[str, ...]) -> None:
    paths: dict[str, Path] = {}
    for name, case in CASES.items():
        paths[name] = tmp_path / case.file
        if not paths[name].exists():
            case.write(paths[name], tiny)
    found = run_all(
        {
            name: [
                each.format(paths[name], model=tiny.model, build=tiny.build, images=tiny.images)
                for each in case.command
            ]
            for name, case in CASES.items()
        },
        flags,
    )
    assert found.keys() == CASES.keys()
    for name, (status, out, err, seconds, mebibytes) in found.items():
        where = f"{name}: {status}, {out}, {err}"
        assert (status, out) == (1, ""), where
        assert err.count("\n") == 1, where
        assert err.startswith(f"resformer-{CASES[name].command[0]}: error: {paths[name]}"), where
        assert CASES[name].says in err, where
        assert err.rstrip("\n").isprintable(), where
        assert seconds < SECONDS, where
        assert mebibytes < MEBIBYTES, f"{where}: {mebibytes} MiB"


def run_all(commands: dict[str, list[str]], flags: tuple[str, ...]) -> dict[str, list[Any]]:
    """The result of each command: exit status, output, errors, seconds of processor time, MiB."""
    lines = "".join(json.dumps([name, *command]) + "\n" for name, command in commands.items())
    command = [sys.executable, *flags, "-c", RUN, str(SECONDS)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


def test_files_like_these_are_read_where_nothing_is_wrong(tiny: Tiny, tmp_path: Path) -> None:
    """This shows that the test above fails for the damage alone: undamaged files of the same form are read."""
    chip("step_ns: 1")(tmp_path / "good.yaml", tiny)
    made = verification()
    made["layers"] = []
    content(json.dumps(made).encode())(tmp_path / "good.json", tiny)
    found = run_all(
        {
            "chip": [
                "compile",
                str(tiny.model),
                "--check",
                "--chip",
                str(tmp_path / "good.yaml"),
                "--input-size",
                "16",
            ],
            "verification": [
                *("report", str(tiny.build), "-o", str(tmp_path / "r.html"), "--verify", str(tmp_path / "good.json"))
            ],
        },
        (),
    )
    assert {name: status for name, (status, *_) in found.items()} == {"chip": 0, "verification": 0}


def test_limits_are_raised_by_an_option(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    CHIPS["large"][0](path, tiny)
    command = ["compile", str(tiny.model), "--check", "--chip", str(path), "--input-size", "16"]
    found = run_all(
        {"as it is": command, "raised": [*command, "--limits", "3"], "wrong": [*command, "--limits", "0"]}, ()
    )
    assert {name: status for name, (status, *_) in found.items()} == {"as it is": 1, "raised": 0, "wrong": 2}
    assert "raise all limits with --limits 3" in found["as it is"][2]
