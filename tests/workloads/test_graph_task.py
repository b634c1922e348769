"""Learning from small graphs: the same on any number of workers, resumed as never stopped, and measured rightly."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from shapes import Relative, Shapes, Told, shape_run, told_by_others, told_by_workers
from torch import Tensor, nn

from framework.comm.group import Group
from framework.engine.evaluate import predict
from framework.engine.run import Run, Worker
from framework.errors import InputError, StoreError
from framework.graph.augment import Augmentation
from framework.graph.reader import GraphReader
from framework.random import Key
from framework.workloads.goals import goal_of
from framework.workloads.graphs import TURNING, GraphTask
from launch.start import start


def ignore(event: Any) -> None:
    """Nobody watches."""


def opened(run: Run) -> GraphTask:
    """The run's task as its only worker has it."""
    prepared = run.workload.prepare(Path(run.store), map, ignore)
    worker = Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=ignore)
    task = run.workload.open(run, worker)
    assert isinstance(task, GraphTask)
    return task


KINDS: dict[str, dict[str, Any]] = {
    "classes": {},
    "targets": {
        "data": Shapes(targets=2, dimensions=3, broken=3, weighted=True),
        "monitor": "validation_standard_rmse",
    },
    "few": {"data": Shapes(samples=30), "batch_size": 4, "epochs": 2},  # the last batch has one graph
}


def runs_of(folder: Path, workers: int) -> dict[str, Run]:
    """A run of every kind; one that is stopped; the same, to its end."""
    kinds = {kind: shape_run(folder / kind, **settings, workers=workers) for kind, settings in KINDS.items()}
    stopped = shape_run(folder / "stopped", epochs=2, workers=workers)
    return {**kinds, "stopped": stopped, "resumed": dataclasses.replace(stopped, epochs=4)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Told]:
    """What they report, by the number of workers."""
    return told_by_workers(tmp_path_factory, runs_of)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_do_not_show(told: dict[int, Told], kind: str) -> None:
    one, two = told[1][kind], told[2][kind]
    assert len(one["loss"]) == KINDS[kind].get("epochs", 4)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
    assert two["run_digest"] == one["run_digest"]


def test_the_few_leave_a_worker_without_a_share(tmp_path: Path) -> None:
    task = opened(shape_run(tmp_path / "few", **KINDS["few"]))
    assert [batch.size for batch in task.batches(0, 0)][-1] == 1


@pytest.mark.parametrize("kind", ["classes", "targets"])
def test_parts_do_not_show(told: dict[int, Told], tmp_path: Path, kind: str) -> None:
    cut = start(shape_run(tmp_path / "cut", **KINDS[kind], parts=5), ignore)
    assert cut["weights_digest"] == told[1][kind]["weights_digest"]
    assert cut["metrics"] == told[1][kind]["metrics"]


