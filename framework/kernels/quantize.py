"""Rows as numbers of a few bits and back, rounded at random so that their mean is what they were.

A row's values lie on a grid from its least to its greatest: `low + code * step`, codes of b bits. A value between two
points of the grid becomes one of them, the nearer one the more often, so that its expectation is the value: for one
bit as for sixteen. The draw is a function of a key, the row's id and the column, never of where the row is computed.

A message is bytes: of every row a header, low and step as bfloat16 (which has the range of float32: gradients are
small), and its codes, packed, the first column in the lowest bits. The lowest value is rounded down and the step up, so
that the grid still holds the row; that widens it by no more than 2**-7 of the row's greatest magnitude.
"""

import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels import check, native
from framework.kernels.csr import offsets
from framework.random import Key, philox

BITS = (1, 2, 4, 8, 16)
"""What a code may have."""
HEADER = 4
"""Bytes of a row's header."""
_LARGEST = 2.0**126
_SMALLEST = 2.0**-120
_DRAWN = {torch.float32: 24, torch.float64: 31}  # bits of a draw that the type holds and a signed number converts from


def row_bytes(bits: Tensor, columns: int) -> Tensor:
    """Bytes of the message of each row, given the bits of its codes: int64, the shape of `bits`."""
    return (bits.long() * columns + 7) // 8 + HEADER


def quantize(x: Tensor, bits: Tensor, key: Key, rows: Tensor) -> Tensor:
    """`x` float32 or float64 [n, c] as bytes, uint8 [sum of `row_bytes`], row after row.

    `bits` uint8 [n]: of each row's codes, 1, 2, 4, 8 or 16; `rows` int64 [n], the ids of the rows. Column c of row v
    is rounded by the high bits of word c % 4 of Philox(key, (c // 4, v low, v high, 1)). A row with a value that is no
    number, or beyond 2**126, reads as NaN. Raises InputError for other bits."""
    x = check.features("x", x, (None, None))
    rows = check.long("rows", rows, len(x))
    bits = _checked(bits, len(x))
    starts = offsets(row_bytes(bits, x.shape[1]))
    if native.usable(x, rows, bits):
        out = torch.empty(int(starts[-1]), dtype=torch.uint8, device="cpu")
        native.call(native.typed("quantize", x), x, rows, len(x), x.shape[1], bits, starts, key.value, out)
        return out
    out = torch.empty(int(starts[-1]), dtype=torch.uint8, device=x.device)
    for width in BITS:
        chosen = torch.nonzero(bits == width).squeeze(1)
        message = _quantized(x[chosen], width, key, rows[chosen])
        out[_places(starts, chosen, message.shape[1])] = message
    return out


