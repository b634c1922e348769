"""The loop on a workload without a graph: resumed equals never stopped, early stopping, the kept weights, errors."""

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from line_workload import Line, LineTask

from framework.comm.group import Group
from framework.config import encode, placement
from framework.engine import checkpoint as checkpoints
from framework.engine.evaluate import evaluate, predict
from framework.engine.files import replacing
from framework.engine.kept import newest
from framework.engine.optimize import SGD, Adam, AdamW, Cosine, InverseSquareRoot, Step
from framework.engine.recorded import recorded_digest
from framework.engine.run import Event, Prepared, Run, Worker
from framework.engine.train import train
from framework.errors import InputError, PluginError, ShardyardError, StoreError


class StoppedError(Exception):
    """Thrown in the middle of a run, as a kill would be."""


def worker(watch: Any = lambda event: None) -> Worker:
    prepared = Prepared(path=Path(), data_digest="line", seconds=0.0, facts={"parts": 1, "partitioner": "none"})
    return Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=watch)


def run(out: Path, **fields: Any) -> Run:
    return dataclasses.replace(Run(workload=Line(), epochs=4, checkpoint_every=1, out=str(out)), **fields)


def stop_at(epoch: int, step: int) -> Any:
    def watch(event: Event) -> None:
        if event["event"] == "step" and (event["epoch"], event["step"]) == (epoch, step):
            raise StoppedError

    return watch


@pytest.mark.parametrize("optimizer", [Adam(), AdamW(), SGD(nesterov=True)])
@pytest.mark.parametrize(
    "schedule", [Cosine(warmup=1), Cosine(warmup=1, by="step"), Step(every=2), InverseSquareRoot(warmup=3)]
)
def test_resumed_equals_never_stopped(tmp_path: Path, optimizer: Any, schedule: Any) -> None:
    settings = {"optimizer": optimizer, "schedule": schedule}
    whole = train(run(tmp_path / "whole", **settings), worker())
    with pytest.raises(StoppedError):
        train(run(tmp_path / "cut", **settings), worker(stop_at(3, 3)))
    events: list[Event] = []
    resumed = train(run(tmp_path / "cut", **settings), worker(events.append))
    # The step that was cut had no checkpoint yet; the one before had.
    assert [event for event in events if event["event"] == "resumed"] == [{"event": "resumed", "epoch": 2, "step": 2}]
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["loss"] == whole["loss"]
    assert resumed["metrics"] == whole["metrics"]


def test_epochs_between_checkpoints(tmp_path: Path) -> None:
    settings = {"checkpoint_every": 0, "save_every": 2, "epochs": 5}
    whole = train(run(tmp_path / "whole", **settings), worker())
    with pytest.raises(StoppedError):
        train(run(tmp_path / "cut", **settings), worker(stop_at(4, 1)))
    events: list[Event] = []
    resumed = train(run(tmp_path / "cut", **settings), worker(events.append))
    assert [event for event in events if event["event"] == "resumed"] == [{"event": "resumed", "epoch": 2, "step": 0}]
    assert resumed["weights_digest"] == whole["weights_digest"]
    last = newest(tmp_path / "cut" / "checkpoints", Group.alone())
    assert last is not None
    assert last.epoch == 5


def test_more_epochs_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    train(run(tmp_path / "two", epochs=2), worker())
    longer = train(run(tmp_path / "two", epochs=4), worker())
    assert longer["weights_digest"] == train(run(tmp_path / "four"), worker())["weights_digest"]


def test_a_run_of_no_epochs_can_be_asked(tmp_path: Path) -> None:
    report = train(run(tmp_path, epochs=0), worker())
    assert evaluate(run(tmp_path, epochs=0), worker())["weights_digest"] == report["weights_digest"]
    longer = train(run(tmp_path), worker())
    assert longer["weights_digest"] == train(run(tmp_path / "four"), worker())["weights_digest"]


def test_a_finished_run_only_reports(tmp_path: Path) -> None:
    first = train(run(tmp_path), worker())
    events: list[Event] = []
    again = train(run(tmp_path), worker(events.append))
    assert not [event for event in events if event["event"] == "step"]
    assert (again["weights_digest"], again["loss"]) == (first["weights_digest"], first["loss"])


