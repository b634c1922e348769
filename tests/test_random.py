"""The keyed generator: published vectors in torch, numbers and C++; keys, draws and shuffles."""

import pytest
import scipy.stats
import torch

from framework.kernels import native
from framework.random import Key, _rounds, bits, philox, shuffled, uniform

# Known answers of the Random123 library (kat_vectors, philox4x32 with 10 rounds): counter, key, draw.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "draw"), VECTORS)
def test_published_vectors(counter, key, draw):
    value = key[0] | key[1] << 32
    assert tuple(int(word) for word in philox(value, counter)) == draw
    assert _rounds(value, *counter) == draw
    if native.available():
        out = torch.empty(4, dtype=torch.int32)
        native.call("philox_words", value, torch.tensor(counter, dtype=torch.int64).to(torch.int32), 1, out)
        assert tuple(word & 0xFFFFFFFF for word in out.tolist()) == draw


def test_tensors_and_cpp_draw_the_same_bits():
    if not native.available():
        pytest.skip("no compiled kernels here")
    counters = torch.randint(0, 2**32, (1003, 4), generator=torch.Generator().manual_seed(0))
    expected = torch.stack(philox(0x123456789ABCDEF0, tuple(counters.T)), dim=1)
    out = torch.empty(1003, 4, dtype=torch.int32)
    native.call("philox_words", 0x123456789ABCDEF0, counters.to(torch.int32), 1003, out)
    assert torch.equal(out & 0xFFFFFFFF if out.dtype == torch.int64 else out.long() & 0xFFFFFFFF, expected)


def test_a_fold_is_the_documented_draw_and_folds_nest():
    key = Key.root(5)
    draw = philox(5, (7, 3, 0, 0x464F4C44))
    assert key.fold(7 + (3 << 32)).value == int(draw[0]) | int(draw[1]) << 32
    assert key.fold(1, 2, 3) == key.fold(1).fold(2, 3) == key.fold(1).fold(2).fold(3)
    assert key.fold() == key


def test_keys_of_different_purposes_differ():
    keys = {Key.root(seed).fold(epoch, step).value for seed in range(10) for epoch in range(10) for step in range(10)}
    assert len(keys) == 1000
    assert Key.root(-1) == Key.root(2**64 - 1)
    assert Key.root(0).fold(1, 2) != Key.root(0).fold(2, 1)


def test_draws_are_a_function_of_the_id():
    key, ids = Key.root(1), torch.tensor([0, 1, 2**32, 2**40 + 1, 2**62])
    whole = bits(key, ids)
    assert torch.equal(bits(key, ids.flip(0)), whole.flip(0))
    assert len(set(whole.tolist())) == 5
    assert bool((whole >= 0).all())
    assert not torch.equal(bits(key, ids, stream=1), whole)


def test_uniform_is_uniform():
    draws = uniform(Key.root(2), torch.arange(20_000))
    assert draws.dtype == torch.float64
    assert 0 <= float(draws.min()) < float(draws.max()) < 1
    assert scipy.stats.kstest(draws.numpy(), "uniform").pvalue > 1e-4


def test_a_shuffle_depends_on_the_set_alone():
    key, ids = Key.root(3), torch.randperm(500) * 3 + 2**33
    order = ids[shuffled(key, ids)]
    assert sorted(order.tolist()) == sorted(ids.tolist())
    assert torch.equal(order, ids.sort().values[shuffled(key, ids.sort().values)])
    assert not torch.equal(order, ids[shuffled(key.fold(1), ids)])
    assert shuffled(key, ids[:0]).shape == (0,)


def test_shuffles_are_uniform():
    positions = torch.stack([shuffled(Key.root(4).fold(i), torch.arange(5)) for i in range(2000)])
    for place in range(5):
        assert scipy.stats.chisquare(torch.bincount(positions[:, place], minlength=5)).pvalue > 1e-4


def test_draws_are_made_where_the_ids_are():
    """Numbers beside tensors go where these are: a graphics processor takes no words from main memory."""
    for stream in (0, 7):
        assert bits(Key.root(1), torch.arange(5, device="meta"), stream=stream).device.type == "meta"
