"""Attention over pooled paths: against the formula path by path, numerical differences and the twins."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.utils import softmax

from framework.errors import InputError
from framework.kernels import native
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.path_pool import path_attention, path_attention_weights, places


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Paths of one length, and how many sources they lead over."""

    offsets: Tensor
    nodes: Tensor
    num_sources: int

    @property
    def centres(self) -> Tensor:
        return row_of_entries(self.offsets, len(self.nodes))


def table(seed: int, centres: int, sources: int, paths: int, steps: int, dtype: torch.dtype = torch.int32) -> Table:
    """Paths with a hub among the centres and one among the sources; some centres have none, some paths stay."""
    generator = torch.Generator().manual_seed(seed)
    owners = (torch.rand(paths, generator=generator) ** 3 * centres * 0.9).long().sort().values
    nodes = (torch.rand(paths, steps, generator=generator) ** 2 * sources * 0.9).long()
    nodes[::7] = owners[::7, None].clamp(max=max(0, sources - 1))
    counts = torch.bincount(owners, minlength=centres)
    return Table(offsets=offsets(counts), nodes=nodes.to(dtype), num_sources=sources)


TABLES = {
    "one step": lambda: table(0, 7, 9, 30, 1),
    "two steps": lambda: table(1, 60, 60, 400, 2),
    "three steps": lambda: table(2, 20, 300, 200, 3, torch.int64),
    "four steps": lambda: table(3, 300, 200, 150, 4),
    "threads": lambda: table(4, 500, 700, 10_000, 2),
    "no paths": lambda: table(0, 5, 4, 0, 2),
    "no centres": lambda: table(0, 0, 3, 0, 3),
    "nothing": lambda: table(0, 0, 0, 0, 2),
}
SHAPES = [(1, 16), (1, 67), (3, 5), (8, 8), (2, 1)]
both_poolings = pytest.mark.parametrize("pooling", ["mean", "max"])


@pytest.fixture(params=list(TABLES))
def paths(request: pytest.FixtureRequest) -> Table:
    return TABLES[request.param]()


def operands(paths: Table, heads: int, width: int, dtype: torch.dtype = torch.float64, *, spread: float = 1.0):
    generator = torch.Generator().manual_seed(heads * 100 + width)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator).mul_(spread).requires_grad_()

    inputs = draw(paths.num_sources, heads, width), draw(heads, width), draw(len(paths.offsets) - 1, heads)
    scale = (torch.rand(len(paths.nodes), heads, generator=generator) > 0.4).to(dtype) / 0.6
    return inputs, scale


def attend(
    paths: Table, values: Tensor, vector: Tensor, centre_scores: Tensor, *, pooling: str, call=path_attention, **more
):
    """The kernel under test, by the vector that scores a pooled row."""
    vectors = {"mean": None, "max": vector}
    source_scores = (values * vector).sum(2)
    return call(paths.offsets, paths.nodes, values, source_scores, centre_scores, path_vector=vectors[pooling], **more)


def plain(paths: Table, values: Tensor, vector: Tensor, centre_scores: Tensor, scale: Tensor, pooling: str):
    """The formula with every pooled row held. Values of two nodes are never equal; those of one node met twice are."""
    rows, steps = paths.centres, values[paths.nodes.long()]
    pooled = steps.mean(1) if pooling == "mean" else steps.amax(1)
    scores = torch.nn.functional.leaky_relu((pooled * vector).sum(2) + centre_scores[rows], 0.2)
    weights = softmax(scores, rows, num_nodes=len(centre_scores))
    out = values.new_zeros(len(centre_scores), *values.shape[1:])
    return out.index_add(0, rows, (weights * scale)[:, :, None] * pooled), weights


@pytest.mark.parametrize(("heads", "width"), SHAPES)
@both_poolings
def test_values_and_gradients_equal_plain_torch(backend: str, paths: Table, heads: int, width: int, pooling) -> None:
    inputs, scale = operands(paths, heads, width)
    back = places(paths.offsets, paths.nodes, paths.num_sources) if heads > 1 else None
    out = attend(paths, *inputs, pooling=pooling, path_scale=scale if heads > 1 else None, transposed=back)
    expected, weights = plain(paths, *inputs, scale if heads > 1 else torch.ones_like(scale), pooling)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
    found = attend(paths, *inputs, pooling=pooling, call=path_attention_weights)
    torch.testing.assert_close(found, weights.detach(), rtol=1e-11, atol=1e-11)
    factor = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, factor)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, inputs, factor), rtol=1e-9, atol=1e-10)


