"""Test that fused operations equal the separate layers, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mrirecon.networks import RecurrentNet
from mrirecon.networks.complex_channels import apply_network
from mrirecon.networks.fused import convolve, inside, recur, widen
from mrirecon.networks.normalise import InstanceNorm


def plain(net, x, hidden):
    """The same network from torch's own layers: padding by repetition, convolution, ReLU, recurrence."""
    states = []
    for layer, h in zip(net.layers, hidden, strict=True):
        conv = layer.convs.conv_layer
        reach = layer.convs.dilation * (conv.kernel_size[0] // 2)
        padded = F.pad(x, (reach,) * 4, "replicate")
        x = layer.rnn.update(F.relu(F.conv2d(padded, conv.weight, conv.bias, dilation=layer.convs.dilation)), h)
        states.append(x)
    last = net.final_layer[0].conv_layer
    return F.conv2d(F.pad(x, (1,) * 4, "replicate"), last.weight), states


@pytest.mark.parametrize("shape", [(2, 4, 9, 7), (1, 4, 3, 12)])
@pytest.mark.parametrize(("cell", "kernel"), [("indrnn", 1), ("indrnn", 3), ("gru", 1), ("mgu", 3)])
def test_a_network_with_halos_is_the_network_with_padding(cell, kernel, shape):
    torch.manual_seed(1)
    net = RecurrentNet(4, 2, 5, cell, kernel).double()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found, wanted, hidden = [], [], net.start(x)
    shown, states = x, [inside(h, net.halo) for h in hidden]
    for _ in range(3):  # gradients go through hidden states as well
        update, hidden = net(shown, hidden)
        found.append(update)
        shown = torch.cat([update, x[:, 2:]], 1)
    shown = x
    for _ in range(3):
        update, states = plain(net, shown, states)
        wanted.append(update)
        shown = torch.cat([update, x[:, 2:]], 1)
    probe = torch.randn(3, *update.shape, dtype=torch.float64)
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted))
    for h, state in zip(hidden, states, strict=True):
        torch.testing.assert_close(inside(h, net.halo), state)
        torch.testing.assert_close(h, F.pad(state, (net.halo,) * 4, "replicate"))
    inputs = [x, *net.parameters()]
    ours = torch.autograd.grad((torch.stack(found) * probe).sum(), inputs)
    theirs = torch.autograd.grad((torch.stack(wanted) * probe).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_those_of_the_difference_quotient():
    torch.manual_seed(2)
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, h, u, bias = draw(1, 3, 4, 5), draw(1, 3, 8, 9), draw(1, 3, 1, 1), draw(3)
    kernel, mix = draw(3, 3, 3, 3), draw(3, 3, 1, 1)

    def layers(x, h, kernel, mix, bias, u):
        wide = convolve(widen(x, 2), kernel, bias, 2, True)
        return recur(wide, h, mix, bias, u, 2)

    assert torch.autograd.gradcheck(layers, (x, h, kernel, mix, bias, u))


def test_bfloat16_is_near_float32_and_its_gradients_arrive_in_float32():
    torch.manual_seed(3)
    net = RecurrentNet(4, 2, 16)
    x = torch.randn(1, 4, 40, 36)
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        seen, total = x.to(dtype), 0.0
        hidden = net.start(seen)
        for _ in range(4):
            update, hidden = apply_network(net, seen, hidden)
            total = total + update.float()
        assert update.dtype == hidden[0].dtype == dtype
        gradients = torch.autograd.grad(total.square().mean(), list(net.parameters()))
        assert all(g.dtype == torch.float32 for g in gradients)
        results[dtype] = [total.detach(), *gradients]
    for exact, rounded in zip(*results.values(), strict=True):
        gap = float((rounded - exact).norm() / exact.norm())
        assert 0 < gap < 0.06


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalisation_is_torchs_and_channels_stay_last(layout):
    torch.manual_seed(4)
    x = (torch.randn(2, 3, 6, 5, dtype=torch.float64) * 2 + 1).contiguous(memory_format=layout).requires_grad_()
    norm, probe = InstanceNorm(0.2), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    found, wanted = norm(x), F.leaky_relu(F.instance_norm(x, eps=1e-5), 0.2)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)
    ours, theirs = (torch.autograd.grad((y * probe).sum(), x)[0] for y in (found, wanted))
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(norm, x)
    exact = norm(x.detach().float())
    half = norm(x.detach().bfloat16()).float()
    assert (exact - found).abs().max() < 1e-5
    assert (half - exact).abs().max() < 0.03
    with pytest.raises(ValueError, match="one pixel"):
        norm(x[..., :1, :1])
