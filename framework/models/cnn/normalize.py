"""Batch normalisation by the statistics of the global batch, wherever its images are.

Assumptions: a layer knows no workers. Whoever shares a batch out gives every layer a function that adds a tensor up
over them (`connect`); all of them call the layers in the same order, with any share of the batch, or none of it. Each
training step then costs a layer one message of 2 C + 1 numbers forward and one of 2 C backward.

Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift", ICML
2015. The backward pass is that of the whole batch: its sums, too, go over all workers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

AddUp = Callable[[Tensor], Tensor]
"""Replaces a tensor by its sum over all workers, the same bits on each, and returns it."""


def alone(tensor: Tensor) -> Tensor:
    """The sum over one worker."""
    return tensor


def connect(network: nn.Module, add_up: AddUp) -> None:
    """Lets every BatchNorm of a network take its statistics over all workers."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.add_up = add_up


class BatchNorm(nn.Module):
    """As nn.BatchNorm2d of the global batch, with its weights' and statistics' names."""

    running_mean: Tensor
    running_var: Tensor
    add_up: AddUp

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        """`momentum`: what a step counts for in the running statistics, which evaluation normalises by."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum, self.epsilon, self.add_up = momentum, epsilon, alone

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, height, width] -> the same; n may be 0."""
        if x.dtype == torch.bfloat16:  # sums of so many numbers need more digits
            return self.forward(x.float()).to(x.dtype)
        if not self.training:
            return _scaled(x, self.weight, self.bias, self.running_mean, self.running_var, self.epsilon)
        out, mean, variance, count = _Normalized.apply(x, self.weight, self.bias, self.add_up, self.epsilon)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(x.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(x.dtype), self.momentum)
        normalized: Tensor = out
        return normalized


class _Normalized(torch.autograd.Function):
    """Normalises by the statistics of all workers; gives them, too: mean, variance (biased) and count, float64."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, add_up: AddUp, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total, squares, count = add_up(_sums(x)).tensor_split([x.shape[1], 2 * x.shape[1]])
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        out = _scaled(x, weight, bias, mean.to(x.dtype), variance.to(x.dtype), epsilon)
        context.save_for_backward(x, weight, mean, (variance + epsilon).rsqrt(), count)
        context.add_up = add_up
        context.mark_non_differentiable(mean, variance, count)
        return out, mean, variance, count

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = context.saved_tensors
        mine = _gradient_sums(gradients[0], x, mean, inverse)  # of bias and weight: what the engine adds up itself
        of_bias, of_weight = context.add_up(mine.clone()) / count
        # x's gradient is a * (g - of_bias - normalized * of_weight), put as a * g + b * x + c.
        a = weight.double() * inverse
        b = -a * inverse * of_weight
        c = -a * of_bias - b * mean
        a, b, c = (factor.to(x.dtype)[:, None, None] for factor in (a, b, c))
        x_gradient = torch.addcmul(torch.addcmul(c, x, b), gradients[0], a)
        return x_gradient, mine[1].to(weight.dtype), mine[0].to(weight.dtype), None, None


def _scaled(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, epsilon, False)


def _sums(x: Tensor) -> Tensor:
    """Of a share: every channel's sum, its sum of squares, and how many numbers each has. float64 [2 C + 1].

    Made of the share's mean and variance, so that squares are summed about the mean; what is added to them is exact
    enough in float64 for any mean that float32 can tell from its neighbours."""
    channels = x.shape[1]
    sums = x.new_zeros(2 * channels + 1, dtype=torch.float64)
    count = x.numel() // channels
    if count:
        mean, variance = (figure.double() for figure in torch.batch_norm_update_stats(x, None, None, 0.0))
        sums[:channels] = mean * count
        sums[channels:-1] = (variance + mean.square()) * count
        sums[-1] = count
    return sums


def _gradient_sums(gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Of a share: every channel's sum of gradients, and of gradients times normalised numbers. float64 [2, C]."""
    if not x.numel():
        return mean.new_zeros(2, len(mean))
    _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        *(gradient, x, None, None, None, mean.to(x.dtype), inverse.to(x.dtype)),
        *(True, 0.0, [False, True, True]),
    )
    return torch.stack([of_bias, of_weight]).double()
