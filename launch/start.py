"""Starting a run: prepare its data, start its workers, and say how long each took. For the command line and Python."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework.engine.run import Event, Main, Run
from framework.engine.train import train
from launch.prepared import Preparing, launcher_of, noted_data, prepared_data
from launch.record import recording


def start(
    run: Run, watch: Callable[[Event], None], main: Main = train, preparing: Preparing = prepared_data
) -> dict[str, Any]:
    """What `main` returns on the run's first worker, with seconds (`prepare`, `start`, `total`) added to it.

    `preparing` has the data ready. `start` is the time from launching until the first worker has said `started`.
    Raises ShardyardError."""
    began = time.perf_counter()
    run = dataclasses.replace(run, out=str(Path(run.out).absolute()), store=str(Path(run.store).absolute()))
    prepared = preparing(run, watch)
    launched = time.perf_counter()
    started: list[float] = []

    def noting(event: Event) -> None:
        if event["event"] == "started" and not started:
            started.append(time.perf_counter() - launched)
        watch(event)

    result = launcher_of(run).launch(main, run, prepared, noting)
    seconds = {
        "prepare": launched - began,
        "start": started[0] if started else 0.0,
        "total": time.perf_counter() - began,
    }
    return {**result, "seconds": {**result.get("seconds", {}), **seconds}}


def recorded(run: Run, show: Callable[[Event], None]) -> dict[str, Any]:
    """As `start`, with all that is told and the report written to the run's folder. Raises as `recording`, too.

    The report says what the run `was`: made, resumed, or reused, where it was finished before and nothing was trained.
    Then the report, and what else the folder says, stays that of the start that trained: a run's figures are those of
    its placement, and this one's may be another."""
    became = Became()
    with recording(run) as record:

        def watch(event: Event) -> None:
            became.watch(event)
            record(event)
            show(event)

        report = start(run, watch, preparing=noted_data)
        report["was"] = became.was
        if became.was == "reused":
            earlier = record.earlier_report(report)
            if earlier is not None:
                watch({"event": "reused", "folder": run.out})
                record.restore()
                return {**earlier, "was": became.was}
        record.report(report)
    return report


class Became:
    """What became of a run in one start, by its events; its workers may be started several times in it."""

    def __init__(self) -> None:
        self._was = ""

    @property
    def was(self) -> str:
        """`made`, `resumed`, or `reused`: resumed where there was nothing left to train."""
        return self._was or "made"

    def watch(self, event: Event) -> None:
        """Takes an event of the run."""
        match event["event"]:
            case "resumed" if not self._was:
                self._was = "reused"
            case "step" | "epoch":
                self._was = {"": "made", "reused": "resumed"}.get(self._was, self._was)
