"""What the commands print: on terminals of every width, off them, in quiet, and beside JSON."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.terminal import Terminal
from resformer.runtime.cli.verify import main as verify_main
from support.builds import Tiny, read_json
from support.terminals import Table, on_terminal, plain, require_table

Capture = pytest.CaptureFixture[str]
WIDTHS = (60, 80, 100, 160)
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")


@pytest.fixture(scope="module")
def tables(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Table]:
    """Every table of every command."""
    folder, found = tmp_path_factory.mktemp("tables"), list[Table]()
    given = ["--input", str(tiny.images), "--labels", str(tiny.labels), "--samples", "2"]
    build, layout = folder / "build", ["--optimize", "time", "--optimize-cores", "150"]
    auto = ["--calibration", str(tiny.images), "--precision", "auto", "--synapse-budget", "0.7"]
    commands: Sequence[tuple[Callable[[list[str]], int], list[str]]] = (
        (compile_main, [str(tiny.model), *tiny.arguments, "--check"]),
        (compile_main, [str(tiny.model), *tiny.arguments, *auto, *layout, "--target", "sim", "-o", str(build)]),
        (compile_main, [str(tiny.model), *tiny.arguments, *given, "--sweep", "weight-bits=4,8"]),
        (run_main, [str(build), *given, "--backend", "sim", "--cost"]),
        (verify_main, [str(build), *given, "--backend", "sim", "--model", str(tiny.model), "--local"]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Terminal, "table", lambda _self, *table: found.append(table))
        for command, arguments in commands:
            assert command(arguments) == 0
    return found


@posix
@pytest.mark.parametrize("width", WIDTHS)
def test_no_table_loses_a_digit(tables: list[Table], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [title.partition(",")[0] for title, _, _ in tables]
    for wanted in ("Layouts", "Widths by layer", "Layers that rounding changed most", "Synaptic operations"):
        assert wanted in titles
    assert len(tables) == 14
    for table in tables:
        with on_terminal(width, monkeypatch) as printed:
            Terminal().table(*table)
        require_table(printed[0], table, width)


@posix
def test_names_are_cut_before_rows_become_blocks(tables: list[Table], monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above covers all three ways of printing a table."""
    shown = {}
    for width in WIDTHS:
        with on_terminal(width, monkeypatch) as printed:
            for table in tables:
                Terminal().table(*table)
        shown[width] = plain(printed[0])
    assert "…" in shown[80]
    assert "\n  layer: layers.0.0.W.y1\n    population: " in shown[60]
    assert "layer: " not in shown[160]


@posix
@pytest.mark.parametrize(("term", "colours"), [("xterm", True), ("dumb", False)])
def test_a_terminal_without_colours_gets_none(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], term: str, colours: bool
) -> None:
    with on_terminal(60, monkeypatch, term) as printed:
        assert compile_main([str(tiny.model), *tiny.arguments, "--check"]) == 0
    assert ("\x1b" in printed[0]) == colours
    assert max(map(len, plain(printed[0]).splitlines())) <= 60
    assert capfd.readouterr().err == ""