@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_is_never_stopped(told: dict[int, Told], workers: int) -> None:
    resumed, whole = told[workers]["resumed"], told[workers]["classes"]
    assert len(told[workers]["stopped"]["loss"]) == 2
    assert resumed["loss"] == whole["loss"]
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What they report where other workers are at them."""
    return told_by_others(tmp_path_factory, runs_of)


@pytest.mark.parametrize(("name", "expected"), [("3 after 1", "classes"), ("1 after 2", "classes"), ("few", "few")])
def test_other_workers_go_on_where_some_were_stopped(
    told: dict[int, Told], elsewhere: Told, name: str, expected: str
) -> None:
    assert elsewhere[name]["loss"] == pytest.approx(told[1][expected]["loss"], rel=1e-9)
    assert elsewhere[name]["metrics"] == pytest.approx(told[1][expected]["metrics"], rel=1e-9)


class InterruptedRunError(Exception):
    """In the middle of an epoch."""


def test_resumed_within_an_epoch(tmp_path: Path) -> None:
    whole = start(shape_run(tmp_path / "whole"), ignore)

    def stop(event: Any) -> None:
        if (event["event"], event.get("epoch"), event.get("step")) == ("step", 3, 2):
            raise InterruptedRunError

    cut = shape_run(tmp_path / "cut", checkpoint_every=1)
    with pytest.raises(Exception, match="Interrupted"):
        start(cut, stop)
    resumed = start(cut, ignore)
    assert resumed["loss"] == whole["loss"]
    assert resumed["weights_digest"] == whole["weights_digest"]


def test_batches_are_cut_from_the_shuffled_ids(tmp_path: Path) -> None:
    task = opened(shape_run(tmp_path / "run", batch_size=16))
    epochs = [[batch.graphs.samples for batch in task.batches(epoch, 0)] for epoch in (0, 1)]
    for batches in epochs:
        assert torch.cat(batches).sort().values.equal(task.training)
        assert [len(samples) for samples in batches] == [16, 16, 10]
    assert not torch.cat(epochs[0]).equal(torch.cat(epochs[1]))
    later = [batch.graphs.samples for batch in task.batches(1, 2)]
    assert len(later) == 1
    assert later[0].equal(epochs[1][2])


def test_batches_by_nodes(tmp_path: Path) -> None:
    task = opened(shape_run(tmp_path / "run", batch_size=0, batch_nodes=40))
    batches = [batch.graphs for batch in task.batches(0, 0)]
    assert torch.cat([graphs.samples for graphs in batches]).sort().values.equal(task.training)
    sizes = [len(graphs.x) for graphs in batches]
    assert max(sizes) <= 40
    largest = int(task.reader.nodes.max())
    assert min(sizes[:-1]) > 40 - largest  # whatever is left is too little for the next graph
    both = opened(shape_run(tmp_path / "run", batch_size=3, batch_nodes=40))
    assert max(batch.size for batch in both.batches(0, 0)) == 3
    single = opened(shape_run(tmp_path / "run", batch_size=0, batch_nodes=1))
    assert {batch.size for batch in single.batches(0, 0)} == {1}


def test_augmentation_changes_with_the_epoch_alone(tmp_path: Path) -> None:
    task = opened(shape_run(tmp_path / "run", batch_size=0, batch_nodes=10**6))
    plain = opened(shape_run(tmp_path / "run", batch_size=0, batch_nodes=10**6, augment=Augmentation()))
    positions = [next(iter(task.batches(epoch, 0))).graphs.positions for epoch in (0, 0, 1)]
    assert positions[0].equal(positions[1])
    assert not positions[0].allclose(positions[2])
    small = opened(shape_run(tmp_path / "run", batch_size=7))
    for batch in small.batches(0, 0):
        for place, sample in enumerate(batch.graphs.samples.tolist()):
            begin, end = batch.graphs.offsets[place : place + 2].tolist()
            first = int(task.reader.nodes[task.training[task.training < sample]].sum())
            expected = positions[0][first : first + end - begin]
            torch.testing.assert_close(batch.graphs.positions[begin:end], expected, rtol=0, atol=1e-12)
    raw = next(iter(plain.batches(0, 0))).graphs
    assert raw.positions.equal(task.reader.batch(task.training, torch.float64).positions)


class Fixed(nn.Module):
    """Answers what it was given for every sample."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, graph: Any) -> Tensor:
        return self.answers[graph.samples]


def test_accuracy_and_errors_are_what_they_are_called(tmp_path: Path) -> None:
    scores = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    task = opened(shape_run(tmp_path / "classes", evaluation_nodes=20, measured=("train", "validation", "test")))
    right = (scores.argmax(1) == torch.arange(60) % 3).double()
    metrics = task.evaluate(Fixed(scores))
    assert sorted(task.measures) == sorted(metrics)
    for value, name in enumerate(("train", "validation", "test"), 1):
        assert metrics[f"{name}_accuracy"] == pytest.approx(float(right[task.reader.split == value].mean()))
    fewer = opened(shape_run(tmp_path / "classes")).evaluate(Fixed(scores))
    assert fewer == {name: value for name, value in metrics.items() if not name.startswith("train")}

    run = shape_run(tmp_path / "targets", data=Shapes(targets=2))
    task = opened(run)
    goal = goal_of(GraphReader(task.collection))
    samples = Shapes(targets=2).open()
    raw = torch.from_numpy(samples.targets)
    metrics = task.evaluate(Fixed(scores[:, :2]))
    assert sorted(task.measures) == sorted(metrics)
    values = np.stack(list(goal.columns(scores[:, :2]).values()), axis=1)
    test = samples.split == 3
    errors = np.sqrt(((values - raw.numpy())[test] ** 2).mean(0))
    assert [metrics["test_size0_rmse"], metrics["test_size1_rmse"]] == pytest.approx(errors.tolist(), rel=1e-12)
    deviations = raw.numpy()[samples.split == 1].std(0)
    expected = np.sqrt(((errors / deviations) ** 2).mean())
    assert metrics["test_standard_rmse"] == pytest.approx(expected, rel=1e-12)
    everything = torch.arange(60)
    loss = goal.loss(scores[:, :2], everything)
    manual = ((scores[:, :2] - goal_of(GraphReader(task.collection)).targets) ** 2).mean(1).sum()  # type: ignore[attr-defined]
    assert float(loss) == pytest.approx(float(manual))


