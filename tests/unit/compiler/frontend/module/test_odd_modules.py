"""Modules that cannot be traced, or hold what has no lowering: one sentence each, with the place and the way out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, rnn, surrogate
from torch import nn

from resformer.compiler.frontend.module.importer import import_module, in_float64
from resformer.errors import InputError, UnsupportedError

FRAMES = torch.zeros(4, 2, 3, 5, 5)


class Odd(nn.Module):
    """Spikes of 4 x 3 x 3, what a test makes of them, and a classifier."""

    def __init__(self, does: Callable[[nn.Module, torch.Tensor], torch.Tensor], **more: nn.Module) -> None:
        super().__init__()
        self.conv, self.sn, self.fc = layer.Conv2d(3, 4, 3), neuron.LIFNode(), layer.Linear(36, 5)
        self.does = does
        for name, module in more.items():
            self.add_module(name, module)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.does(self, self.sn(self.conv(x)).flatten(2)))


class Heaviside(torch.autograd.Function):
    """A surrogate gradient of one's own."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return (x > 0.5).to(x)


def throws(_module: nn.Module, _x: torch.Tensor) -> torch.Tensor:
    raise ValueError("two lines\nof one's own")


ODD: dict[str, tuple[Odd, str]] = {
    "branch": (Odd(lambda m, x: x * 0 if x.sum() > 3 else x), "branches on, or takes a number from, values"),
    "item": (Odd(lambda m, x: x * float(x.max())), "branches on, or takes a number from, values"),
    "numpy": (Odd(lambda m, x: torch.from_numpy(np.sign(x.numpy()))), "computes with NumPy, .* use operations of PyT"),
    "autograd": (Odd(lambda m, x: Heaviside.apply(x)), "no lowering for gt; neurons that the code writes out"),
    "surrogate": (Odd(lambda m, x: surrogate.ATan()(x - 0.5)), "no lowering for ge; neurons that the code writes out"),
    "LSTM": (Odd(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(36, 36)), "^rnn: no lowering for a LSTM; use spiking neurons"),
    "SpikingLSTM": (
        Odd(lambda m, x: m.rnn(x)[0], rnn=rnn.SpikingLSTM(36, 36, 1)),
        "^rnn: no lowering for a SpikingLSTM",
    ),
    "attention": (Odd(lambda m, x: m.mha(x, x, x)[0], mha=nn.MultiheadAttention(36, 4)), "^mha: .* without softmax"),
    "LayerNorm": (Odd(lambda m, x: m.norm(x), norm=nn.LayerNorm(36)), "^norm: .*layer_norm; .* use a batch norm"),
    "softmax": (Odd(lambda m, x: x.softmax(-1)), "^softmax: .* write attention of spikes without softmax"),
    "GELU": (Odd(lambda m, x: m.act(x), act=nn.GELU()), "^act: no lowering for gelu; .* put an IFNode"),
    "dropout": (Odd(lambda m, x: F.dropout(x, 0.5, training=True)), "drops values at random; give dropout self.train"),
    "random": (Odd(lambda m, x: x * torch.rand_like(x)), "no lowering for rand_like; leave random numbers out"),
    "script": (Odd(lambda m, x: m.j(x), j=torch.jit.script(nn.ReLU())), "^j: is a scripted module"),
    "shapes of values": (
        Odd(lambda m, x: x.nonzero().double() @ torch.ones(3, 36).double()),
        "cannot be traced|nonzero",
    ),
    "index": (Odd(lambda m, x: x[:, :, torch.arange(35, -1, -1)]), "no lowering for index; .* as slices"),
    "not of counts": (Odd(lambda m, x: torch.logical_not(x + x)), "inverts add, which is no spike; invert what neur"),
    "bits of numbers": (Odd(lambda m, x: (~x.int()).to(x)), "inverts the bits of spikes that are int32; write 1 - sp"),
    "bytes": (Odd(lambda m, x: (x.byte() - x.byte()).to(x)), "^sub: computes in uint8, which wraps around; compute in"),
    "a byte less": (Odd(lambda m, x: (x.byte() - 1).to(x)), "computes in uint8, which wraps around"),
    "negative bytes": (Odd(lambda m, x: (-x.byte()).to(x)), "computes in uint8, which wraps around"),
    "many bytes": (Odd(lambda m, x: (x.byte() * 300).to(x)), "computes in uint8, which wraps around"),
    "bool of a mean": (
        Odd(lambda m, x: x.mean(0).bool().to(x)),
        "makes bool of sn, which is no spike; leave it a float",
    ),
    "half": (Odd(lambda m, x: (x * 0.3).half().to(x)), "makes float16 of .*, which is no spike; leave it float32"),
    "bfloat16": (Odd(lambda m, x: (x * 0.3).bfloat16().to(x)), "makes bfloat16 of .*; leave it float32"),
    "delay of samples": (
        Odd(lambda m, x: m.wait(x.transpose(0, 1)).transpose(0, 1), wait=layer.Delay(1)),
        r"^wait: delays \(N, T, ...\), so that .* other samples of the batch; give it \(T, N",
    ),
    "delay of all": (
        Odd(lambda m, x: m.wait(x.flatten(0, 1)).unflatten(0, x.shape[:2]), wait=layer.Delay(1)),
        r"^wait: delays \(T \* N, ...\), so that",
    ),
    "endless": (
        Odd(lambda m, x: m.out(x), out=neuron.LIFNode(v_threshold=float("inf"))),
        "^out: its threshold is infinite, so it never fires, and its membrane cannot be read out",
    ),
    "reset": (Odd(lambda m, x: m.out(x), out=neuron.LIFNode(v_reset=-float("inf"))), "^out: its reset is -inf"),
    "membrane": (Odd(lambda m, x: m.fc(m.sn.v)), "reads a membrane, and membranes cannot be read out; use what"),
    "membranes": (Odd(lambda m, x: m.sn.v_seq), "reads a membrane, and membranes cannot be read out; use what"),
    "throws": (Odd(throws), r"cannot be traced \(ValueError: two lines\); use"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_modules_are_refused_in_one_sentence(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    module, words = ODD[kind]
    with pytest.raises(UnsupportedError, match=words) as refusal:
        import_module(in_float64(module), FRAMES)
    said = str(refusal.value)
    assert "\n" not in said
    assert "; " in said
    assert not any(word in said.lower() for word in ("fake", "torch.export", "dynamo", "symint", "proxy"))
    assert capfd.readouterr() == ("", "")


def test_votes_divide_what_is_counted() -> None:
    module = nn.Sequential(layer.Linear(6, 7), neuron.LIFNode(), layer.VotingLayer(2))
    functional.set_step_mode(module, "m")
    with pytest.raises(UnsupportedError, match="7 values are no whole number of votes of 2; give it a multiple of 2"):
        import_module(in_float64(module), torch.rand(4, 2, 6))


def test_a_delay_of_one_step_is_not_given_all() -> None:
    module = Odd(lambda m, x: m.wait(x), wait=layer.Delay(1))
    module.wait.step_mode = "s"
    with pytest.raises(UnsupportedError, match=r"^wait: a delay in step mode 's' takes T steps as one; use step mode"):
        import_module(in_float64(module), FRAMES)


def test_an_example_of_other_steps_than_the_module_runs() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.sn = nn.Linear(6, 3), neuron.LIFNode()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.sn(self.fc(x[step])) for step in range(2)])

    with pytest.raises(InputError, match="example_input: has 4 steps, but the module runs 2; give an example of 2"):
        import_module(in_float64(Loop()), torch.rand(4, 2, 6))


class Returns(nn.Module):
    """A module that returns its logits inside another object."""

    def __init__(self, wrap: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.inner, self.wrap = Odd(lambda m, x: x), wrap

    def forward(self, x: torch.Tensor) -> object:
        return self.wrap(self.inner(x))


@pytest.mark.parametrize("wrap", [lambda y: {"logits": y}, lambda y: (y,), lambda y: (y, y), lambda _y: None])
def test_modules_return_one_tensor(wrap: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(UnsupportedError, match="Returns: returns something other than one tensor"):
        import_module(in_float64(Returns(wrap)), FRAMES)


def test_printing_code_is_run_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def says(_module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        print("shape", x.shape)  # noqa: T201
        return x

    assert import_module(in_float64(Odd(says)), FRAMES).graph.timesteps == 4
    assert capfd.readouterr() == ("", "")


def test_a_module_of_ones_own_may_bear_the_name_of_what_has_no_lowering() -> None:
    own = type("NeuNorm", (nn.Identity,), {})()
    found = import_module(in_float64(Odd(lambda m, x: m.own(x), own=own)), FRAMES)
    assert "sn" in {node.name for node in found.graph}
    theirs = Odd(lambda m, x: m.norm(x), norm=layer.NeuNorm(36, 1, 1))
    with pytest.raises(UnsupportedError, match=r"^norm: a NeuNorm keeps a state from step to step"):
        import_module(in_float64(theirs), FRAMES)
