"""Convolutional networks of seven kinds on images: accuracy, weights, seconds; and how little workers show in float32.

Run: python -m benchmarks.cnn [--sets fashion-mnist mnist-5k] [--recipes cnn-resnet ...] [--precision bfloat16]

Assumptions: every recipe as `shardyard train` has it, on two workers of this host with one thread each: on
Fashion-MNIST once; on the digits of mnist-5k over three seeds, without mirroring and for more epochs, for there are
fewer images. A row is of a run as its digest says: one that is there is not measured again, one of a recipe as it was
before is neither counted nor shown. Runs lie in a folder of their own (`--work`), where one that was stopped goes on at
its last epoch. Drift: the recipe of ResNet on the digits, on one worker and on two.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.data.image_sets import FashionMNIST, ImageSet, PackagedDigits
from framework.engine.run import Prepared, Run
from framework.errors import ShardyardError
from framework.models.cnn.resnet import ResNet
from framework.workloads.images import ImageClassification
from launch.recipes import images as recipes

ROWS = harness.ROWS / "cnn.jsonl"
DOCUMENT = harness.DOCUMENTS / "cnn.md"
RECIPES: dict[str, Callable[[], Run]] = {
    "cnn-resnet": recipes.cnn_resnet,
    "cnn-vgg": recipes.cnn_vgg,
    "cnn-densenet": recipes.cnn_densenet,
    "cnn-wideresnet": recipes.cnn_wideresnet,
    "cnn-resnext": recipes.cnn_resnext,
    "cnn-senet": recipes.cnn_senet,
    "cnn-boosted": recipes.cnn_boosted,
    "cnn-cbam": recipes.cnn_cbam,
}
SETS: dict[str, ImageSet] = {"fashion-mnist": FashionMNIST(), "mnist-5k": PackagedDigits()}
"""Both in the order in which they are run: what the others are held against is there first."""
SEEDS = {"fashion-mnist": 1, "mnist-5k": 3}
PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
DIGIT_EPOCHS = 18
"""More than a recipe has: an epoch of the digits is a sixteenth of one of Fashion-MNIST."""
WORKERS = 2
DRIFT: dict[Literal["float32", "float64"], tuple[int, int]] = {"float32": (20, 3), "float64": (8, 3)}
"""Layers of the ResNet, and epochs, by type: convolutions of float64 take twice as long."""


def main() -> None:
    """Run what is missing, then render the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="what convolutions compute in")
    parser.add_argument("--epochs", type=int, help="less than recipes have: for a trial, in files of its own")
    parser.add_argument("--no-drift", action="store_true", help="leave one worker against two out")
    parser.add_argument("--work", type=Path, default=Path("runs/cnn-benchmark"), help="folder of runs and stores")
    parser.add_argument("--out", type=Path, help="the rows")
    parser.add_argument("--render", type=Path, help="the tables")
    options = parser.parse_args()
    trial = options.epochs is not None
    out = options.out or (options.work / "trial.jsonl" if trial else ROWS)
    document = options.render or (options.work / "trial.md" if trial else DOCUMENT)
    wanted = _drift_runs(options.epochs) if not options.no_drift and options.precision == "float32" else []
    wanted = _accuracy_runs(options.sets, options.recipes, options.precision, options.epochs) + wanted
    work = options.work.absolute()
    try:
        one_of_each = {which["set"]: run for which, run in wanted}
        prepared = {images: _prepared(work, run) for images, run in one_of_each.items()}  # what is missing, at once
    except ShardyardError as error:
        raise SystemExit(str(error)) from error
    done = [_identity(row) for row in harness.read(out)]
    for which, run in wanted:
        if _identity(which) not in done:
            row = {**_trained(work, which, run, prepared[which["set"]]), **which}
            harness.append(out, row)
            render(out, document, options.epochs)
            print(f"{', '.join(map(str, _identity(which)[:-1]))}: {row['metrics']}", flush=True)
    render(out, document, options.epochs)


_FIELDS = ("kind", "set", "name", "seed", "workers", "dtype", "precision", "run_digest")

Wanted = tuple[harness.Row, Run]
"""What tells a row from all others, and the run that it is to be of."""


def _identity(row: harness.Row) -> tuple[Any, ...]:
    return tuple(row.get(field) for field in _FIELDS)


def _digests(epochs: int | None) -> set[str]:
    """Of all runs that there are, as recipes are now."""
    runs = [wanted for precision in PRECISIONS for wanted in _accuracy_runs(SETS, RECIPES, precision, epochs)]
    return {run.digest() for _, run in [*runs, *_drift_runs(epochs)]}


def _accuracy_runs(
    sets: Collection[str], names: Collection[str], precision: Literal["float32", "bfloat16"], epochs: int | None
) -> list[Wanted]:
    wanted = []
    for images in sets:
        for seed in range(SEEDS[images]):
            for name in names:
                run = _with(_run(name, images, seed, epochs), precision=precision)
                wanted.append((_which("accuracy", images, name, run, WORKERS), run))
    return wanted


def _drift_runs(epochs: int | None) -> list[Wanted]:
    wanted = []
    for dtype, (depth, most) in DRIFT.items():
        for workers in (1, 2):
            run = _run("cnn-resnet", "mnist-5k", 0, min(most, epochs or most))
            run = dataclasses.replace(_with(run, model=ResNet(depth=depth)), dtype=dtype)
            wanted.append((_which("drift", "mnist-5k", f"resnet-{depth}", run, workers), run))
    return wanted