def dequantize(message: Tensor, bits: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """The rows that `quantize` made a message of: `dtype` [n, columns].

    `bits` uint8 [n], as it was given; `dtype` float32 or float64. Raises InputError where the message has another
    length."""
    if dtype not in check.FEATURE_TYPES:
        raise InputError(f"dtype is {dtype}; expected torch.float32 or torch.float64.")
    bits = _checked(bits, len(bits))
    starts = offsets(row_bytes(bits, columns))
    if message.dtype != torch.uint8 or message.shape != (int(starts[-1]),):
        raise InputError(f"a message is {message.dtype} {list(message.shape)}; expected uint8 [{int(starts[-1])}].")
    out = torch.empty(len(bits), columns, dtype=dtype, device=message.device)
    if native.usable(message, bits):
        native.call(native.typed("dequantize", out), message.contiguous(), len(bits), columns, bits, starts, out)
        return out
    for width in BITS:
        chosen = torch.nonzero(bits == width).squeeze(1)
        size = int(row_bytes(torch.tensor(width), columns))
        out[chosen] = _restored(message[_places(starts, chosen, size)], width, columns, dtype)
    return out


def _checked(bits: Tensor, size: int) -> Tensor:
    if bits.dtype != torch.uint8 or bits.shape != (size,):
        raise InputError(f"bits is {bits.dtype} {list(bits.shape)}; expected uint8 [{size}].")
    if not bool(torch.isin(bits, torch.tensor(BITS, dtype=torch.uint8, device=bits.device)).all()):
        raise InputError(f"bits holds {sorted(set(bits.tolist()) - set(BITS))}; expected 1, 2, 4, 8 or 16.")
    return bits.contiguous()


def _places(starts: Tensor, chosen: Tensor, size: int) -> Tensor:
    """Where the bytes of some rows of one size are: int64 [rows, size]."""
    return starts[chosen][:, None] + torch.arange(size, device=starts.device)


def _quantized(x: Tensor, width: int, key: Key, rows: Tensor) -> Tensor:
    """Messages of rows that all have codes of `width` bits: uint8 [n, bytes]."""
    if x.numel() == 0:
        low = high = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    else:
        low, high = x.amin(1).double() + 0.0, x.amax(1).double()
    wild = ~((low >= -_LARGEST) & (high <= _LARGEST))
    lowest = _rounded_down(low)
    levels = 2**width - 1
    step = _rounded_up(((high - lowest) / levels).clamp(min=_SMALLEST))
    exact = (x - lowest.to(x.dtype)[:, None]) * step.to(x.dtype).reciprocal()[:, None]
    whole = exact.floor()
    draws = torch.stack(philox(key.value, (_blocks(x), rows[:, None], rows[:, None] >> 32, 1)), dim=-1)
    drawn = _DRAWN[x.dtype]
    shares = (draws.flatten(1)[:, : x.shape[1]] >> 32 - drawn).to(x.dtype) * 2.0**-drawn
    codes = (whole + (shares < exact - whole)).clamp(max=levels)
    codes = torch.where(wild[:, None], 0, codes).to(torch.int32)
    header = torch.stack([low.where(wild, lowest), step], dim=1).masked_fill(wild[:, None], torch.nan)
    return torch.cat([header.to(torch.bfloat16).view(torch.uint8), _packed(codes, width)], dim=1)


def _restored(message: Tensor, width: int, columns: int, dtype: torch.dtype) -> Tensor:
    header = _of_words(_unpacked(message[:, :HEADER], 16, 2) << 16).to(dtype)
    codes = _unpacked(message[:, HEADER:], width, columns).to(dtype)
    return header[:, :1] + codes * header[:, 1:]


def _blocks(x: Tensor) -> Tensor:
    """The counters that decide the columns of `x`, four columns each."""
    return torch.arange((x.shape[1] + 3) // 4, device=x.device)


def _rounded_down(values: Tensor) -> Tensor:
    """The nearest bfloat16 that is not above each of `values` (float64), as float64."""
    words = _truncated(values)
    away = torch.where(words < 0, 1 << 16, -(1 << 16))  # on words, a larger magnitude is a larger number
    return _of_words(torch.where(_of_words(words) > values, words + away, words))


def _rounded_up(values: Tensor) -> Tensor:
    """The nearest bfloat16 that is not below each of `values` (float64, positive), as float64."""
    words = _truncated(values)
    return _of_words(torch.where(_of_words(words) < values, words + (1 << 16), words))


def _truncated(values: Tensor) -> Tensor:
    """The bits of float32 with those that bfloat16 lacks cleared: int32."""
    return values.float().view(torch.int32) & -(1 << 16)


def _of_words(words: Tensor) -> Tensor:
    return words.to(torch.int32).view(torch.float32).double()


def _packed(codes: Tensor, width: int) -> Tensor:
    """Codes int32 [n, c] -> uint8 [n, ceil(c * width / 8)]."""
    if width == 16:
        return torch.stack([codes & 255, codes >> 8], dim=-1).flatten(1).to(torch.uint8)
    count = 8 // width
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % count))
    codes = codes.view(len(codes), codes.shape[1] // count, count)
    return (codes << _shifts(width, codes)).sum(-1).to(torch.uint8)


def _unpacked(packed: Tensor, width: int, columns: int) -> Tensor:
    """The inverse of `_packed`: int32 [n, columns]."""
    codes = packed.to(torch.int32)
    if width == 16:
        pairs = codes.reshape(len(codes), columns, 2)
        return pairs[..., 0] | pairs[..., 1] << 8
    return (codes[..., None] >> _shifts(width, codes) & (1 << width) - 1).flatten(1)[:, :columns]


def _shifts(width: int, like: Tensor) -> Tensor:
    return torch.arange(0, 8, width, dtype=torch.int32, device=like.device)
