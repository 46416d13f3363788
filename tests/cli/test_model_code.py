"""``resformer-verify --model-code``: E1 runs the user's own class as the original; what may go wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import resformer
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.verify.result import CHECKS
from resformer.runtime.verify.user_network import user_network
from support.attention import AttentiveNet
from support.builds import Tiny, read_json
from support.modules import calibrated

E1, E2, E3, E4 = CHECKS
GRAPHS = 7
STEPS = 4

CODE = """
import sys
from torch import nn
from spikingjelly.activation_based import neuron
from resformer.models.checkpoint import build_model, load_checkpoint

number = 3

def make(size=16):
    return build_model(load_checkpoint({model!r}), timesteps=4, image_size=size)

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.DataParallel(make())

    def forward(self, x):
        from theirs import late

        return late.mean(self.backbone.module(x))

class FramesAlone(Wrapped):
    def forward(self, x):
        assert x.dim() == 5 and len(x) == 4, "(T, N, C, H, W) alone"
        return list(self.backbone.module(x.transpose(0, 1)))

def leaks():
    net = make()
    for each in net.modules():
        if isinstance(each, neuron.BaseNode):
            each.tau = 1.9
    return net

def silent():
    return silenced(make())

def silenced(net):
    net.layers[0][0].activation_in = nn.Identity()
    return net

def several():
    return [make()]

def raises():
    raise KeyError("no such key")  # raises

def ends():
    sys.exit(3)

class Strange(BaseException):
    pass

def strange():
    raise Strange("of no usual kind")

class Fails(Wrapped):
    def forward(self, x):
        raise RuntimeError("cannot run\\nat all")  # fails

class FramesOfAnother(FramesAlone):
    def __init__(self):
        super().__init__()
        silenced(self.backbone.module)

class Tuple(Wrapped):
    def forward(self, x):
        return super().forward(x), x

class Ragged(Wrapped):
    def forward(self, x):
        return [each[:, :size] for size, each in enumerate(self.backbone.module(x))]

def other():
    net = make()
    net.classifier = nn.Linear(1, 2)
    return net
