"""Learning from images: the same on any number of workers, resumed as never stopped, and measured rightly."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file
from shapes import Told, told_by_others, told_by_workers
from small_images import EVERYTHING, Small, Stripes, image_run
from torch import Tensor, nn

from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.group import Group
from framework.data.dataset import TRAIN
from framework.engine.evaluate import predict
from framework.engine.optimize import Constant
from framework.engine.run import Run, Worker
from framework.errors import InputError, StoreError
from framework.models.cnn.averaged import Averaged
from framework.models.cnn.boosted import BoostedResNet
from framework.random import shuffled
from framework.samples.image_augment import ImageAugmentation
from framework.workloads.images import ImageTask
from framework.workloads.samples import SHUFFLING
from launch.start import start


def ignore(event: Any) -> None:
    """Nobody watches."""


def opened(run: Run) -> ImageTask:
    """The run's task as its only worker has it."""
    prepared = run.workload.prepare(Path(run.store), map, ignore)
    worker = Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=ignore)
    task = run.workload.open(run, worker)
    assert isinstance(task, ImageTask)
    return task


BOOSTED = BoostedResNet(depth=8, width=4, auxiliary=2, hidden=3, pretraining=2)
KINDS: dict[str, dict[str, Any]] = {
    "everything": {},
    "boosted": {"model": BOOSTED, "ema": 0.0, "epochs": 3},
    "few": {"data": Stripes(images=25), "batch_size": 4, "epochs": 2},  # the last batch has one image
}


def runs_of(folder: Path, workers: int) -> dict[str, Run]:
    """A run of every kind; one that is stopped; the same, to its end."""
    kinds = {kind: image_run(folder / kind, **settings, workers=workers) for kind, settings in KINDS.items()}
    stopped = image_run(folder / "stopped", model=BOOSTED, workers=workers, schedule=Constant(), epochs=1)
    whole = {"whole": dataclasses.replace(stopped, out=str(folder / "whole"), epochs=3)}
    return {**kinds, **whole, "stopped": stopped, "resumed": dataclasses.replace(stopped, epochs=3)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Told]:
    """What they report, by the number of workers."""
    return told_by_workers(tmp_path_factory, runs_of)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_do_not_show(told: dict[int, Told], kind: str) -> None:
    one, two = told[1][kind], told[2][kind]
    assert len(one["loss"]) == KINDS[kind].get("epochs", 4)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-8)
    assert two["run_digest"] == one["run_digest"]


