"""The dictionary step: raw ids, of any int64 or text, to the dense original ids and back.

Assumptions: the ids of all nodes fit in memory, twice. Another process reads a dictionary from its folder, mapped. In
files that do not say whether their ids are numbers (CSV, TSV), they are where every single one is written as an int64
number is: `007` makes all of them text, so that it is not taken for `7`.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as csv
from numpy.typing import NDArray

from framework.errors import InputError
from framework.graph.edges import Ids

UNKNOWN = -1
"""What `lookup` answers for an id that no node has."""
BLANKS = csv.ConvertOptions().null_values
"""How CSV and TSV say that there is no number."""
_SPACES = " \t"  # may stand around a number


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dictionary:
    """Sorted raw ids, and which original id each stands for."""

    keys: NDArray[Any]
    """Raw ids, sorted, each once: int64 [N] or text [N]."""
    originals: Ids
    """The original id of each: int64 [N]."""

    @classmethod
    def of(cls, ids: NDArray[Any], where: str) -> "Dictionary":
        """Original id i stands for `ids[i]`. `where` they are from, for an error. Raises InputError for an id twice."""
        order = np.argsort(ids, kind="stable")
        keys = ids[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            raise InputError(f"{where} has the id {keys[twice[0]]} more than once; expected every node once.")
        return cls(keys=keys, originals=order.astype(np.int64))

    def lookup(self, ids: NDArray[Any]) -> Ids:
        """Raw ids to original ones, UNKNOWN where there is none. [n] -> int64 [n]."""
        if not len(self.keys) or (self.keys.dtype.kind == "U") != (ids.dtype.kind == "U"):
            return np.full(len(ids), UNKNOWN, np.int64)
        places = np.minimum(np.searchsorted(self.keys, ids), len(self.keys) - 1)
        return np.where(self.keys[places] == ids, self.originals[places], UNKNOWN)

    def save(self, folder: Path) -> None:
        """Writes the dictionary into `folder`, for `load`."""
        np.save(folder / "keys.npy", self.keys)
        np.save(folder / "originals.npy", self.originals)

    @classmethod
    def load(cls, folder: Path) -> "Dictionary":
        """The dictionary that was saved in `folder`, mapped."""
        keys, originals = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("keys", "originals"))
        return cls(keys=keys, originals=originals)


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of a type holds text, however it is laid out."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def raw_ids(column: pa.Array, where: str) -> NDArray[Any]:
    """A column of ids as int64 or text. Raises InputError for another type, a too large number, a missing value."""
    if column.null_count:
        raise blank_ids(where, column.null_count)
    if pa.types.is_integer(column.type):
        try:
            numbers: NDArray[Any] = column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise InputError(f"{where} has ids over 2**63 - 1; expected int64 numbers or text.") from error
        return numbers
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type):
        return np.asarray(column.to_pylist(), dtype=np.str_)
    raise InputError(f"{where} has ids of type {column.type}; expected int64 numbers or text.")


def whole_numbers_of(texts: pa.Array) -> pa.Array:
    """Texts that are written as int64 numbers are, `-5` or `70` but not `07`, as such; null for all others."""
    with contextlib.suppress(pa.ArrowInvalid):
        numbers = texts.cast(pa.int64())
        if numbers.cast(texts.type).equals(texts):  # nearly always, and much faster than what follows
            return numbers
    trimmed = compute.utf8_trim(texts, _SPACES)
    spelled = compute.match_substring_regex(trimmed, r"^(?:0|-?[1-9][0-9]{0,18})$")
    limits = np.iinfo(np.int64)
    limit = compute.if_else(compute.starts_with(trimmed, "-"), str(limits.min), str(limits.max))
    shorter = compute.less(compute.binary_length(trimmed), compute.binary_length(limit))
    fits = compute.or_(shorter, compute.less_equal(trimmed, limit))  # of as many digits, text is ordered as numbers are
    return compute.if_else(compute.and_(spelled, fits), trimmed, None).cast(pa.int64())


def is_blank(texts: pa.Array) -> pa.Array:
    """Which of some texts say that there is no number."""
    return compute.is_in(texts, pa.array(BLANKS, texts.type))


def all_numbers(pieces: Iterable[pa.Array], where: str) -> NDArray[np.int64] | None:
    """Texts as int64 numbers, [n]; None where one is text, and so all are. Raises InputError for numbers and blanks."""
    numbers, blanks = [], 0
    for texts in pieces:
        found = whole_numbers_of(texts)
        blank = is_blank(texts)
        if not compute.all(compute.or_(found.is_valid(), blank), min_count=0).as_py():
            return None
        numbers.append(found.to_numpy(zero_copy_only=False))
        blanks += compute.sum(blank, min_count=0).as_py()
    if blanks:
        raise blank_ids(where, blanks)
    return np.concatenate(numbers) if numbers else np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FoundIds:
    """The different ids of files, before it is known whether they are numbers."""

    numbers: NDArray[np.int64]
    """Those that are numbers, or are to the letter what a number is written as: int64 [n], sorted."""
    texts: NDArray[Any]
    """All others, numbers with spaces around them included: text [m], sorted."""
    of_numbers: str = ""
    """A file whose ids can be nothing but numbers, if there is one."""
    of_text: str = ""
    """A file whose ids can be nothing but text, and one of them."""
    with_blanks: str = ""
    """A file without types that lacks an id, if ids are numbers."""

    @classmethod
    def of(cls, column: pa.Array, where: str, *, typed: bool) -> "FoundIds":
        """Those of a column; `typed`: whether the file says of what type it is. Raises as `raw_ids`."""
        if typed:
            ids = np.unique(raw_ids(column, where))
            if ids.dtype.kind == "U":
                return cls(numbers=np.empty(0, np.int64), texts=ids, of_text=_text_in(where, ids[:1].tolist()))
            return cls(numbers=ids, texts=np.empty(0, np.str_), of_numbers=where)
        texts = column.unique()
        numbers = whole_numbers_of(texts)
        exact = compute.fill_null(compute.equal(numbers.cast(texts.type), texts), False)
        blank = is_blank(texts)
        words = compute.invert(compute.or_(numbers.is_valid(), blank))
        return cls(
            numbers=np.sort(numbers.filter(exact).to_numpy()),
            texts=np.unique(np.asarray(texts.filter(compute.invert(exact)).to_pylist(), np.str_)),
            of_text=_text_in(where, texts.filter(words)[:1].to_pylist()),
            with_blanks=where if compute.any(blank).as_py() else "",
        )

    def joined(self, other: "FoundIds") -> "FoundIds":
        """Those of both. Raises InputError where one can be numbers alone, and the other text."""
        both = FoundIds(
            numbers=_union(self.numbers, other.numbers),
            texts=_union(self.texts, other.texts),
            of_numbers=self.of_numbers or other.of_numbers,
            of_text=self.of_text or other.of_text,
            with_blanks=self.with_blanks or other.with_blanks,
        )
        if both.of_numbers and both.of_text:
            raise InputError(
                f"{both.of_text}, and {both.of_numbers} ids of another kind, numbers; expected all numbers, or all "
                "text. Save them alike, for instance as text in both."
            )
        return both

    def decided(self) -> NDArray[Any]:
        """All ids, sorted: numbers where all are, else text. Raises InputError for numbers of which some are blank."""
        if self.of_text:
            spelled = np.asarray(pa.array(self.numbers).cast(pa.string()).to_pylist(), np.str_)
            return _union(self.texts, spelled)
        if self.with_blanks:
            raise blank_ids(self.with_blanks)
        spaced = whole_numbers_of(pa.array(self.texts.tolist(), pa.string())).to_numpy()
        return np.union1d(self.numbers, spaced)


def _text_in(where: str, some: list[str]) -> str:
    return f"{where} has text as ids, such as '{some[0]}'" if some else ""


def _union(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """What is in either, sorted; what is empty has no say in the width of text."""
    return one if not len(other) else other if not len(one) else np.union1d(one, other)


def blank_ids(where: str, rows: int | None = None) -> InputError:
    """The error for rows without an id."""
    count = "" if rows is None else f"{rows} "
    return InputError(f"{where} has {count}rows without an id; expected one in every row.")