"""


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the user's code in it, which each test imports anew."""
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "net.py").write_text(CODE.format(model=str(tiny.model)))
    (package / "late.py").write_text("def mean(x):\n    return x.mean(0)\n")
    (package / "broken.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def verify(tiny: Tiny, code: str, *arguments: str) -> int:
    command = [str(tiny.build), "--input", str(tiny.images), "--samples", "2", "--backend", "reference"]
    return verify_main([*command, "--model", str(tiny.model), "--model-code", code, *arguments])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("make", "matched by name, and it was given (N, C, H, W)"),
        ("Wrapped", "matched in the order in which they run, and it was given (N, C, H, W)"),
        ("FramesAlone", "matched in the order in which they run, and it was given (T, N, C, H, W)"),
    ],
)
def test_the_users_class_stands_on_the_left(
    tiny: Tiny, folder: Path, function: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(tiny, f"theirs.net:{function}", "--json", "r.json") == 0
    found = read_json(folder / "r.json")
    expected = sum(each["checks"][E1]["compared"] for each in found["layers"]) // GRAPHS
    assert (found["checks"][E1]["compared"], found["checks"][E1]["mismatched"]) == (GRAPHS * expected, 0)
    errors = [each["logits_max_difference"] for each in found["checks"][E1]["graphs"].values()]
    assert max(errors) < 1e-9
    assert found["model_is_source"] is True
    (note,) = found["notes"]
    assert words in note
    assert "trusted" in note
    assert f"note: theirs.net:{function}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("samples_first", [False, True])
def test_as_many_samples_as_steps_are_no_steps(tiny: Tiny, samples_first: bool) -> None:
    """Logits (N, T, classes) are told from (T, N, classes), even where N equals T."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build_model(load_checkpoint(tiny.model), timesteps=STEPS, image_size=16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x)
            return logits.transpose(0, 1) if samples_first else logits

    network = user_network(Net(), resformer.load(tiny.build).program, called="mine")
    images = np.random.default_rng(5).random((STEPS, 2, 16, 16))
    together = network.run(images, lambda *_: None)
    alone = [network.run(images[each : each + 1], lambda *_: None)[:, 0] for each in range(STEPS)]
    np.testing.assert_allclose(together, np.stack(alone, axis=1), atol=1e-12)


def test_another_network_is_not_equivalent(tiny: Tiny, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(tiny, "theirs.net:leaks", "--json", "r.json") == 1
    found = read_json(folder / "r.json")
    assert found["checks"][E1]["mismatched"] > 0
    assert found["checks"][E3]["mismatched"] == 0
    assert found["checks"][E1]["first_divergence"]["sides"][0]["name"] == "model code"
    assert "NOT EQUIVALENT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("nowhere.net:make", "nowhere.net:make: ModuleNotFoundError: No module named 'nowhere'; is its folder"),
        ("theirs.net:absent", "theirs.net:absent: theirs.net has no absent"),
        ("theirs.net:number", "theirs.net:number: is a int; name a function"),
        ("theirs.net:several", "theirs.net:several: returns a list; it must return a torch.nn.Module"),
        ("theirs.net:raises", "theirs.net:raises: KeyError: 'no such key' ({folder}/theirs/net.py:{line})"),
        ("theirs.net:ends", "theirs.net:ends: SystemExit: 3 ({folder}/theirs/net.py:"),
        ("theirs.net:strange", "theirs.net:strange: Strange: of no usual kind ({folder}/theirs/net.py:"),
        ("theirs.broken:make", "theirs.broken:make: SyntaxError: invalid syntax ({folder}/theirs/broken.py:1)"),
        ("theirs.net:Fails", "RuntimeError: cannot run at all ({folder}/theirs/net.py:{line})"),
        ("theirs.net:Tuple", "theirs.net:Tuple: returns a tuple; it must return logits"),
        ("theirs.net:Ragged", "theirs.net:Ragged: returns a list; it must return logits"),
        ("theirs.net:silent", "populations of SpikingJelly's neurons fire, the build has"),
        ("theirs.net:FramesOfAnother", "populations of SpikingJelly's neurons fire, the build has"),
        ("theirs.net:other", "does not fit theirs.net:other: classifier.bias missing in the file; classifier.weight ("),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    tiny: Tiny, folder: Path, code: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(tiny, code) == 1
    error = capsys.readouterr().err
    marker = code.rpartition(":")[2].lower()
    lines = [number for number, text in enumerate(CODE.splitlines(), 1) if text.endswith(f"# {marker}")]
    assert words.format(folder=folder, line=lines[0] if lines else "") in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("code", ["theirs.net", "theirs/net.py:make", ":make", "theirs.net:"])
def test_what_names_no_function_is_wrong_usage(tiny: Tiny, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(tiny, code) == 2
    assert "package.module:function" in capsys.readouterr().err


def test_weights_must_be_given(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny.build), "--input", str(tiny.images), "--model-code", "theirs.net:make"]
    assert verify_main(command) == 2
    assert "--model-code: needs the weights" in capsys.readouterr().err


def test_the_help_says_that_code_is_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_main(["--help"]) == 0
    assert "only code that you trust" in " ".join(capsys.readouterr().out.split())


def test_the_build_of_a_module_has_its_class_on_the_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    module = calibrated(AttentiveNet("as the authors do"), images)
    resformer.compile(module, images, "sim", output=folder / "build")
    torch.save({"state_dict": module.state_dict()}, folder / "weights.pt")
    np.save(folder / "images.npy", images.numpy())
    code = "from support.attention import AttentiveNet\ndef make():\n    return AttentiveNet('as the authors do')\n"
    (folder / "theirs" / "attention.py").write_text(code)
    command = [str(folder / "build"), "--input", "images.npy", "--backend", "sim", "--json", "r.json"]
    assert verify_main([*command, "--model", "weights.pt", "--model-code", "theirs.attention:make"]) == 0
    found = read_json(folder / "r.json")
    assert (found["checks"][E1]["mismatched"], found["model_is_source"]) == (0, None)
    assert found["checks"][E1]["compared"] > 0
    assert "the build's file" in found["checks"][E1]["note"]
