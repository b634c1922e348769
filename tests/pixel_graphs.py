"""Images as graphs of pixels, and the spatial convolution that convolves them with given masks."""

import torch
from torch import Tensor

from framework.models.geo_gcn import GeometricConv


def pixels(height: int, width: int, reach: int) -> tuple[Tensor, Tensor]:
    """Positions of pixels, and edges to each from its window."""
    positions = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    apart = (positions[:, None] - positions).abs().amax(2)
    target, source = torch.nonzero(apart <= reach, as_tuple=True)
    return positions.double(), torch.stack([source, target])


def imaging(masks: Tensor, bias: Tensor) -> GeometricConv:
    """The layer that convolves images with `masks` [out, columns, window, window].

    All filters have one direction, along which the pixels of a window lie apart; their biases let one pixel more of it
    through each. So the gates of the window are a triangular matrix, and some weights make any mask of them."""
    out, columns, window, _ = masks.shape
    layer = GeometricConv(columns, out, dimensions=2, filters=window**2).double()
    reach = window // 2
    along = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2).double() @ torch.tensor([window, 1.0]).double()
    biases = torch.cat([1 - along[:1], -along[:-1]])
    gates = torch.relu(along + biases[:, None])  # [filters, pixels of a window]
    weights = torch.linalg.solve(gates.t(), masks.flatten(2).movedim(2, 0).flatten(1))
    with torch.no_grad():
        layer.filters.copy_(torch.tensor([window, 1.0]).double()[:, None].expand(-1, columns))
        layer.biases.copy_(biases[:, None].expand(-1, columns))
        layer.linear.weight.copy_(weights.view(window**2, out, columns).movedim(1, 0).flatten(1))
        layer.linear.bias.copy_(bias)
    return layer
