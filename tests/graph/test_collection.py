"""A collection holds the graphs that its data set makes, whatever the parts and chunks, and says what it lacks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import Shapes

from framework import config
from framework.data.dataset import TRAIN
from framework.data.generators import Planted
from framework.data.graph_sets import Samples, SmallGraph
from framework.errors import InputError, PluginError, StoreError
from framework.graph.collection import Collection
from framework.graph.reader import GraphReader
from framework.graph.store import ShardStore
from framework.prepare import prepare
from framework.prepare.graphs import prepare_graphs
from framework.random import Key
from framework.store.manifest import MANIFEST
from launch.inspect import inspect
from partitioners.random import Random

NOWHERE = Path("nowhere")


def made(shapes: Shapes) -> list[SmallGraph]:
    """The graphs that there are, in order."""
    graphs = [shapes.graph(number, NOWHERE) for number in range(shapes.samples)]
    return [graph for graph in graphs if isinstance(graph, SmallGraph)]


@pytest.mark.parametrize("parts", [1, 3, 7])
@pytest.mark.parametrize("shapes", [Shapes(), Shapes(weighted=True, dimensions=3, targets=2, broken=3)], ids=["", "b"])
def test_a_batch_is_the_graphs_side_by_side(tmp_path: Path, shapes: Shapes, parts: int) -> None:
    collection = prepare_graphs(shapes, parts, tmp_path).collection
    graphs = made(dataclasses.replace(shapes))
    graphs = [graph for number, graph in enumerate(graphs) if not (shapes.broken and number == 1)]  # its target is NaN
    assert collection.num_graphs == len(graphs)
    reader, key = GraphReader(collection), Key.root(5)
    for chosen in ([0], [0, 1, 2], [3, 20, 21, 40], list(range(len(graphs)))):
        batch = reader.batch(torch.tensor(chosen), torch.float64, key)
        before = np.cumsum([0, *(len(graph.features) for graph in graphs)])
        assert batch.samples.tolist() == chosen
        assert batch.key == key
        assert len(batch) == len(chosen)
        for place, number in enumerate(chosen):
            begin, end = batch.offsets[place : place + 2].tolist()
            graph = graphs[number]
            assert batch.x[begin:end].equal(torch.from_numpy(graph.features).double())
            assert batch.positions[begin:end].equal(torch.from_numpy(graph.positions).double())
            assert batch.original[begin:end].tolist() == list(range(before[number], before[number + 1]))
            assert batch.graph_of[begin:end].tolist() == [place] * (end - begin)
            assert edges_of(batch, begin, end) == sorted(edges_of_graph(graph))


def edges_of(batch: Any, begin: int, end: int) -> list[tuple[int, int, float]]:
    """(target, source, weight), nodes by their numbers in their graph, in the order of the batch."""
    found = []
    for node in range(begin, end):
        for entry in range(int(batch.indptr[node]), int(batch.indptr[node + 1])):
            weight = 1.0 if batch.weight is None else float(batch.weight[entry])
            found.append((node - begin, int(batch.indices[entry]) - begin, weight))
    return found


def edges_of_graph(graph: SmallGraph) -> list[tuple[int, int, float]]:
    weights = np.ones(len(graph.source)) if graph.weights is None else graph.weights
    return list(zip(graph.target.tolist(), graph.source.tolist(), weights.tolist(), strict=True))


def test_chunks_and_mappers_show_in_no_byte(tmp_path: Path) -> None:
    shapes = Shapes(broken=2, targets=1)

    def backwards(function: Any, items: list[Any]) -> list[Any]:
        done = {place: function(item) for place, item in reversed(list(enumerate(items)))}
        return [done[place] for place in range(len(items))]

    files = [
        prepare_graphs(shapes, 4, tmp_path / str(number), chunk=chunk, mapper=mapper).collection.files
        for number, (chunk, mapper) in enumerate([(64, map), (1, map), (7, backwards)])
    ]
    assert files[0] == files[1] == files[2]


def test_it_is_mapped_without_a_copy_and_aligned(tmp_path: Path) -> None:
    collection = prepare_graphs(Shapes(), 2, tmp_path).collection
    part = collection.part(1)
    for tensor in (part.features, part.positions, part.indptr, part.indices):
        assert tensor.data_ptr() % 64 == 0
    again = collection.part(1)
    assert again.features.equal(part.features)


def test_failures_are_listed_with_their_reason(tmp_path: Path) -> None:
    shapes = Shapes(broken=3, targets=2)
    collection = prepare_graphs(shapes, 2, tmp_path).collection
    expected = {f"shape {number}": f"shape {number} is broken" for number in range(60) if number % 7 == 3}
    expected["shape 1"] = "its size0 is not known"
    assert {failure.id: failure.reason for failure in collection.failures} == expected
    split = shapes.open().split
    assert all(failure.split == split[int(str(failure.id).split()[1])] for failure in collection.failures)
    ids = collection.raw_ids().to_pylist()
    assert ids == [f"shape {number}" for number in range(60) if f"shape {number}" not in expected]
    told = inspect(collection.path).facts
    assert told["graphs"] == len(ids)
    assert told["failed: shape 3"] == "shape 3 is broken"


def test_targets_are_standardised_by_the_training_samples(tmp_path: Path) -> None:
    shapes = Shapes(targets=2, broken=3)
    collection = prepare_graphs(shapes, 3, tmp_path).collection
    samples, reader = shapes.open(), GraphReader(collection)
    kept = [int(str(name).split()[1]) for name in collection.raw_ids().to_pylist()]
    assert samples.targets is not None
    raw, trained = samples.targets[kept], samples.split[kept] == TRAIN
    expected = (raw - raw[trained].mean(0)) / raw[trained].std(0)
    assert reader.targets().numpy() == pytest.approx(expected, abs=1e-12)
    assert reader.split.tolist() == samples.split[kept].tolist()


def test_it_is_made_once_and_anew_for_other_settings(tmp_path: Path) -> None:
    first = prepare_graphs(Shapes(), 2, tmp_path)
    again = prepare_graphs(Shapes(), 2, tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert again.collection.digest == first.collection.digest
    other = prepare_graphs(Shapes(seed=1), 2, tmp_path).collection
    cut = prepare_graphs(Shapes(), 5, tmp_path).collection
    assert len({first.collection.digest, other.digest, cut.digest}) == 3
    assert cut.data_digest == first.collection.data_digest != other.data_digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_more_parts_than_samples(tmp_path: Path) -> None:
    collection = prepare_graphs(Shapes(samples=3, seed=4), 5, tmp_path).collection
    assert sum(counts.graphs for counts in collection.counts) == 3
    assert len(GraphReader(collection).batch(torch.arange(3), torch.float32)) == 3


def test_damage_is_named(tmp_path: Path) -> None:
    collection = prepare_graphs(Shapes(), 2, tmp_path).collection
    file = collection.path / "part-00001" / "features.arrow"
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    Collection.open(collection.path).verify(0)
    with pytest.raises(StoreError, match=r"features.arrow' was altered"):
        Collection.open(collection.path).verify()
    file.write_bytes(whole[:-8])
    with pytest.raises(StoreError, match="the manifest says"):
        Collection.open(collection.path)
    assert not prepare_graphs(Shapes(), 2, tmp_path).reused  # a torn one is made anew
    Collection.open(collection.path).verify()


def test_facts_whose_keys_are_numbers_are_kept_as_text(tmp_path: Path) -> None:
    collection = prepare_graphs(Odd(how="facts"), 2, tmp_path).collection
    assert collection.facts == {"of ring": {"2": 1, "10": 3}}
    assert prepare_graphs(Odd(how="facts"), 2, tmp_path).reused


def test_a_store_of_one_graph_is_no_collection(tmp_path: Path) -> None:
    graph = Planted(nodes=60, edges=200, blocks=3, classes=3, features=2)
    store = prepare(graph, Random(), 1, tmp_path)
    with pytest.raises(StoreError, match="of a 'shardyard-store'; expected a 'shardyard-collection'"):
        Collection.open(store.path)
    collection = prepare_graphs(Shapes(), 2, tmp_path).collection
    with pytest.raises(StoreError, match="expected a 'shardyard-store', that is a shard store"):
        ShardStore.open(collection.path)
    with pytest.raises(StoreError, match="is no collection of graphs"):
        Collection.open(tmp_path)
    assert json.loads((collection.path / MANIFEST).read_text())["failures"] == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Odd:
    """Shapes with something wrong in one of them."""

    how: str
    shapes: Shapes = Shapes()

    def fingerprint(self) -> str:
        return self.shapes.fingerprint() + self.how

    def open(self) -> Any:
        samples = self.shapes.open()
        if self.how == "facts":
            return dataclasses.replace(samples, facts={"of ring": {2: 1, 10: 3}})
        if self.how == "alike":
            samples.targets[:, 0] = 0.1
        return dataclasses.replace(samples, split=samples.split[:-1]) if self.how == "rows" else samples

    def graph(self, content: int, cache: Path) -> Any:
        graph = self.shapes.graph(content, cache)
        assert isinstance(graph, SmallGraph)
        changes: dict[str, dict[str, Any]] = {
            "edge": {"target": graph.target + 1},
            "nan": {"positions": graph.positions * np.nan},
            "columns": {"features": graph.features[:, :2]},
            "large": {"features": graph.features * np.float64(1e39)},
        }
        if self.how == "raises" and content == 50:
            raise ValueError("this one is too odd")
        return dataclasses.replace(graph, **changes.get(self.how, {})) if content == 50 else graph


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("edge", r"of sample 50 a graph with an edge that leads out of its \d+ nodes"),
        ("nan", "of sample 50 a graph with a feature, a position or a weight that is not finite"),
        ("large", "of sample 50 a graph with a feature, a position or a weight that is not finite"),
        ("raises", r"graph set '.*:Odd' failed on sample 50: ValueError: this one is too odd \(test_collection.py:"),
        ("columns", "have 2 columns at 2 dimensions without edge weights and 4 columns"),
        ("rows", "split has 59 rows; expected 60, one a sample"),
    ],
)
@pytest.mark.parametrize("chunk", [5, 64])
def test_a_set_that_answers_amiss_is_named(tmp_path: Path, how: str, said: str, chunk: int) -> None:
    with pytest.raises(InputError, match=said) as told:
        prepare_graphs(Odd(how=how), 2, tmp_path, chunk=chunk)
    assert isinstance(told.value, PluginError) == (how != "rows")
    assert not list(tmp_path.glob(".*"))  # nothing half-made is left


def test_targets_that_are_all_alike_are_not_scaled(tmp_path: Path) -> None:
    collection = prepare_graphs(Odd(how="alike", shapes=Shapes(targets=2)), 2, tmp_path).collection
    assert collection.target_deviations[0] == 1
    assert 0.1 < collection.target_deviations[1] != 1


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--parts is 0"):
        prepare_graphs(Shapes(), 0, tmp_path)
    with pytest.raises(InputError, match="has no samples"):
        prepare_graphs(Shapes(samples=0), 1, tmp_path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """Shapes with two targets of other names."""

    names: tuple[str, ...] = ()
    flat: bool = False
    shapes: Shapes = Shapes(targets=2)

    def fingerprint(self) -> str:
        return config.digest(dataclasses.asdict(self))

    def open(self) -> Samples:
        samples = self.shapes.open()
        assert samples.targets is not None
        targets = samples.targets[:, 0] if self.flat else samples.targets
        return dataclasses.replace(samples, target_names=self.names, targets=targets)

    def graph(self, content: int, cache: Path) -> SmallGraph | str:
        return self.shapes.graph(content, cache)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (Named(), r"targets of shape \(60, 2\) have 0 names; expected \[samples, targets\] and a name a target"),
        (Named(names=("size",)), "have 1 names"),
        (Named(names=("size",), flat=True), r"targets of shape \(60,\) have 1 names"),
        (Named(names=("size", "size")), "two targets are named 'size'; expected a name of its own for each"),
        (Named(names=("size", "id")), "a target is named 'id', as a column of predictions is; rename it"),
        (Named(names=("standard", "size")), "a target is named 'standard', as an error over all targets is; rename it"),
    ],
)
def test_targets_have_names_of_their_own(tmp_path: Path, named: Named, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare_graphs(named, 2, tmp_path)


def test_a_single_target_may_have_any_name(tmp_path: Path) -> None:
    named = Named(names=("id",), shapes=Shapes(targets=1))
    assert prepare_graphs(named, 2, tmp_path).collection.target_names == ("id",)