def test_statistics_cost_two_messages_a_layer_and_step(told: dict[int, Told]) -> None:
    training = int((Stripes().open().split == TRAIN).sum())
    steps = 4 * -(-training // 16)
    numbers = sum((2 * channels + 1) + 2 * channels for channels in (4, 8))  # of the two normalised layers
    assert told[2]["everything"]["sent"]["statistics"] == steps * numbers * 8
    assert "statistics" not in told[1]["everything"]["sent"]


def test_the_few_leave_a_worker_without_a_share(tmp_path: Path) -> None:
    task = opened(image_run(tmp_path / "few", **KINDS["few"]))
    assert [batch.size for batch in task.batches(0, 0)][-1] == 1
    assert task.steps == len(list(task.batches(1, 0)))


@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_is_never_stopped(told: dict[int, Told], workers: int) -> None:
    """Stopped while the auto-encoder is learned; average, momentum and statistics come back."""
    resumed, whole = told[workers]["resumed"], told[workers]["whole"]
    assert len(told[workers]["stopped"]["loss"]) == 1
    assert resumed["loss"] == whole["loss"]
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What they report where other workers are at them."""
    return told_by_others(tmp_path_factory, runs_of)


@pytest.mark.parametrize(("name", "expected"), [("3 after 1", "whole"), ("1 after 2", "whole"), ("few", "few")])
def test_other_workers_go_on_where_some_were_stopped(
    told: dict[int, Told], elsewhere: Told, name: str, expected: str
) -> None:
    assert elsewhere[name]["loss"] == pytest.approx(told[1][expected]["loss"], rel=1e-9)
    assert elsewhere[name]["metrics"] == pytest.approx(told[1][expected]["metrics"], rel=1e-8)


class InterruptedRunError(Exception):
    """In the middle of an epoch."""


def test_resumed_within_an_epoch(tmp_path: Path, told: dict[int, Told]) -> None:
    def stop(event: Any) -> None:
        if (event["event"], event.get("epoch"), event.get("step")) == ("step", 3, 2):
            raise InterruptedRunError

    cut = image_run(tmp_path / "cut", checkpoint_every=1)
    with pytest.raises(Exception, match="Interrupted"):
        start(cut, stop)
    resumed = start(cut, ignore)
    assert resumed["loss"] == told[1]["everything"]["loss"]
    assert resumed["weights_digest"] == told[1]["everything"]["weights_digest"]


def test_batches_are_cut_from_the_shuffled_ids(tmp_path: Path) -> None:
    task = opened(image_run(tmp_path / "run", augment=ImageAugmentation()))
    everything = task._seen(task.training)
    seen = {tuple(image.flatten().tolist()): place for place, image in enumerate(everything)}
    epochs = []
    for epoch in (0, 1):
        batches = list(task.batches(epoch, 0))
        places = [seen[tuple(image.flatten().tolist())] for batch in batches for image in batch.images]
        assert sorted(places) == list(range(len(task.training)))
        assert torch.cat([batch.labels for batch in batches]).equal(task.reader.labels[task.training[places]])
        assert {batch.size for batch in batches[:-1]} == {16}
        epochs.append(places)
    assert epochs[0] != epochs[1]
    later = list(task.batches(1, 2))
    assert later[0].images.equal(list(task.batches(1, 0))[2].images)


def test_augmentation_changes_with_the_epoch_alone(tmp_path: Path) -> None:
    """Neither the batch an image is in nor its size shows, but in whom it is mixed with."""
    unmixed = dataclasses.replace(EVERYTHING, mixup=0.0)
    whole = opened(image_run(tmp_path / "run", batch_size=1000, augment=unmixed))
    small = opened(image_run(tmp_path / "run", batch_size=7, augment=unmixed))
    first, again, later = (next(iter(whole.batches(epoch, 0))).images for epoch in (0, 0, 1))
    assert first.equal(again)
    assert not first.allclose(later)
    steps = range(len(list(small.batches(0, 0))))
    order = [small.training[shuffled_part(small, 0, step)].sort().values for step in steps]
    places = torch.searchsorted(whole.training, torch.cat(order))
    assert torch.cat([batch.images for batch in small.batches(0, 0)]).equal(first[places])


def shuffled_part(task: ImageTask, epoch: int, step: int) -> Tensor:
    """The places, among the training samples, of those in a batch."""
    order = shuffled(task.key.fold(SHUFFLING, epoch), task.training)
    return torch.split(order, task.workload.batch_size)[step]


def test_mixed_images_and_classes_are_shares_of_two(tmp_path: Path) -> None:
    plain = opened(image_run(tmp_path / "run", augment=ImageAugmentation(crop=1)))
    mixing = opened(image_run(tmp_path / "run", augment=ImageAugmentation(crop=1, mixup=0.7), label_smoothing=0.0))
    for before, after in zip(plain.batches(0, 0), mixing.batches(0, 0), strict=True):
        assert after.mixed is not None
        others, shares = after.mixed
        assert ((shares > 0) & (shares < 1)).all()
        rows = before.images.flatten(1)
        for place, image in enumerate(after.images.flatten(1)):
            rest = (image - shares[place] * rows[place]) / (1 - shares[place])
            (partner,) = torch.nonzero((rows - rest).abs().amax(1) < 1e-6).flatten().tolist()
            assert partner != place
            assert others[place] == before.labels[partner]
    scores = nn.Linear(5, 3).double()(torch.rand(len(after.labels), 5, dtype=torch.float64))
    expected = sum(
        share * nn.functional.cross_entropy(row, own) + (1 - share) * nn.functional.cross_entropy(row, other)
        for row, own, other, share in zip(scores, after.labels, others, shares, strict=True)
    )
    loss = mixing.loss(lambda images: scores, after)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(float(expected) / after.size, rel=1e-12)


def test_the_auto_encoder_is_learned_first_and_then_frozen(tmp_path: Path) -> None:
    states = []

    def keep(event: Any) -> None:
        if event["event"] == "epoch":
            (last,) = sorted((tmp_path / "run" / "checkpoints").glob("[0-9]*"))[-1:]
            states.append(load_file(last / "model.safetensors"))

    report = start(image_run(tmp_path / "run", **KINDS["boosted"]), keep)
    assert report["loss"][1] < report["loss"][0]
    for name, first in states[0].items():
        second, third = states[1][name], states[2][name]
        learned_first = name.startswith("auto_encoder")
        assert first.equal(second) is not learned_first, name
        assert second.equal(third) is learned_first, name


class Fixed(nn.Module):
    """Answers the same for every image."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer.expand(len(images), -1)


def test_no_epoch_of_pretraining_is_the_best_or_waited_for(tmp_path: Path) -> None:
    model = dataclasses.replace(BOOSTED, pretraining=4)
    told = start(image_run(tmp_path / "run", model=model, ema=0.0, epochs=6, patience=1, keep="best"), ignore)
    assert told["epochs"] >= 5
    notes: list[str] = []
    short = image_run(tmp_path / "short", model=model, ema=0.0, epochs=4)
    start(short, lambda event: notes.append(event["text"]) if event["event"] == "note" else None)
    assert [note for note in notes if "all epochs of the run (4) are the model's pretraining" in note]


def test_accuracy_and_loss_are_what_they_are_called(tmp_path: Path) -> None:
    task = opened(image_run(tmp_path / "run", evaluation_batch=3))
    answer = torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64)
    metrics = task.evaluate(Fixed(answer))
    assert set(metrics) == {"validation_accuracy", "validation_loss", "test_accuracy", "test_loss"}
    assert sorted(task.measures) == sorted(metrics)
    for value, name in ((2, "validation"), (3, "test")):
        labels = task.reader.labels[task.reader.split == value]
        assert metrics[f"{name}_accuracy"] == pytest.approx(float((labels == 1).double().mean()))
        expected = nn.functional.cross_entropy(answer.expand(len(labels), -1), labels)
        assert metrics[f"{name}_loss"] == pytest.approx(float(expected), rel=1e-12)


