"""Blocks of paths: those of some centres of a graph, by their places and by their names."""

import torch

from framework.graph.block import Nodes
from framework.graph.path_block import PathBlock, paths_of
from framework.kernels.csr import offsets
from framework.random import Key


def tables(centres: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random paths of one and of two steps from every node of a graph, by its ids; some have none."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for steps in (1, 2):
        counts = torch.randint(4, (centres,), generator=generator)
        found.append((offsets(counts), torch.randint(centres, (int(counts.sum()), steps), generator=generator)))
    return found


def described(ids: torch.Tensor) -> Nodes:
    return Nodes(ids=ids, original=ids * 7 % 50, degree=ids + 1)


def test_some_rows_of_a_table_are_those_rows() -> None:
    ((pointers, nodes), _) = tables(50)
    rows = torch.tensor([3, 49, 3, 0, 17], dtype=torch.int32)
    starts, found = paths_of(rows, pointers, nodes)
    expected = [nodes[pointers[row] : pointers[row + 1]] for row in rows.tolist()]
    assert starts.diff().tolist() == [len(paths) for paths in expected]
    assert torch.equal(found, torch.cat(expected))
    assert paths_of(rows[:0], pointers, nodes)[1].shape == (0, 1)


def test_a_block_around_some_centres_has_their_paths() -> None:
    centres = described(torch.tensor([3, 49, 0, 17]))
    mine = [paths_of(centres.ids, *table) for table in tables(50)]
    block = PathBlock.around(centres, mine, described, Key.root(0))
    assert torch.equal(block.targets.ids, centres.ids)
    assert len(block.sources.ids.unique()) == len(block.sources)
    assert torch.equal(block.sources.original, described(block.sources.ids).original)
    for paths, (pointers, nodes) in zip(block.paths, mine, strict=True):
        assert torch.equal(block.sources.ids[paths.nodes.long()], nodes)
        assert torch.equal(paths.offsets, pointers)
        assert torch.equal(paths.original, block.sources.original)


def test_what_is_drawn_for_a_path_does_not_depend_on_its_block() -> None:
    everything = described(torch.arange(50))
    whole = PathBlock.of(everything, tables(50))
    centres = torch.tensor([3, 49, 0, 17])
    part = PathBlock.around(described(centres), [paths_of(centres, *table) for table in tables(50)], described)
    like, key = torch.empty(0, dtype=torch.float32), Key.root(3)
    for all_paths, some in zip(whole.paths, part.paths, strict=True):
        by_all, by_some = (paths.dropped(key, 8, 0.5, like) for paths in (all_paths, some))
        assert by_all is not None
        assert by_some is not None
        expected = [by_all[all_paths.offsets[row] : all_paths.offsets[row + 1]] for row in centres.tolist()]
        assert torch.equal(by_some, torch.cat(expected))
        assert all_paths.dropped(None, 8, 0.5, like) is None
