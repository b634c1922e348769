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
    """As `start`, with all that is told and the report written to the run's folder. Raises as `recording`, too."""
    with recording(run) as record:

        def watch(event: Event) -> None:
            record(event)
            show(event)

        report = start(run, watch, preparing=noted_data)
        record.report(report)
    return report
