"""A pipeline that takes seconds: a line is learned, its points are read off piece by piece, another line learns them.

Every product keeps account of how often it was made, and of every piece: in the folder that COUNTS names.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from line_workload import Line, LineTask
from safetensors.torch import load_file

from framework.config import placement
from framework.engine.pipeline import Pipeline
from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.made import Made

COUNTS = "TINY_PIPELINE_COUNTS"


def count(name: str) -> None:
    """Notes that `name` was done once more."""
    with (Path(os.environ[COUNTS]) / name).open("a") as file:
        file.write(".")


def counted() -> dict[str, int]:
    """How often what was done."""
    return {file.name: file.stat().st_size for file in sorted(Path(os.environ[COUNTS]).iterdir())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """What a learned line says of some points, each in a piece of its own."""

    line: Made = Made(step="teacher")
    points: int = 10
    """Number of points."""
    times: float = 1.0
    """What answers are multiplied by."""
    pause: float = placement(0.0)
    """Seconds before each point."""

    def make(self, folder: Path, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
        count("points")
        weights = load_file(Path(self.line.path) / "model.safetensors")
        for point in range(self.points):
            piece = work / f"{point}.json"
            if not piece.exists():
                time.sleep(self.pause)
                piece.write_text(json.dumps(self.times * float(weights["0.bias"].sum()) + point))
                count("piece")
            watch(
                {"event": "pieces", "what": "read off", "unit": "points", "done": point + 1, "total": self.points}
                | {"rate": 1.0, "left": float(self.points - point - 1)}
            )
        answers = [json.loads((work / f"{point}.json").read_text()) for point in range(self.points)]
        (folder / "points.json").write_text(json.dumps(answers))
        return {"points": len(answers)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted:
    """A line, moved by what a product says."""

    by: Made = Made(step="points")
    line: Line = Line(points=16)

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        return Prepared(path=Path(self.by.path), data_digest=self.by.digest, seconds=0.0, facts={"parts": 1})

    def open(self, run: Run, worker: Worker) -> LineTask:
        task = self.line.open(run, worker)
        task.y = task.y + sum(json.loads((worker.prepared.path / "points.json").read_text()))
        count("student")
        return task


def pipeline() -> Pipeline:
    """Teacher, points, student; and a run that depends on neither."""
    return Pipeline(
        steps={
            "teacher": Run(workload=Line(), epochs=2),
            "points": Points(),
            "student": Run(workload=Shifted(), epochs=2),
            "lone-line": Run(workload=Line(points=32), epochs=1),
        }
    )