def test_the_average_follows_the_weights_and_answers_in_evaluation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small().build(2, 3)
    averaged = Averaged(network, 0.5)
    images = torch.rand(4, 2, 7, 6)
    expected = {name: weight.clone() for name, weight in network.state_dict().items()}
    for step in range(1, 20):
        share = min(0.5, step / (step + 9))
        for name, weight in network.state_dict().items():
            expected[name] = share * expected[name] + (1 - share) * weight
        averaged(images)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.1 * step)
    assert [name for name, _ in averaged.named_parameters()] == [f"network.{n}" for n, _ in network.named_parameters()]
    for name, weight in averaged.average.state_dict().items():
        torch.testing.assert_close(weight, expected[name])
    plain = Small().build(2, 3)
    plain.load_state_dict(expected)
    torch.testing.assert_close(averaged.eval()(images), plain.eval()(images))


def test_predictions_cover_every_image_once_whoever_makes_them(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run", epochs=1)
    start(run, ignore)
    tables = [
        parquet.read_table(start(dataclasses.replace(run, workers=workers), ignore, predict)["path"])
        for workers in (1, 2)
    ]
    assert tables[0]["id"].to_pylist() == sorted(f"stripes {number}" for number in range(70))
    assert tables[0]["class"] == tables[1]["class"]
    assert tables[0]["score"].to_numpy() == pytest.approx(tables[1]["score"].to_numpy(), rel=1e-9)
    assert set(tables[0]["class_name"].to_pylist()) <= {*"abc"}


def test_stripes_are_learned(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run", epochs=12, augment=ImageAugmentation(crop=0), ema=0.0, dtype="float32")
    assert start(run, ignore)["metrics"]["test_accuracy"] > 0.9


def test_the_network_of_the_guide_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "classify-images.md"
    (text,) = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "guide_plain.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plain = importlib.import_module("guide_plain").Plain
    report = start(image_run(tmp_path / "run", model=plain(), epochs=2), ignore)
    assert len(report["loss"]) == 2
    network = plain().build(2, 3)
    assert network(torch.zeros(0, 2, 7, 6)).shape == (0, 3)


def test_half_precision_where_the_device_has_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float64; expected float32 beside it"):
        next(iter(opened(image_run(tmp_path / "run", precision="bfloat16")).batches(0, 0)))
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(InputError, match="this cpu has no arithmetic for"):
            next(iter(opened(image_run(tmp_path / "run", precision="bfloat16", dtype="float32")).batches(0, 0)))
        return
    reports = [
        start(image_run(tmp_path / name, precision=name, dtype="float32", epochs=2), ignore)
        for name in ("bfloat16", "float32")
    ]
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], rel=0.02)
    assert reports[0]["loss"] != reports[1]["loss"]


def test_an_altered_byte_is_not_learned_from(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run")
    file = opened(run).store.path / "part-00000" / "pixels.arrow"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"pixels\.arrow' was altered"):
        opened(run)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    task = opened(image_run(tmp_path / "run"))
    with pytest.raises(InputError, match=r"answered \(16, 4\); expected \(16, 3\), a row an? image"):
        task.loss(Fixed(torch.zeros(4)), next(iter(task.batches(0, 0))))
    with pytest.raises(InputError, match="give no embeddings"):
        task.predict(task.model(), embeddings=True)
    with pytest.raises(InputError, match="--batch-size is 0"):
        image_run(tmp_path / "run", batch_size=0)
    with pytest.raises(InputError, match="--ema is 1.0; expected at least 0 and less than 1"):
        image_run(tmp_path / "run", ema=1.0)
    with pytest.raises(InputError, match="--gradient local-steps"):
        opened(image_run(tmp_path / "run", gradient=LocalSteps()))