def test_more_epochs_are_another_run_where_the_rate_looks_ahead(tmp_path: Path) -> None:
    train(run(tmp_path, epochs=2, schedule=Cosine()), worker())
    with pytest.raises(InputError, match="another run"):
        train(run(tmp_path, epochs=4, schedule=Cosine()), worker())


def test_another_run_s_checkpoints_are_refused(tmp_path: Path) -> None:
    train(run(tmp_path), worker())
    with pytest.raises(InputError, match="another run"):
        train(run(tmp_path, seed=1), worker())
    with pytest.raises(InputError, match="holds 4 epochs, --epochs is 2"):
        train(run(tmp_path, epochs=2), worker())
    elsewhere = dataclasses.replace(worker(), prepared=dataclasses.replace(worker().prepared, data_digest="other"))
    for main in (train, evaluate):
        with pytest.raises(InputError, match="other data"):
            main(run(tmp_path), elsewhere)


def test_fewer_epochs_are_not_those_and_some_steps(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(run(tmp_path), worker(stop_at(4, 3)))
    with pytest.raises(InputError, match="holds 3 epochs and 2 steps, --epochs is 3; choose another --out or more"):
        train(run(tmp_path, epochs=3), worker())
    assert train(run(tmp_path), worker())["epochs"] == 4


def test_patience_stops_and_best_weights_are_kept(tmp_path: Path) -> None:
    # The rate jumps up after two epochs, so that the metric falls from there on.
    settings = {"optimizer": SGD(lr=0.05, momentum=0.0), "schedule": Step(every=2, gamma=200.0), "patience": 2}
    report = train(run(tmp_path, epochs=50, keep="best", **settings), worker())
    assert report["epochs"] < 50
    found = newest(tmp_path / "checkpoints", Group.alone())
    assert found is not None
    assert not torch.equal(found.tensors["best"]["0.weight"], found.tensors["model"]["0.weight"])
    told = evaluate(run(tmp_path, epochs=50, keep="best", **settings), worker())
    assert told["metrics"] == report["metrics"] == found.facts["best"]
    assert told["weights_digest"] == report["weights_digest"]


def test_an_end_by_patience_is_measured(tmp_path: Path) -> None:
    # The rate jumps up after two epochs, so that the metric falls from there on.
    settings: dict[str, Any] = {"optimizer": SGD(lr=0.05, momentum=0.0), "schedule": Step(every=2, gamma=12.0)}
    settings |= {"patience": 1, "evaluate_every": 2, "min_epochs": 5, "epochs": 50}
    report = train(run(tmp_path, **settings), worker())
    assert report["epochs"] == 6, "the first even epoch from the fifth on; the second was the best"
    told = evaluate(run(tmp_path, **settings), worker())
    assert told["metrics"] == report["metrics"]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    risen: dict[str, Any] = {"optimizer": SGD(lr=0.05), "schedule": Step(every=2, gamma=1e30)}
    with pytest.raises(ShardyardError, match=r"^the loss of epoch \d+ is (nan|inf): nothing is learned any more"):
        train(run(tmp_path, epochs=50, checkpoint_every=0, **risen), worker())
    found = newest(tmp_path / "checkpoints", Group.alone())
    assert found is not None
    assert found.epoch == 2
    assert all(value.isfinite().all() for value in found.tensors["model"].values())


@pytest.mark.parametrize("epochs", [3, 50])
def test_weights_that_are_no_numbers_end_the_run(tmp_path: Path, epochs: int) -> None:
    """The loss of an epoch is that of the weights before its last step."""
    whole = Line(batch_size=64)
    risen: dict[str, Any] = {"optimizer": SGD(lr=0.03, weight_decay=100.0), "schedule": Step(every=2, gamma=1e40)}
    with pytest.raises(ShardyardError, match=r"^weights are no numbers after epoch 3: nothing is learned any more"):
        train(run(tmp_path, epochs=epochs, workload=whole, checkpoint_every=0, **risen), worker())
    found = newest(tmp_path / "checkpoints", Group.alone())
    assert found is not None
    assert found.epoch == 2


def test_an_unknown_monitor_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"monitor is 'accuracy'.*validation_accuracy"):
        train(run(tmp_path, monitor="accuracy", patience=1), worker())