def test_json_on_standard_output_is_alone_there(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    given = ["--input", str(tiny.images), "--samples", "2", "--backend", "sim"]
    for name, command, arguments in (
        ("verification", verify_main, [str(tiny.build), *given]),
        ("cost", run_main, [str(tiny.build), *given, "--cost"]),
        ("placement", compile_main, [str(tiny.model), *tiny.arguments, "--check"]),
        ("sweep", compile_main, [str(tiny.model), *tiny.arguments, "--sweep", "weight-bits=8"]),
    ):
        file = tmp_path / f"{name}.json"
        assert command([*arguments, "--json", str(file)]) == 0
        printed = capsys.readouterr()
        assert f"wrote {file} (" in printed.out
        assert printed.err == ""
        assert command([*arguments, "--json", "-"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out) == read_json(file)
        told, beside = (
            [line for line in text.splitlines() if not line.startswith("wrote ") and " images/s " not in line]
            for text in (printed.out, err)
        )
        assert told == beside
    assert not Path("-").exists()


def test_the_summary_is_last_and_every_file_is_named(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    build, page, out = tmp_path / "b", tmp_path / "my page.html", tmp_path / "o.npz"
    given = ["--input", str(tiny.images), "--samples", "2"]
    assert (
        compile_main([str(tiny.model), *tiny.arguments, "--target", "sim", "-o", str(build), "--report", str(page)])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    wrote = [index for index, line in enumerate(lines) if line.startswith("wrote ")]
    assert {lines[index].split(" (")[0].removeprefix("wrote ") for index in wrote} == {
        str(path) for path in (*build.iterdir(), page)
    }
    assert lines[wrote[-1] + 1] == "tiny.pt compiled"
    assert lines[-2:] == [
        f"next: resformer-verify {build} --model {tiny.model} --input IMAGES.npy",
        f"next: open '{page}' in a browser",
    ]

    ran = [str(build), *given, "--backend", "sim", "--report", str(page)]
    assert run_main([*ran, "--cost", "-o", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = lines.index(f"{build} on {tiny.images.name}")
    assert [line.split(" (")[0] for line in lines[summary - 3 : summary]] == [
        f"wrote {out}",
        f"wrote {page}",
        f"next: open '{page}' in a browser",
    ]
    assert all(line.startswith("  ") for line in lines[summary + 1 :])

    assert verify_main(ran) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5].startswith(f"wrote {page} (")
    assert lines[-4] == f"next: open '{page}' in a browser"
    assert lines[-3].startswith("EQUIVALENT: ")

    assert report_main([str(build), "-o", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith(f"wrote {page} (")
    assert lines[-2:] == [
        f"next: open '{page}' in a browser",
        f"next: resformer-run {build} --input IMAGES.npy --backend sim --cost",
    ]


def test_what_is_suggested_works(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    given = ["--input", str(tiny.images), "--model", str(tiny.model), "--samples", "1"]
    assert report_main([str(tiny.build), *given, "-o", str(tmp_path / "page.html")]) == 0
    _, run, sweep = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    for line, command, more in ((run, run_main, ["--samples", "1"]), (sweep, compile_main, tiny.arguments)):
        words = shlex.split(line)
        assert words[0] == "next:"
        if command is compile_main:
            words[words.index("--samples") + 1] = "1"
        assert command([*words[2:], *more]) == 0


def test_quiet_says_the_verdict_alone(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    given = [str(tiny.build), "--input", str(tiny.images), "--samples", "2", "--backend", "sim"]
    page = ["--report", str(tmp_path / "p.html")]
    assert verify_main([*given, *page, "--quiet", "--json", str(tmp_path / "v.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == read_json(tmp_path / "v.json")["verdict"]
    assert run_main([*given, *page, "--quiet", "--cost", "--labels", str(tiny.labels)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].startswith("2 samples in sim, accuracy ")
    assert out.count("\n") == 1
    frames = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim", "--stream"]
    assert run_main([*frames, "--quiet"]) == 0
    assert capsys.readouterr() == ("2 samples streamed through sim\n", "")
    assert report_main([str(tiny.build), "-o", str(tmp_path / "p.html"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


SHELLS: dict[str, list[str]] = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_script_of_the_shell(shell: str, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("shtab")
    for name, main in (("compile", compile_main), ("run", run_main), ("verify", verify_main), ("report", report_main)):
        assert main(["--print-completion", shell]) == 0
        script, err = capsys.readouterr()
        assert err == ""
        assert f"resformer-{name}" in script
        assert "print-completion" in script
        if shutil.which(shell) is not None:
            (tmp_path / "script").write_text(script)
            done = subprocess.run([*SHELLS[shell], tmp_path / "script"], capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, "")


@posix
def test_bash_completes_options_and_their_values(capsys: Capture) -> None:
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    assert verify_main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    asks = """
complete_line() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _shtab_resformer_verify resformer-verify "${@: -1}" "${@: -2:1}" 2> /dev/null
  echo "${COMPREPLY[@]}"
}
complete_line resformer-verify --min
complete_line resformer-verify build --backend s
"""
    done = subprocess.run(["bash", "-c", script + asks], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["--min-agreement", "sim"], done.stderr


def test_a_missing_shtab_and_an_unknown_shell_are_a_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert run_main(["--print-completion", "zsh"]) == 1
    assert "pip install 'resformer[completion]'" in capsys.readouterr().err
    assert run_main(["--print-completion", "tcsh"]) == 2
    assert "--print-completion: 'tcsh' is none of bash, zsh, fish" in capsys.readouterr().err


def test_a_sweep_names_every_page(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    page, given = tmp_path / "s.html", ["--input", str(tiny.images), "--samples", "1"]
    sweep = [str(tiny.model), *tiny.arguments, "--sweep", "weight-bits=4,8", "--report", str(page)]
    assert compile_main([*sweep, *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    wrote = {Path(line.removeprefix("wrote ").split(" (")[0]) for line in lines if line.startswith("wrote ")}
    assert wrote == {path for path in tmp_path.rglob("*") if path.is_file()}
    assert len(wrote) == 3
    assert lines[-1] == f"next: open {page} in a browser"
