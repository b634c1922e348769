"""Prepare: once, whole or not at all, and the same bytes however the work was done."""

import collections
import dataclasses
import errno
import importlib
import multiprocessing
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from oracle_store import by_original, expected_lists, neighbour_lists, random_edges, shard_bytes

from framework import config
from framework.data.arrays import InMemory, from_arrays
from framework.data.dataset import ArrayRows
from framework.data.files import Files
from framework.errors import InputError
from framework.graph.store import VERSIONS, ShardStore
from framework.memory import PeakMemory
from framework.prepare import prepare
from framework.prepare import shards as shards_module
from framework.store.manifest import MANIFEST
from partitioners.random import Random

NODES, EDGES = 90, 700


def graph(seed: int = 0) -> InMemory:
    features = np.random.Generator(np.random.Philox(seed)).standard_normal((NODES, 3))
    return from_arrays(*random_edges(NODES, EDGES, seed), num_nodes=NODES, features=features)


def edge_files(folder: Path, pieces: int = 5) -> tuple[Files, np.ndarray, np.ndarray]:
    """A data set of several files between raw ids that are neither dense nor sorted."""
    source, target = random_edges(NODES, EDGES)
    names = np.random.Generator(np.random.Philox(9)).permutation(10_000)[:NODES] - 5000
    for piece in range(pieces):
        rows = slice(piece * EDGES // pieces, (piece + 1) * EDGES // pieces)
        table = np.stack([names[source[rows]], names[target[rows]], np.arange(EDGES)[rows] / 8], axis=1)
        header = "source,target,weight"
        form = ("%d", "%d", "%.4f")
        np.savetxt(folder / f"{piece}.csv", table, delimiter=",", header=header, comments="", fmt=form)
    return Files(edges=(str(folder / "*.csv"),), weight="weight"), names[source], names[target]


def test_a_store_that_is_there_is_the_answer(tmp_path):
    first = prepare(graph(), Random(), 2, tmp_path)
    before = (first.path / MANIFEST).stat().st_mtime_ns
    again = prepare(graph(), Random(), 2, tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert dataclasses.replace(again, seconds=first.seconds, reused=False) == first
    assert (first.path / MANIFEST).stat().st_mtime_ns == before


def test_the_digest_depends_on_data_partitioner_and_parts(tmp_path):
    stores = [
        prepare(graph(), Random(), 2, tmp_path),
        prepare(graph(1), Random(), 2, tmp_path),
        prepare(graph(), Random(seed=1), 2, tmp_path),
        prepare(graph(), Random(), 3, tmp_path),
    ]
    assert len({store.path for store in stores}) == 4
    assert [store.data_digest == stores[0].data_digest for store in stores] == [True, False, True, True]


def test_the_digest_depends_on_the_code_of_a_plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = (Path(__file__).parent / "plugin_package" / "shardyard_dealer.py").read_text()
    file = tmp_path / "edited_dealer.py"
    file.write_text(code)
    module = importlib.import_module("edited_dealer")
    first = prepare(graph(), module.Dealer(), 2, tmp_path / "stores")
    assert prepare(graph(), module.Dealer(), 2, tmp_path / "stores").reused
    file.write_text(code.replace("return owners", "return parts - 1 - owners"))
    second = prepare(graph(), importlib.reload(module).Dealer(), 2, tmp_path / "stores")
    assert not second.reused
    owned = [set(ShardStore.open(path).shard(0).original.tolist()) for path in (first.path, second.path)]
    assert owned[0] ^ owned[1] == set(range(NODES))


def test_the_digest_of_a_builtin_is_of_its_fields_alone(tmp_path):
    made = prepare(graph(), Random(), 2, tmp_path)
    assert made.digest == config.digest([made.data_digest, config.encode(Random()), 2, VERSIONS["edge-cut"]])


def test_a_damaged_store_is_made_again(tmp_path):
    path = prepare(graph(), Random(), 2, tmp_path).path
    expected = shard_bytes(path)
    victim = next(path.glob("part-*/indices.arrow"))
    victim.write_bytes(victim.read_bytes()[:-8])
    again = prepare(graph(), Random(), 2, tmp_path)
    assert not again.reused
    assert shard_bytes(path) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def reversed_completion(function, items):
    """The last item is done first; results come in the order of the items."""
    return list(reversed([function(item) for item in reversed(list(items))]))


def threads(function, items):
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(function, items)


@pytest.fixture(scope="module")
def processes():
    """Two processes that know nothing but what they are sent."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


def test_work_on_files_can_go_to_other_processes(tmp_path, processes):
    (tmp_path / "raw").mkdir()
    dataset, _, _ = edge_files(tmp_path / "raw")
    expected = shard_bytes(prepare(dataset, Random(), 3, tmp_path / "plain").path)
    assert shard_bytes(prepare(dataset, Random(), 3, tmp_path / "mapped", mapper=processes.map).path) == expected


def test_memory_holds_batches_and_one_part(tmp_path):
    """A million edges in one part add 84 MB, in two 42 MB; in twenty, hardly more than a batch and the nodes do."""
    generator = np.random.Generator(np.random.Philox(5))
    for piece in range(10):
        np.save(tmp_path / f"{piece}.npy", generator.integers(0, 20_000, (100_000, 2)))
    dataset = Files(edges=(str(tmp_path / "*.npy"),), batch_size=1 << 15)
    prepare(graph(), Random(), 2, tmp_path / "warm")
    memory = PeakMemory()
    prepare(dataset, Random(), 20, tmp_path / "stores")
    assert memory.added() < 2**25


@pytest.mark.parametrize("mapper", [reversed_completion, threads])
@pytest.mark.parametrize("batch_size", [1 << 20, 64, 13])
def test_bytes_do_not_depend_on_mapper_or_batches(tmp_path, mapper, batch_size):
    (tmp_path / "raw").mkdir()
    dataset, _, _ = edge_files(tmp_path / "raw")
    expected = shard_bytes(prepare(dataset, Random(), 3, tmp_path / "plain").path)
    batched = dataclasses.replace(dataset, batch_size=batch_size)
    assert shard_bytes(prepare(batched, Random(), 3, tmp_path / "mapped", mapper=mapper).path) == expected


def test_several_files_are_one_graph(tmp_path):
    (tmp_path / "raw").mkdir()
    dataset, source, target = edge_files(tmp_path / "raw")
    store = ShardStore.open(prepare(dataset, Random(), 4, tmp_path / "stores").path)
    known = np.unique([source, target])
    expected = expected_lists(len(known), np.searchsorted(known, source), np.searchsorted(known, target))
    assert neighbour_lists(store) == expected
    order = np.argsort(np.concatenate([store.shard(part).original.numpy() for part in range(4)]))
    raw = np.concatenate([store.raw_ids(part).to_numpy() for part in range(4)])[order]
    np.testing.assert_array_equal(raw, known)
    weights = collections.defaultdict(list)  # of duplicates, in the order of the input
    for number, ends in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        weights[ends].append(number / 8)
    for part in range(4):
        shard, ids = store.shard(part), store.raw_ids(part).to_numpy()
        columns = known[np.concatenate([shard.original.numpy(), shard.halo_original.numpy()])[shard.indices.numpy()]]
        rows = np.repeat(ids, shard.indptr.diff().numpy())
        found = collections.defaultdict(list)
        for column, row, weight in zip(columns.tolist(), rows.tolist(), shard.edge_weights.tolist(), strict=True):
            found[column, row].append(weight)
        assert all(weights[ends] == values for ends, values in found.items())


def test_features_are_read_in_batches_from_a_mapped_file(tmp_path):
    rows = np.random.Generator(np.random.Philox(3)).standard_normal((NODES, 6))
    np.save(tmp_path / "rows.npy", rows)
    in_memory = graph()
    mapped = ArrayRows(array=np.load(tmp_path / "rows.npy", mmap_mode="r"), batch_size=7)
    dataset = InMemory(graph=dataclasses.replace(in_memory.graph, features=mapped))
    store = ShardStore.open(prepare(dataset, Random(), 3, tmp_path / "stores").path)
    np.testing.assert_array_equal(by_original(store, "features"), rows.astype(np.float32))


def test_progress_ends_with_every_step_done(tmp_path):
    told = []
    prepare(graph(), Random(), 2, tmp_path, progress=lambda step, share: told.append((step, share)))
    assert {"partition", "bucket edges", "bucket features", "write shards"} <= {step for step, _ in told}
    assert all(0 <= share <= 1 for _, share in told)
    assert dict(told)["write shards"] == 1


def test_a_failure_midway_leaves_nothing(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(shards_module, "write_column", fails)
    with pytest.raises(RuntimeError):
        prepare(graph(), Random(), 2, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 5, 12])
def test_a_full_disk_midway_is_one_clear_error(tmp_path, monkeypatch, after):
    written = []
    write = shards_module.write_column

    def fills_up(path, values):
        written.append(path)
        if len(written) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, values)

    monkeypatch.setattr(shards_module, "write_column", fills_up)
    with pytest.raises(InputError, match=f"disk of '{tmp_path}' is full.*Free space"):
        prepare(graph(), Random(), 2, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("kilobytes", [16, 64, 256, 400])
def test_a_disk_that_is_really_full(tmp_path, kilobytes):
    """Whichever step meets the end of the disk, and whichever library writes there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        big = from_arrays(*random_edges(3000, 8000), num_nodes=3000, features=np.ones((3000, 16)))
        with pytest.raises(InputError, match="is full"):
            prepare(big, Random(), 3, disk)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def prepare_here(root: Path) -> bool:
    return prepare(graph(), Random(), 3, root).reused


def elsewhere(function, items):
    """Tasks on a host that does not see the scratch folder."""
    return [function(dataclasses.replace(item, scratch=Path("/nowhere"))) for item in items]


def test_a_host_that_does_not_see_the_scratch_folder(tmp_path):
    (tmp_path / "raw").mkdir()
    dataset, _, _ = edge_files(tmp_path / "raw")
    with pytest.raises(InputError, match=r"'/nowhere' is not there on host .* every host sees"):
        prepare(dataset, Random(), 2, tmp_path / "stores", mapper=elsewhere)


def test_two_processes_at_once(tmp_path, processes):
    processes.map(prepare_here, [tmp_path] * 4, chunksize=1)
    (store,) = tmp_path.iterdir()
    ShardStore.open(store).verify()


def test_the_slower_of_two_takes_the_faster_ones_store(tmp_path, monkeypatch):
    """Another process finishes the same store while ours is being written."""
    write = shards_module.write_column
    others = []

    def interrupted(path, values):
        if not others:
            others.append(None)
            others.append(prepare(graph(), Random(), 2, tmp_path))
        return write(path, values)

    monkeypatch.setattr(shards_module, "write_column", interrupted)
    ours = prepare(graph(), Random(), 2, tmp_path)
    assert ours.path == others[1].path
    assert [entry.name for entry in tmp_path.iterdir()] == [ours.path.name]
    ShardStore.open(ours.path).verify()


def die_midway(root: Path) -> None:
    shards_module.write_column = lambda *_: os._exit(9)
    prepare(graph(), Random(), 2, root)


def die_at_the_end(root: Path) -> None:
    rename = Path.rename
    Path.rename = lambda path, target: os._exit(9) if path.is_dir() else rename(path, target)
    prepare(graph(), Random(), 2, root)


@pytest.mark.parametrize("die", [die_midway, die_at_the_end])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, die):
    process = multiprocessing.get_context("spawn").Process(target=die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert len(list(tmp_path.iterdir())) == 1
    path = prepare(graph(), Random(), 2, tmp_path).path
    assert list(tmp_path.iterdir()) == [path]
    assert {entry.name for entry in path.iterdir()} == {MANIFEST, "part-00000", "part-00001"}


def test_a_folder_that_cannot_get_its_name_says_why(tmp_path, monkeypatch):
    rename = Path.rename

    def forbidden(path, target):
        if path.is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", forbidden)
    with pytest.raises(PermissionError):
        prepare(graph(), Random(), 2, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", [0, -1])
def test_parts_below_one(tmp_path, parts):
    with pytest.raises(InputError, match=f"parts is {parts}; expected a whole number of at least 1"):
        prepare(graph(), Random(), parts, tmp_path)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot hold stores"):
        prepare(graph(), Random(), 2, tmp_path / "file")
