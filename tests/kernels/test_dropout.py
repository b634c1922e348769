"""Keyed dropout: same bits in both implementations, at its rate, a function of key and id alone, with gradients."""

import pytest
import scipy.stats
import torch

from framework.errors import InputError
from framework.kernels.dropout import dropout, edge_dropout_scale, relu_dropout
from framework.random import Key, philox

KEY = Key.root(3).fold(9)
IDS = torch.tensor([0, 1, 2**31, 2**32, 2**40 + 7, 2**62 - 1, 5, 6, 7])


@pytest.mark.parametrize("width", [0, 1, 4, 63, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [dropout, relu_dropout])
def test_both_ways_drop_the_same(width, dtype, function, monkeypatch):
    x = torch.randn(len(IDS), width, dtype=dtype)
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = function(x, 0.3, KEY, IDS)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    assert torch.equal(ours, function(x, 0.3, KEY, IDS))


def test_an_element_is_decided_by_its_documented_draw(backend):
    out = dropout(torch.ones(len(IDS), 10), 0.25, KEY, IDS)
    for row, node in enumerate(IDS.tolist()):
        for column in range(10):
            draw = philox(KEY.value, (column // 4, node & 0xFFFFFFFF, node >> 32, 1))[column % 4]
            assert float(out[row, column]) == (0 if int(draw) < 2**30 else torch.tensor(1 / 0.75))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_rate_is_p_and_the_mean_is_kept(backend, p):
    out = dropout(torch.ones(500, 300), p, KEY, torch.arange(500))
    dropped = int((out == 0).sum())
    assert scipy.stats.binomtest(dropped, out.numel(), p).pvalue > 1e-4
    assert bool(((out == 0) | (out == torch.tensor(1 / (1 - p)))).all())


def test_the_mask_follows_the_ids(backend):
    x, ids = torch.randn(300, 37), torch.arange(300) * 2**20
    whole = dropout(x, 0.5, KEY, ids)
    some = torch.randperm(300)[:100]
    assert torch.equal(dropout(x[some], 0.5, KEY, ids[some]), whole[some])
    assert not torch.equal(dropout(x, 0.5, KEY.fold(1), ids), whole)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_relu_dropout_is_relu_then_dropout_with_its_gradient(backend, p):
    x = torch.randn(len(IDS), 70, requires_grad=True)
    factor = torch.randn(len(IDS), 70)
    fused, apart = relu_dropout(x, p, KEY, IDS), dropout(x.relu(), p, KEY, IDS)
    assert torch.equal(fused, apart)
    ours, theirs = (torch.autograd.grad(out, x, factor)[0] for out in (fused, apart))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_gradients_pass_gradcheck(backend):
    x = torch.randn(len(IDS), 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, KEY, IDS), (x,))
    assert torch.autograd.gradcheck(lambda x: relu_dropout(x, 0.4, KEY, IDS), (x,))


def test_no_dropout_returns_its_input():
    x = torch.randn(3, 2)
    assert dropout(x, 0.0, KEY, IDS[:3]) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_an_impossible_rate_is_refused(p):
    with pytest.raises(InputError, match="expected 0 <= p < 1"):
        dropout(torch.randn(3, 2), p, KEY, IDS[:3])


def test_a_value_that_is_no_number_is_not_hidden(backend):
    x = torch.full((50, 8), float("nan"))
    assert bool(relu_dropout(x, 0.5, KEY, torch.arange(50)).isnan().any())


@pytest.mark.parametrize("heads", [1, 4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_factors_are_the_same_in_both_ways_and_as_documented(heads, dtype, monkeypatch):
    targets, sources = IDS.repeat_interleave(len(IDS)), IDS.repeat(len(IDS))
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = edge_dropout_scale(targets, sources, heads, 0.25, KEY, dtype)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    assert torch.equal(ours, edge_dropout_scale(targets, sources, heads, 0.25, KEY, dtype))
    for edge, (t, s) in enumerate(zip(targets.tolist(), sources.tolist(), strict=True)):
        last = 2 + (((t >> 32) * 2**15 ^ (s >> 32)) % 2**30)
        for head in range(heads):
            draw = int(philox(KEY.value, (head // 4, t, s, last))[head % 4])
            assert float(ours[edge, head]) == (0 if draw < 2**30 else torch.tensor(1 / 0.75, dtype=dtype))


def test_edge_factors_have_their_rate_and_follow_the_edge(backend):
    targets, sources = torch.arange(40_000) % 200, torch.arange(40_000) // 200
    scale = edge_dropout_scale(targets, sources, 2, 0.3, KEY)
    assert scipy.stats.binomtest(int((scale == 0).sum()), scale.numel(), 0.3).pvalue > 1e-4
    some = torch.randperm(40_000)[:333]
    assert torch.equal(edge_dropout_scale(targets[some], sources[some], 2, 0.3, KEY), scale[some])
    assert edge_dropout_scale(targets[:0], sources[:0], 3, 0.3, KEY).shape == (0, 3)


def test_the_number_of_threads_changes_nothing():
    x, ids = torch.randn(3000, 100), torch.randint(0, 2**40, (3000,))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append((relu_dropout(x, 0.5, KEY, ids), edge_dropout_scale(ids, ids.flip(0), 5, 0.5, KEY)))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_twins_draw_where_the_rows_are():
    x, ids = torch.empty(3, 10, device="meta", requires_grad=True), torch.arange(3, device="meta")
    for function in (dropout, relu_dropout):
        out = function(x, 0.3, KEY, ids)
        assert out.device.type == "meta"
        out.sum().backward()
    assert edge_dropout_scale(ids, ids, 2, 0.3, KEY).device.type == "meta"


def test_what_is_no_number_passes_its_gradient_on(backend):
    x = torch.tensor([[float("nan"), 1.0, -1.0, 2.0]], requires_grad=True)
    relu_dropout(x, 0.0, KEY, torch.arange(1)).sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0, 0.0, 1.0]]
