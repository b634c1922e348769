"""METIS: multilevel k-way partitioning of the whole graph in memory.

Karypis, Kumar, "Multilevel algorithms for multi-constraint graph partitioning", SC 1998. Assumptions: the graph, made
symmetric and with duplicates merged into weights, fits in memory some ten times over. pymetis carries METIS, but its
Python function balances one weight only, so METIS's own function is called, which the same library exports.
"""

import contextlib
import ctypes
import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pymetis
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from framework.errors import InputError
from framework.graph.adjacency import open_adjacency
from framework.graph.edges import EdgeStream, Ids
from framework.partition import NodeParts
from framework.registry import PARTITIONERS

Constraint = Literal["nodes", "edges", "training"]

_OPTIONS, _OK = 40, 1  # METIS_NOPTIONS and METIS_OK of metis.h
_OBJECTIVES = {"cut": 0, "volume": 1}
_STDOUT = threading.Lock()


@PARTITIONERS.register("metis")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Metis:
    """Multilevel k-way, in memory: the best cuts, and balanced nodes, edges and training nodes at once."""

    balance: tuple[Constraint, ...] = ("nodes", "edges", "training")
    """What the parts have equally much of; training nodes only where the graph has weights."""
    objective: Literal["cut", "volume"] = "cut"
    """What is minimised: edges between parts, or rows that cross."""
    slack: float = 1.05
    """The load of a part over the mean that METIS is asked to keep below."""
    seed: int = 0
    """Of METIS's own generator."""
    in_memory: ClassVar[bool] = True
    """Holds all edges: its memory is not asked to stay the same as the stream grows."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes]. Raises InputError for a slack <= 1 or an unknown constraint."""
        unknown = set(self.balance) - {"nodes", "edges", "training"}
        if unknown or not self.balance or self.slack <= 1 or self.objective not in _OBJECTIVES:
            raise InputError(
                f"metis's balance is {self.balance}, objective '{self.objective}', slack {self.slack}; expected some "
                "of nodes, edges, training; cut or volume; more than 1."
            )
        if parts == 1 or graph.num_nodes <= parts:  # METIS divides by the nodes that a part has
            return np.arange(graph.num_nodes, dtype=np.int32) % parts
        with open_adjacency(graph, budget=_unlimited(graph)) as adjacency:
            weights = self._weights(graph, adjacency.edge_weights)
            window = next(adjacency.windows())
            entries = csr_matrix(
                (np.ones(len(window.neighbors), np.int32), window.neighbors, window.indptr),
                shape=(graph.num_nodes, graph.num_nodes),
            )
            entries.sum_duplicates()
            return self._call(entries, weights, parts)

    def _weights(self, graph: EdgeStream, edge_weights: Ids) -> list[Ids]:
        """The loads that each node brings, one array a constraint; those of which there are none left out."""
        loads = {"nodes": np.ones(graph.num_nodes, np.int64), "edges": edge_weights, "training": graph.node_weights}
        found = [load for name in self.balance if (load := loads[name]) is not None and load.any()]
        return found or [loads["nodes"]]  # type: ignore[list-item]  # that of the nodes is never None

    def _call(self, graph: csr_matrix, weights: list[Ids], parts: int) -> NodeParts:
        internal: Any = pymetis._internal  # pymetis declares only a part of it
        width: int = internal._idx_type_width()
        integer = np.int32 if width == 32 else np.int64
        most = 2 ** (width - 1) - 1
        if max(graph.nnz, *(int(load.sum()) for load in weights)) > most:
            raise InputError(f"metis takes at most {most} edges here; use a streaming partitioner (spinner, fennel).")
        library = ctypes.CDLL(internal.__file__)
        if not hasattr(library, "METIS_PartGraphKway"):
            raise InputError("this build of pymetis hides METIS's own functions; install one of its wheels from PyPI.")
        options = np.empty(_OPTIONS, integer)
        library.METIS_SetDefaultOptions(_pointer(options))
        options[int(internal.options_indices.OBJTYPE)] = _OBJECTIVES[self.objective]
        options[int(internal.options_indices.SEED)] = self.seed & 0x7FFFFFFF
        owners = np.zeros(graph.shape[0], integer)
        edge_weights = None if self.objective == "volume" or (graph.data == 1).all() else graph.data.astype(integer)
        with _silence():
            code = library.METIS_PartGraphKway(
                _pointer(np.array([graph.shape[0]], integer)),
                _pointer(np.array([len(weights)], integer)),
                _pointer(graph.indptr.astype(integer, copy=False)),
                _pointer(graph.indices.astype(integer, copy=False)),
                _pointer(np.stack(weights, axis=1).astype(integer)),
                None,  # sizes of nodes in the volume: 1 each
                None if edge_weights is None else _pointer(edge_weights),
                _pointer(np.array([parts], integer)),
                None,  # target shares of the parts: equal
                _pointer(np.full(len(weights), self.slack, np.float32)),
                _pointer(options),
                _pointer(np.zeros(1, integer)),
                _pointer(owners),
            )
        if code != _OK:
            raise InputError(f"METIS gave up with code {code}: it is out of memory, or its input is not a graph.")
        return owners.astype(np.int32, copy=False)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Leaves out what C code prints meanwhile: METIS tells stdout of parts that it cannot halve, and goes on.

    Stdout is the whole process's, so one thread at a time; where it is closed there is nothing to leave out."""
    with _STDOUT:
        flush = ctypes.CDLL(None).fflush
        flush(None)
        try:
            kept = os.dup(1)
        except OSError:
            yield
            return
        try:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)


def _pointer(array: NDArray[Any]) -> Any:
    """To the first entry; ctypes keeps the array until the call is over."""
    return np.ascontiguousarray(array).ctypes.data_as(ctypes.c_void_p)


def _unlimited(graph: EdgeStream) -> int:
    """A budget that makes one window of the whole graph."""
    return 2 * graph.num_edges + 1