@both_poolings
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_gradients_pass_gradcheck(backend: str, pooling, steps: int) -> None:
    paths = table(5, 4, 6, 7, steps)
    inputs, scale = operands(paths, 2, 3)
    assert torch.autograd.gradcheck(
        lambda *given: attend(paths, *given, pooling=pooling, negative_slope=0.3, path_scale=scale),
        inputs,
    )


def test_of_equal_maxima_the_first_along_the_path_gets_the_gradient(backend: str) -> None:
    values = torch.tensor([1.0, 2.0, 2.0, 2.0], dtype=torch.float64).view(4, 1, 1).requires_grad_()
    nodes = torch.tensor([[0, 2, 1], [3, 1, 3]], dtype=torch.int32)
    paths = Table(offsets=torch.tensor([0, 1, 2]), nodes=nodes, num_sources=4)
    out = attend(paths, values, values.new_zeros(1, 1), values.new_zeros(2, 1), pooling="max")
    assert out.flatten().tolist() == [2.0, 2.0]
    out.sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


@both_poolings
def test_large_scores_do_not_overflow(backend: str, pooling) -> None:
    paths = TABLES["two steps"]()
    inputs, _ = operands(paths, 2, 4, spread=2000.0)
    out = attend(paths, *inputs, pooling=pooling)
    out.sum().backward()
    for tensor in (out, *(given.grad for given in inputs)):
        assert bool(tensor.isfinite().all())


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that comes to be."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        made = function(*arguments, **(named or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            self.numbers = max(self.numbers, each.numel() if isinstance(each, Tensor) else 0)
        return made


@both_poolings
def test_nothing_is_held_for_a_path_and_a_column(monkeypatch: pytest.MonkeyPatch, pooling) -> None:
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    if not native.available():
        pytest.skip("no compiled kernels here")
    paths = TABLES["threads"]()
    inputs, scale = operands(paths, 4, 32)
    with Largest() as largest:
        attend(paths, *inputs, pooling=pooling, path_scale=scale).sum().backward()
    rows, table = paths.num_sources * 4 * 32, len(paths.nodes) * max(4, 2)
    assert largest.numbers == max(rows, table) < len(paths.nodes) * 4 * 32 / 7


@both_poolings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_threads_changes_nothing(paths: Table, pooling, dtype: torch.dtype) -> None:
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs, scale = operands(paths, 2, 20, dtype)
        out = attend(paths, *inputs, pooling=pooling, path_scale=scale)
        results.append((out, *torch.autograd.grad(out.sum(), inputs)))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_wrong_shapes_are_refused() -> None:
    paths = TABLES["two steps"]()
    (values, vector, scores), scale = operands(paths, 2, 4)
    with pytest.raises(InputError, match=r"centre_scores is float64 \[59, 2\]; expected shape \[60, 2\]"):
        attend(paths, values, vector, scores[1:], pooling="mean")
    with pytest.raises(InputError, match=r"source_scores is float64 \[60, 3\]; expected shape \[60, 2\]"):
        path_attention(paths.offsets, paths.nodes, values, values.new_zeros(60, 3), scores)
    with pytest.raises(InputError, match="path_vector is float32"):
        attend(paths, values, vector.float(), scores, pooling="max")
    with pytest.raises(InputError, match="path_scale is float32"):
        attend(paths, values, vector, scores, pooling="mean", path_scale=scale.float())
    with pytest.raises(InputError, match="nodes holds"):
        attend(dataclasses.replace(paths, nodes=paths.nodes + 60), values, vector, scores, pooling="mean")
    with pytest.raises(InputError, match=r"expected \[paths, steps\]"):
        attend(dataclasses.replace(paths, nodes=paths.nodes[:, :0]), values, vector, scores, pooling="mean")
