"""Batch normalisation over workers: that of the whole batch in torch, however the batch is shared out."""

import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from framework.models.cnn.layers import Classifier, convolved
from framework.models.cnn.normalize import BatchNorm, connect

CHANNELS = 5


class Crew:
    """Workers in threads that add tensors up, each waiting for the others."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=30)
        self.given: list[Tensor | None] = [None] * size
        self.messages = 0

    def adding(self, rank: int) -> Callable[[Tensor], Tensor]:
        def add_up(tensor: Tensor) -> Tensor:
            self.given[rank] = tensor
            self.barrier.wait()
            total = torch.stack([one for one in self.given if one is not None]).sum(0)
            self.messages += rank == 0
            self.barrier.wait()
            return tensor.copy_(total)

        return add_up


def together(networks: Sequence[nn.Module], work: Callable[[int, nn.Module], None]) -> Crew:
    """`work(rank, network)` on each of several networks at once, their statistics added up."""
    crew = Crew(len(networks))
    threads = []
    for rank, network in enumerate(networks):
        connect(network, crew.adding(rank))
        threads.append(threading.Thread(target=work, args=(rank, network)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return crew


def rows(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def equal_weights(layer: BatchNorm, expected: nn.BatchNorm2d) -> None:
    with torch.no_grad():
        for one in (layer, expected):
            one.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
            one.bias.copy_(torch.linspace(-1, 1, CHANNELS))


@pytest.mark.parametrize("shares", [(6,), (4, 2), (3, 0, 3), (1, 5), (0, 6)])
def test_any_shares_are_the_whole_batch_in_torch(shares: tuple[int, ...]) -> None:
    """Outputs, running statistics and all gradients, over two steps and an evaluation."""
    expected = nn.BatchNorm2d(CHANNELS).double()
    layers = [BatchNorm(CHANNELS).double() for _ in shares]
    for layer in layers:
        equal_weights(layer, expected)
    for step in range(2):
        x = (2 * rows(6, CHANNELS, 4, 3, seed=step) + 10).requires_grad_()
        gradient = rows(6, CHANNELS, 4, 3, seed=10 + step)
        expected(x).backward(gradient)
        mine = [piece.detach().requires_grad_() for piece in x.split(shares)]
        gradients = gradient.split(shares)

        def work(
            rank: int, layer: nn.Module, mine: list[Tensor] = mine, gradients: tuple[Tensor, ...] = gradients
        ) -> None:
            layer(mine[rank]).backward(gradients[rank])

        crew = together(layers, work)
        assert crew.messages == 2
        torch.testing.assert_close(torch.cat([piece.grad for piece in mine]), x.grad, rtol=1e-10, atol=1e-12)
    for name in ("weight", "bias"):
        summed = sum(getattr(layer, name).grad for layer in layers)
        torch.testing.assert_close(summed, getattr(expected, name).grad, rtol=1e-10, atol=1e-12)
    for layer in layers:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(layer, name), getattr(expected, name), rtol=1e-12, atol=0)
            assert getattr(layer, name).equal(getattr(layers[0], name))
    x = rows(3, CHANNELS, 2, 2, seed=7)
    torch.testing.assert_close(layers[0].eval()(x), expected.eval()(x))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    layer, expected = BatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS).double()
    x = rows(8, CHANNELS, 6, 6) + 300
    torch.testing.assert_close(layer(x.float()), expected(x.float().double()).float(), rtol=1e-3, atol=1e-3)
    naive = x.float().square().mean((0, 2, 3)) - x.float().mean((0, 2, 3)).square()
    assert not torch.allclose(naive, x.var((0, 2, 3), correction=0).float(), rtol=1e-3)


def test_one_number_a_channel_leaves_statistics_finite() -> None:
    layer = BatchNorm(CHANNELS)
    out = layer(rows(1, CHANNELS, 1, 1, dtype=torch.float32))
    torch.testing.assert_close(out, torch.zeros(1, CHANNELS, 1, 1), rtol=0, atol=1e-4)
    assert layer.running_var.isfinite().all()


def test_a_network_of_two_workers_has_the_gradients_of_one() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return Classifier([convolved(2, 4), convolved(4, 6, stride=2), convolved(6, 4)], 4, 3).double()

    whole, parts = network(), [network(), network()]
    images, labels = rows(7, 2, 6, 5), torch.arange(7) % 3
    nn.functional.cross_entropy(whole(images), labels, reduction="sum").backward()

    def work(rank: int, part: nn.Module) -> None:
        nn.functional.cross_entropy(part(images[rank::2]), labels[rank::2], reduction="sum").backward()

    together(parts, work)
    for name, weight in whole.named_parameters():
        summed = sum(part.get_parameter(name).grad for part in parts)
        torch.testing.assert_close(summed, weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_formula(memory: torch.memory_format) -> None:
    layer = BatchNorm(3).double()
    x = rows(4, 3, 3, 2).contiguous(memory_format=memory).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x), (x,))