def test_a_metric_that_was_no_number_is_bettered(tmp_path: Path) -> None:
    nothing = float("nan")
    higher, lower = run(tmp_path), run(tmp_path, monitor="test_loss")
    for one in (higher, lower):
        assert one.improves(0.5, nothing)
        assert not one.improves(nothing, 0.5)
        assert not one.improves(nothing, nothing), "or patience would never end"
    assert (higher.improves(0.6, 0.5), lower.improves(0.6, 0.5)) == (True, False)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("evaluate", None, r"evaluate\(\) gave a NoneType; expected a dict of numbers"),
        (
            "evaluate",
            {"error": torch.tensor(0.5)},
            r"evaluate\(\) gave 'error': tensor\(0\.5000\) \(Tensor\); expected",
        ),
        ("evaluate", {"error": numpy.float32(0.5)}, r"gave 'error': .*0\.5.* \(float32\); expected a name and a float"),
        ("evaluate", {"error": "0.5"}, r"gave 'error': '0\.5' \(str\); expected"),
        ("loss", 0.5, r"loss\(\) gave a float; expected a tensor of one number"),
        ("loss", torch.ones(3, 2), r"loss\(\) gave a Tensor \[3, 2\]; expected a tensor of one number"),
    ],
)
def test_what_a_workload_may_not_answer_is_named(
    name: str, answer: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LineTask, name, lambda *given: answer)
    with pytest.raises(PluginError, match=said):
        train(run(tmp_path), worker())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foretold(Line):
    """A line whose task says beforehand what it measures."""

    def open(self, run: Run, worker: Worker) -> Any:
        task = super().open(run, worker)
        task.measures = ["validation_accuracy"]  # type: ignore[attr-defined]
        return task


def test_an_unknown_monitor_is_named_before_the_first_step(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"workload": Foretold(), "keep": "best", "evaluate_every": 3, "epochs": 4}
    with pytest.raises(InputError, match=r"monitor is 'accuracy'; expected what this run measures: validation_acc"):
        train(run(tmp_path, monitor="accuracy", **settings), worker(stop_at(1, 1)))
    assert train(run(tmp_path, **settings), worker())["epochs"] == 4
    settings["keep"] = "last"
    assert train(run(tmp_path / "last", monitor="accuracy", **settings), worker())["epochs"] == 4


