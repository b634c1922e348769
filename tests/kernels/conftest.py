"""What the tests of the kernels share: both ways of computing, and matrices that are awkward in every known way."""

import dataclasses

import pytest
import torch
from torch import Tensor

from framework.kernels import native
from framework.kernels.csr import CSR, build_csr


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once on the C++ kernels and once on the torch twins."""
    if request.param == "native":
        monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
        if not native.available():
            pytest.skip("no compiled kernels here")
    else:
        monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    return str(request.param)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """An edge list and the matrix it makes."""

    targets: Tensor
    sources: Tensor
    num_targets: int
    num_sources: int
    matrix: CSR


def _case(targets: Tensor, sources: Tensor, num_targets: int, num_sources: int, dtype: torch.dtype) -> Case:
    sources = sources.to(dtype)
    matrix = build_csr(targets, sources, num_targets)
    return Case(targets=targets, sources=sources, num_targets=num_targets, num_sources=num_sources, matrix=matrix)


def _random(seed: int, num_targets: int, num_sources: int, num_edges: int, dtype: torch.dtype) -> Case:
    """Edges with a hub, duplicates, self-loops, rows and columns without entries."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(num_edges, generator=generator) ** 3 * num_targets * 0.9).long()
    sources = (torch.rand(num_edges, generator=generator) ** 2 * num_sources * 0.9).long()
    loops = torch.arange(min(num_targets, num_sources, num_edges) // 4)
    targets[: len(loops)], sources[: len(loops)] = loops, loops
    return _case(targets, sources, num_targets, num_sources, dtype)


_NONE = torch.empty(0, dtype=torch.int64)
_CASES = {
    "small": lambda: _random(0, 7, 9, 30, torch.int64),
    "square": lambda: _random(1, 60, 60, 400, torch.int32),
    "wide": lambda: _random(2, 20, 300, 500, torch.int32),
    "sparse": lambda: _random(3, 300, 200, 150, torch.int64),
    "threads": lambda: _random(4, 500, 700, 40_000, torch.int32),
    "no entries": lambda: _case(_NONE, _NONE, 5, 4, torch.int32),
    "no rows": lambda: _case(_NONE, _NONE, 0, 3, torch.int64),
    "nothing": lambda: _case(_NONE, _NONE, 0, 0, torch.int64),
}


@pytest.fixture(params=list(_CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the awkward matrices."""
    return _CASES[request.param]()


@pytest.fixture
def square() -> Case:
    """One matrix of moderate size, where one is enough."""
    return _CASES["square"]()