def test_evaluation_averages_over_turned_copies(tmp_path: Path) -> None:
    augment = Augmentation(rotation=90, jitter=0.1)
    task = opened(shape_run(tmp_path / "run", test_rotations=3, augment=augment, evaluation_nodes=30))
    torch.manual_seed(0)
    model = task.model().double().eval()
    _, answers = task._answers(model, torch.arange(60))
    whole = task.reader.batch(torch.arange(60), torch.float64)
    turns = [Augmentation(rotation=90).of(whole, Key.root(0).fold(TURNING, copy)) for copy in range(3)]
    with torch.no_grad():
        expected = torch.stack([model(turned).softmax(1) for turned in turns]).mean(0)
    torch.testing.assert_close(answers, expected, rtol=0, atol=1e-12)
    assert not expected.allclose(model(whole).softmax(1))
    with pytest.raises(InputError, match=r"--test-rotations is 2, but --augment\.rotation is 0"):
        shape_run(tmp_path / "run", test_rotations=2, augment=Augmentation())


def test_predictions_cover_every_sample_once_whoever_makes_them(tmp_path: Path) -> None:
    run = shape_run(tmp_path / "run")
    start(run, ignore)
    tables = []
    for workers in (1, 2):
        answer = start(dataclasses.replace(run, workers=workers), ignore, predict)
        tables.append(parquet.read_table(answer["path"]))
    one, two = tables
    assert one["id"].to_pylist() == two["id"].to_pylist() == sorted(f"shape {number}" for number in range(60))
    assert one["class"] == two["class"]
    assert set(one["class_name"].to_pylist()) <= {"three", "four", "five"}
    assert one["score"].to_numpy() == pytest.approx(two["score"].to_numpy(), rel=1e-9)


def test_predicted_values_are_in_the_targets_unit(tmp_path: Path) -> None:
    run = shape_run(tmp_path / "run", data=Shapes(targets=1), epochs=30, augment=Augmentation(), monitor="test_rmse")
    report = start(run, ignore)
    table = parquet.read_table(start(run, ignore, predict)["path"])
    sizes = {f"shape {number}": Shapes().nodes(number) * 1.5 for number in range(60)}
    split = dict(zip(Shapes().open().ids.tolist(), Shapes().open().split.tolist(), strict=True))  # type: ignore[union-attr]
    pairs = [
        (value, sizes[name])
        for name, value in zip(table["id"].to_pylist(), table["value"].to_pylist(), strict=True)
        if split[name] == 3
    ]
    values, expected = np.array(pairs).T
    assert report["metrics"]["test_rmse"] == pytest.approx(float(np.sqrt(((values - expected) ** 2).mean())), rel=1e-9)


def test_an_altered_byte_is_not_learned_from(tmp_path: Path) -> None:
    run = shape_run(tmp_path / "run")
    file = opened(run).collection.path / "part-00002" / "positions.arrow"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"positions\.arrow' was altered"):
        opened(run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TooMany:
    """Answers a column too many."""

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        return Relative().build(columns, dimensions, outputs + 1)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    task = opened(shape_run(tmp_path / "run", model=TooMany()))
    with pytest.raises(InputError, match=r"answered \(16, 4\); expected \(16, 3\), a row a graph"):
        task.loss(task.model().double(), next(iter(task.batches(0, 0))))
    with pytest.raises(InputError, match="give no embeddings"):
        task.predict(task.model(), embeddings=True)
    with pytest.raises(InputError, match="are both 0"):
        shape_run(tmp_path / "run", batch_size=0)
    with pytest.raises(InputError, match="--batch-nodes is -1"):
        shape_run(tmp_path / "run", batch_nodes=-1)


def test_the_set_of_the_guide_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "learn-from-small-graphs.md"
    text = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "guide_rings.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    rings = importlib.import_module("guide_rings").Rings
    run = shape_run(tmp_path / "run", data=rings(), epochs=8, augment=Augmentation(rotation=180))
    assert start(run, ignore)["metrics"]["test_accuracy"] > 0.9