def _which(kind: str, images: str, name: str, run: Run, workers: int) -> harness.Row:
    assert isinstance(run.workload, ImageClassification)
    values = (kind, images, name, run.seed, workers, run.dtype, run.workload.precision, run.digest())
    return dict(zip(_FIELDS, values, strict=True))


def _run(name: str, images: str, seed: int, epochs: int | None) -> Run:
    run = _with(RECIPES[name](), data=SETS[images])
    if images == "mnist-5k":
        assert isinstance(run.workload, ImageClassification)
        augment = dataclasses.replace(run.workload.augment, flip=False)
        more = DIGIT_EPOCHS - recipes.EPOCHS
        run = dataclasses.replace(_with(run, augment=augment), epochs=run.epochs + more)
    return dataclasses.replace(run, seed=seed, epochs=epochs or run.epochs)


def _with(run: Run, **fields: Any) -> Run:
    """The run with other fields of its workload."""
    assert isinstance(run.workload, ImageClassification)
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, **fields))


def _prepared(work: Path, run: Run) -> Prepared:
    return run.workload.prepare(work / "stores", map, lambda event: None)


def _trained(work: Path, which: harness.Row, run: Run, prepared: Prepared) -> harness.Row:
    """One run, or what is left of it."""
    folder = "-".join(str(which[field]) for field in _FIELDS[:-1]) + f"-{which['run_digest'][:12]}"
    run = dataclasses.replace(run, workers=which["workers"], out=str(work / folder), store=str(work / "stores"))
    report = Cluster().together("framework.engine.train:train", run, prepared, run.workers)[0]
    assert isinstance(run.workload, ImageClassification)
    network = run.workload.model.build(prepared.facts["size"][2], 10)
    return {
        **harness.environment(seed=run.seed, run_digest=run.digest(), data_digest=prepared.data_digest),
        "weights": sum(weight.numel() for weight in network.parameters()),
        **{field: report[field] for field in ("metrics", "epochs", "loss", "seconds", "bytes")},
    }


# --- Tables ----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path, epochs: int | None = None) -> None:
    """Write the tables of those rows at `rows_path` that are of the recipes as they are, or of a trial of `epochs`."""
    current = _digests(epochs)
    rows = [row for row in harness.read(rows_path) if row["run_digest"] in current]
    kinds = {kind: group for (kind,), group in harness.grouped(rows, "kind").items()}
    groups = harness.grouped(kinds.get("accuracy", []), "set", "name", "precision")
    body = []
    for images, name, precision in sorted(groups, key=_place):
        group = groups[(images, name, precision)]
        epoch = harness.median(group, lambda row: row["seconds"]["epoch_median"])
        megabytes = harness.median(group, lambda row: row["bytes"]["total"] / row["epochs"] / 1e6)
        counts = (f"{group[0]['weights']:,}", str(group[0]["epochs"]), str(len(group)))
        body.append([f"{images} {name}", precision, *counts, _spread(group), f"{epoch:.1f}", f"{megabytes:,.0f}"])
    headers = ("set and recipe", "in", "weights", "epochs", "seeds", "test accuracy, %", "s an epoch", "MB an epoch")
    document.parent.mkdir(parents=True, exist_ok=True)
    text = _INTRODUCTION + harness.markdown(headers, body)
    document.write_text(text + _DRIFT + harness.markdown(*_drift(kinds.get("drift", []))))


def _place(group: tuple[Any, ...]) -> tuple[int, ...]:
    """Where a set, a recipe and a precision stand in the table."""
    orders: tuple[list[str], ...] = (list(SETS), list(RECIPES), list(PRECISIONS))
    return tuple(order.index(value) for order, value in zip(orders, group, strict=True))


def _spread(rows: Sequence[harness.Row]) -> str:
    values = [100 * row["metrics"]["test_accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _drift(rows: Sequence[harness.Row]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """The relative difference of the losses of one worker and two, after every epoch, by type."""
    body: list[Sequence[str]] = []
    for (dtype, name), pair in harness.grouped(rows, "dtype", "name").items():
        losses = {row["workers"]: row["loss"] for row in pair}
        if set(losses) == {1, 2}:
            apart = [abs(one - two) / abs(one) for one, two in zip(losses[1], losses[2], strict=True)]
            body.append([f"{dtype}, {name}", ", ".join(f"{difference:.1e}" for difference in apart)])
    return ("type and network", "relative difference of losses, epoch by epoch"), body


_INTRODUCTION = """# Convolutional networks

Rendered by `python -m benchmarks.cnn` from `benchmarks/rows/cnn.jsonl`: recipes as they are, on two workers of one host
with one thread each. Accuracy on test images after the last epoch, mean and standard deviation over seeds; *in*: what
convolutions compute in; weights for one channel and ten classes, an auto-encoder's included; seconds an epoch: median
of a run, without evaluation, beside whatever else the machine did; MB: what both workers send. *fashion-mnist*:
clothes, 57,000 to train on; *mnist-5k*: digits, 3,500 to train on, not mirrored.

"""
_DRIFT = """
## One worker and two

The same run of a ResNet on the digits, augmentation and batch normalisation on, on one worker and on two. Only the
order of sums differs, and training makes the difference larger from step to step. The network of float64 is the smaller
one, for its convolutions take twice as long.

"""


if __name__ == "__main__":
    main()