def test_predictions_are_those_of_the_weights(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with pytest.raises(InputError, match="no checkpoint"):
        predict(run(tmp_path), worker())
    report = train(run(tmp_path), worker())
    table = pq.read_table(predict(run(tmp_path), worker())["path"])
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    y = (3 * x + 1 + 0.1 * torch.sin(40 * x)).squeeze(1)
    error = ((torch.tensor(table["score"].to_numpy()) - y) ** 2).mean()
    assert table["id"].to_pylist() == list(range(64))
    assert -float(error) == pytest.approx(report["metrics"]["validation_accuracy"], rel=1e-5)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = train(run(tmp_path / "whole"), worker())
    train(run(tmp_path / "cut"), worker())
    folder = tmp_path / "cut" / "checkpoints"
    last = folder / checkpoints.places(folder)[-1]
    data = bytearray((last / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (last / "model.safetensors").write_bytes(data)
    with pytest.raises(StoreError, match=r"model.safetensors is damaged"):
        checkpoints.read(last)
    with pytest.raises(StoreError, match=r"model.safetensors is damaged"):
        evaluate(run(tmp_path / "cut"), worker())  # which changes nothing, and does not make do with an older one
    events: list[Event] = []
    assert train(run(tmp_path / "cut"), worker(events.append))["weights_digest"] == whole["weights_digest"]
    assert {"event": "damaged", "checkpoints": [last.name]} in events
    # The damaged one was set aside and made again, so that whoever reads next has the right one.
    assert checkpoints.read(last).tensors["model"].keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert evaluate(run(tmp_path / "cut"), worker())["weights_digest"] == whole["weights_digest"]
    assert len(list(folder.glob("damaged-*"))) == 1


def test_two_hosts_tidy_one_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other one has set aside is gone, between two looks of this one."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(checkpoints, "places", lambda folder: ["000001-00000000"])
    assert checkpoints.tidy(tmp_path / "checkpoints") == ["000001-00000000"]


def test_every_checkpoint_damaged_is_a_new_beginning(tmp_path: Path) -> None:
    whole = train(run(tmp_path), worker())
    for name in checkpoints.places(tmp_path / "checkpoints"):
        index = tmp_path / "checkpoints" / name / "checkpoint.json"
        index.write_text(index.read_text().replace('"since_best": ', '"since_best": 1'))
    assert train(run(tmp_path), worker())["weights_digest"] == whole["weights_digest"]
    assert evaluate(run(tmp_path), worker())["weights_digest"] == whole["weights_digest"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    torn = tmp_path / "checkpoints" / ".000001-00000000.0123"
    torn.mkdir(parents=True)
    weights = tmp_path / f".model.safetensors.{'0' * 32}"
    weights.touch()
    train(run(tmp_path), worker())
    assert not torn.exists()
    assert not weights.exists()


def test_two_hosts_write_a_file_of_one_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_newer_checkpoint_and_a_missing_one_are_named(tmp_path: Path) -> None:
    train(run(tmp_path), worker())
    folder = tmp_path / "checkpoints"
    last = folder / checkpoints.places(folder)[-1]
    index = json.loads((last / "checkpoint.json").read_text())
    (last / "checkpoint.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(StoreError, match="version 99"):
        checkpoints.read(last)
    with pytest.raises(StoreError, match="version 99"):
        train(run(tmp_path), worker())  # and does not begin anew beside it
    with pytest.raises(StoreError, match=r"no checkpoint\.json"):
        checkpoints.read(tmp_path)


def test_a_full_disk_leaves_no_checkpoint_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        train(run(tmp_path), worker())
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("patience", 0), ("deadline", 0.0), ("deadline", float("inf"))),
        *(("keep", "all"), ("device", "tpu"), ("epochs", 1.5)),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--{field} is"):
        run(tmp_path, **{field: value})


def test_a_schedule_without_steps_is_refused() -> None:
    with pytest.raises(InputError, match="--schedule.every is 0"):
        Step(every=0)


def test_a_disk_that_gives_no_answer_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(run(tmp_path), worker())
    folder = tmp_path / "checkpoints"
    before = checkpoints.places(folder)
    reads = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "model.safetensors":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return reads(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(InputError, match="cannot be read: Stale file handle; look at the disk"):
        train(run(tmp_path), worker())
    assert checkpoints.places(folder) == before
    assert not list(folder.glob("damaged-*"))


def test_a_kill_while_an_old_checkpoint_goes_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run(tmp_path), worker())
    folder = tmp_path / "checkpoints"
    torn = folder / ".000009-00000000.x"
    shutil.copytree(folder / checkpoints.places(folder)[-1], torn)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda path, **_: None)  # killed before it removes anything
    checkpoints.publish(torn, folder / "000009-00000000")
    assert len(checkpoints.places(folder)) == checkpoints.KEPT
    monkeypatch.undo()
    assert checkpoints.tidy(folder) == []
    assert not list(folder.glob(".0*"))


def test_a_run_is_asked_while_it_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was the newest one is dropped between two looks: then there is a newer one."""
    train(run(tmp_path), worker())
    folder = tmp_path / "checkpoints"
    last = checkpoints.places(folder)[-1]
    reads, gone = checkpoints.read_common, []

    def slowly(place: Path) -> checkpoints.Checkpoint:
        if not gone:
            gone.append(place)
            place.rename(place.with_name("000009-00000000"))
        return reads(place)

    monkeypatch.setattr(checkpoints, "read_common", slowly)
    found = newest(folder, Group.alone())
    assert gone == [folder / last]
    assert found is not None
    assert checkpoints.places(folder)[-1] == "000009-00000000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knob:
    """Says where something runs, within a sequence."""

    where: str = placement("here")
    what: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knobbed(Line):
    """A line with knobs that do nothing."""

    knobs: tuple[Knob, ...] = (Knob(), Knob(what=2))
    named: Mapping[str, Knob] = dataclasses.field(default_factory=lambda: {"a": Knob()})


def test_a_record_is_its_run_s_whatever_holds_what_says_where() -> None:
    one = Run(workload=Knobbed(), epochs=2)
    assert recorded_digest(encode(one), one) == one.digest()
    there = dataclasses.replace(Knobbed(), knobs=(Knob(where="there"), Knob(what=2)), named={"a": Knob(where="there")})
    assert recorded_digest(encode(dataclasses.replace(one, workload=there)), one) == one.digest()
    other = dataclasses.replace(Knobbed(), knobs=(Knob(), Knob(what=3)))
    assert recorded_digest(encode(dataclasses.replace(one, workload=other)), one) != one.digest()
