"""Rows of few bits: same bytes in both implementations, unbiased, inside the grid, of the size that is promised."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels.quantize import BITS, HEADER, dequantize, quantize, row_bytes
from framework.random import Key, philox

KEY = Key.root(5).fold(2)
IDS = torch.tensor([0, 1, 2**31, 2**32, 2**40 + 7, 2**62 - 1, 5, 6, 7])


def same(bits: int, rows: int) -> Tensor:
    """As many bits for every row."""
    return torch.full((rows,), bits, dtype=torch.uint8)


def awkward(width: int, dtype: torch.dtype) -> Tensor:
    """Nine rows: ordinary, constant, zero, tiny, huge, shifted, of one spike, of both zeros, of minus zero."""
    x = torch.randn(len(IDS), width, dtype=dtype, generator=torch.Generator().manual_seed(width))
    x[1], x[2] = 0.1, 0
    x[3] *= 1e-37
    x[4] *= 1e36
    x[5] = x[5] * 1e-3 + 1000
    x[6, 1:] = 0
    x[7] = torch.where(x[7] > 0, 0.0, -0.0)
    x[8] = -0.0
    return x


def round_trip(x: Tensor, bits: int, key: Key = KEY, ids: Tensor | None = None) -> Tensor:
    ids = torch.arange(len(x)) if ids is None else ids
    return dequantize(quantize(x, same(bits, len(x)), key, ids), same(bits, len(x)), x.shape[1], x.dtype)


def steps(x: Tensor, bits: int) -> Tensor:
    """At most so far are two points of a row's grid from each other: [n, 1]."""
    span = x.amax(1) - x.amin(1) + x.abs().amax(1) * 2**-7
    return (span / (2**bits - 1) * (1 + 2**-7)).clamp(min=2.0**-120)[:, None]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [0, 1, 3, 8, 63, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_give_the_same_bytes_and_values(bits, width, dtype, monkeypatch):
    x, wide = awkward(width, dtype), same(bits, len(IDS))
    answers = []
    for backend in ("native", "torch"):
        monkeypatch.setenv("SHARDYARD_KERNELS", backend)
        message = quantize(x, wide, KEY, IDS)
        answers.append((message, dequantize(message, wide, width, dtype)))
    (ours, decoded), (theirs, expected) = answers
    assert torch.equal(ours, theirs)
    assert torch.equal(decoded, expected)
    assert decoded.shape == x.shape


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_becomes_one_of_its_two_neighbours_on_the_grid(backend, bits, dtype):
    x = awkward(70, dtype)
    assert bool(((round_trip(x, bits, ids=IDS) - x).abs() <= steps(x, bits)).all())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_mean_over_keys_is_the_row(backend, bits):
    x = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[1] += 20
    ids = torch.arange(4000)
    for row in x:  # 4000 ids draw as independently as 4000 keys
        decoded = round_trip(row.expand(4000, -1).contiguous(), bits, ids=ids)
        spread = float(steps(row[None], bits)) / 2 / math.sqrt(4000)
        assert bool(((decoded.mean(0) - row).abs() < 5 * spread).all())
    many = torch.stack([round_trip(x, bits, Key.root(seed)) for seed in range(600)])
    assert bool(((many.mean(0) - x).abs() < 5 * steps(x, bits) / 2 / math.sqrt(600)).all())


def test_a_value_is_rounded_by_its_documented_draw(backend):
    x = torch.tensor([[0.0, 0.25, 0.5, 0.75, 0.125, 1.0]], dtype=torch.float64).expand(len(IDS), -1)
    decoded = round_trip(x.contiguous(), 1, ids=IDS)
    for row, node in enumerate(IDS.tolist()):
        for column in range(6):
            draw = int(philox(KEY.value, (column // 4, node & 0xFFFFFFFF, node >> 32, 1))[column % 4])
            assert float(decoded[row, column]) == float((draw >> 1) / 2**31 < float(x[row, column]))


def test_points_of_the_grid_are_kept(backend):
    codes = torch.randint(0, 256, (20, 64), generator=torch.Generator().manual_seed(2))
    codes[:, 0], codes[:, 1] = 0, 255
    x = codes.float() * 0.25 - 8
    assert torch.equal(round_trip(x, 8), x)
    constant = torch.tensor([0.0, 1.0, -3.5, 2.0**60])[:, None].expand(-1, 33).contiguous()
    for bits in BITS:
        assert torch.equal(round_trip(constant, bits), constant)


def test_draws_of_neighbouring_columns_and_rows_are_independent(backend):
    x = torch.full((400, 130), 0.5)
    x[:, 0], x[:, 1] = 0, 1
    ones = round_trip(x, 1)[:, 2:] == 1
    for pair in ((ones[:, 1:], ones[:, :-1]), (ones[1:], ones[:-1])):
        agree = int((pair[0] == pair[1]).sum())
        assert scipy.stats.binomtest(agree, pair[0].numel()).pvalue > 1e-4


def test_rounding_follows_the_ids_and_the_key_alone(backend):
    x, ids = torch.randn(300, 37), torch.arange(300) * 2**20
    whole = round_trip(x, 4, ids=ids)
    some = torch.randperm(300)[:100]
    assert torch.equal(round_trip(x[some], 4, ids=ids[some]), whole[some])
    assert not torch.equal(round_trip(x, 4, KEY.fold(1), ids=ids), whole)


def test_rows_may_have_different_bits(backend):
    x, ids = torch.randn(200, 21), torch.arange(200)
    bits = torch.tensor(BITS, dtype=torch.uint8)[torch.arange(200) * 7 % 5]
    message = quantize(x, bits, KEY, ids)
    assert len(message) == int(row_bytes(bits, 21).sum())
    decoded = dequantize(message, bits, 21, x.dtype)
    for width in BITS:
        chosen = bits == width
        assert torch.equal(decoded[chosen], round_trip(x[chosen], width, ids=ids[chosen]))


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_has_a_message_of_its_headers(backend, rows):
    message = quantize(torch.empty(rows, 0), same(8, rows), KEY, torch.arange(rows))
    assert len(message) == HEADER * rows
    assert dequantize(message, same(8, rows), 0, torch.float32).shape == (rows, 0)
    assert len(quantize(torch.empty(0, 9), same(1, 0), KEY, torch.arange(0))) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("column", [0, 17, 69])
def test_a_value_that_is_no_number_is_not_hidden(backend, value, column):
    x = torch.randn(3, 70)
    x[1, column] = value
    decoded = round_trip(x, 8)
    assert bool(decoded[1].isnan().all())
    assert bool(decoded[::2].isfinite().all())


@pytest.mark.parametrize(("bits", "width", "least"), [(8, 64, 3.6), (8, 128, 3.6), (4, 64, 6.5), (4, 128, 6.5)])
def test_a_message_is_as_much_smaller_as_promised(bits, width, least):
    message = quantize(torch.randn(10, width), same(bits, 10), KEY, torch.arange(10))
    assert 10 * width * 4 / len(message) >= least


def test_the_number_of_threads_changes_nothing():
    x, ids, bits = torch.randn(3000, 100), torch.randint(0, 2**40, (3000,)), same(4, 3000)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        message = quantize(x, bits, KEY, ids)
        results.append((message, dequantize(message, bits, 100, x.dtype)))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_does_not_fit_is_refused(backend):
    x, ids = torch.randn(3, 4), torch.arange(3)
    with pytest.raises(InputError, match="expected 1, 2, 4, 8 or 16"):
        quantize(x, same(3, 3), KEY, ids)
    with pytest.raises(InputError, match=r"expected uint8 \[3\]"):
        quantize(x, same(8, 2), KEY, ids)
    with pytest.raises(InputError, match=r"expected uint8 \[24\]"):
        dequantize(torch.zeros(23, dtype=torch.uint8), same(8, 3), 4, torch.float32)
    with pytest.raises(InputError, match=r"dtype is torch.float16; expected torch.float32 or torch.float64"):
        dequantize(torch.zeros(24, dtype=torch.uint8), same(8, 3), 4, torch.float16)
