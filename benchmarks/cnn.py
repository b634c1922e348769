"""Convolutional networks of seven kinds on images: accuracy, weights, seconds; and how little workers show in float32.

Run: python -m benchmarks.cnn [--sets mnist-5k fashion-mnist] [--recipes cnn-resnet ...]

Assumptions: every recipe as `shardyard train` has it, on two workers of this host with one thread each: on the digits
of mnist-5k over three seeds, without mirroring and for more epochs, for there are fewer images; on Fashion-MNIST once.
Runs lie in a folder of their own (`--work`), where one that was stopped goes on at its last epoch; rows that are there
are not measured again. Drift: the recipe of ResNet on the digits, on one worker and on two.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.data.image_sets import FashionMNIST, ImageSet, PackagedDigits
from framework.engine.run import Prepared, Run
from framework.models.cnn.resnet import ResNet
from framework.workloads.images import ImageClassification
from launch.recipes import images as recipes

ROWS = harness.ROWS / "cnn.jsonl"
DOCUMENT = harness.DOCUMENTS / "cnn.md"
RECIPES: dict[str, Callable[[], Run]] = {
    "cnn-vgg": recipes.cnn_vgg,
    "cnn-resnet": recipes.cnn_resnet,
    "cnn-densenet": recipes.cnn_densenet,
    "cnn-wideresnet": recipes.cnn_wideresnet,
    "cnn-resnext": recipes.cnn_resnext,
    "cnn-senet": recipes.cnn_senet,
    "cnn-boosted": recipes.cnn_boosted,
    "cnn-cbam": recipes.cnn_cbam,
}
SETS: dict[str, ImageSet] = {"mnist-5k": PackagedDigits(), "fashion-mnist": FashionMNIST()}
SEEDS = {"mnist-5k": 3, "fashion-mnist": 1}
DIGIT_EPOCHS = 18
"""More than a recipe has: an epoch of the digits is a sixteenth of one of Fashion-MNIST."""
WORKERS = 2
DRIFT: dict[Literal["float32", "float64"], tuple[int, int]] = {"float32": (20, 3), "float64": (8, 1)}
"""Layers of the ResNet, and epochs, by type: convolutions of float64 are slow."""


def main() -> None:
    """Run what is missing, then render the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--epochs", type=int, help="less than recipes have: for a trial")
    parser.add_argument("--no-drift", action="store_true", help="leave one worker against two out")
    parser.add_argument("--work", type=Path, default=Path("runs/cnn-benchmark"), help="folder of runs and stores")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables")
    options = parser.parse_args()
    done = {_which(row) for row in harness.read(options.out)}
    for name, run, workers, which in _wanted(options):
        if which not in done:
            row = _trained(options.work.absolute(), name, run, workers)
            harness.append(options.out, {**row, **dict(zip(_FIELDS, which, strict=True))})
            print(f"{', '.join(map(str, which))}: {row['metrics']}", flush=True)
    render(options.out, options.render)


_FIELDS = ("kind", "set", "name", "seed", "workers", "dtype")


def _which(row: harness.Row) -> tuple[Any, ...]:
    """What tells a row from all others."""
    return tuple(row[field] for field in _FIELDS)


def _wanted(options: argparse.Namespace) -> list[tuple[str, Run, int, tuple[Any, ...]]]:
    """Every run that there should be a row of: a name for its folder, the run, its workers, and what it is."""
    wanted = []
    for images in options.sets:
        for seed in range(SEEDS[images]):
            for name in options.recipes:
                run = _run(name, images, seed, options.epochs)
                which = ("accuracy", images, name, seed, WORKERS, "float32")
                wanted.append((f"{images}-{name}-{seed}", run, WORKERS, which))
    for dtype, (depth, epochs) in {} if options.no_drift else DRIFT.items():
        for workers in (1, 2):
            run = _run("cnn-resnet", "mnist-5k", 0, min(epochs, options.epochs or epochs))
            run = dataclasses.replace(_with(run, model=ResNet(depth=depth)), dtype=dtype)
            which = ("drift", "mnist-5k", f"resnet-{depth}", 0, workers, dtype)
            wanted.append((f"drift-{dtype}-{workers}", run, workers, which))
    return wanted


def _run(name: str, images: str, seed: int, epochs: int | None) -> Run:
    run = RECIPES[name]()
    assert isinstance(run.workload, ImageClassification)
    if images == "mnist-5k":
        augment = dataclasses.replace(run.workload.augment, flip=False)
        more = DIGIT_EPOCHS - recipes.EPOCHS
        run = dataclasses.replace(_with(run, data=SETS[images], augment=augment), epochs=run.epochs + more)
    return dataclasses.replace(run, seed=seed, epochs=epochs or run.epochs)


def _with(run: Run, **fields: Any) -> Run:
    """The run with other fields of its workload."""
    assert isinstance(run.workload, ImageClassification)
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, **fields))


def _trained(work: Path, name: str, run: Run, workers: int) -> harness.Row:
    """One run, or what is left of it."""
    run = dataclasses.replace(run, workers=workers, out=str(work / name), store=str(work / "stores"))
    assert isinstance(run.workload, ImageClassification)
    prepared: Prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    report = Cluster().together("framework.engine.train:train", run, prepared, workers)[0]
    channels, classes = prepared.facts["size"][2], 10
    network = run.workload.model.build(channels, classes)
    return {
        **harness.environment(seed=run.seed, run_digest=run.digest(), data_digest=prepared.data_digest),
        "weights": sum(weight.numel() for weight in network.parameters()),
        **{field: report[field] for field in ("metrics", "epochs", "loss", "seconds", "bytes")},
    }


# --- Tables ----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`."""
    kinds = {kind: rows for (kind,), rows in harness.grouped(harness.read(rows_path), "kind").items()}
    body = []
    for (images, name), rows in harness.grouped(kinds.get("accuracy", []), "set", "name").items():
        epoch = harness.median(rows, lambda row: row["seconds"]["epoch_median"])
        megabytes = harness.median(rows, lambda row: row["bytes"]["total"] / row["epochs"] / 1e6)
        counts = (f"{rows[0]['weights']:,}", str(rows[0]["epochs"]), str(len(rows)))
        body.append([f"{images} {name}", *counts, _spread(rows), f"{epoch:.1f}", f"{megabytes:,.0f}"])
    headers = ("set and recipe", "weights", "epochs", "seeds", "test accuracy, %", "s an epoch", "MB an epoch")
    document.parent.mkdir(parents=True, exist_ok=True)
    text = _INTRODUCTION + harness.markdown(headers, body)
    document.write_text(text + _DRIFT + harness.markdown(*_drift(kinds.get("drift", []))))


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
with one thread each. Accuracy on test images after the last epoch, mean and standard deviation over seeds; weights for
one channel and ten classes, an auto-encoder's included; seconds an epoch: median of a run, without evaluation; MB: what
both workers send. *mnist-5k*: digits, 3,500 to train on, not mirrored; *fashion-mnist*: clothes, 57,000 to train on.

"""
_DRIFT = """
## One worker and two

The same run of a ResNet on the digits, augmentation and batch normalisation on, on one worker and on two. In float32
only the order of sums differs, and training makes the difference larger from step to step.

"""


if __name__ == "__main__":
    main()
