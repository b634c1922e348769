"""What a person sees while a run goes: live bars on a terminal, one line an epoch elsewhere, nothing for a script."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from framework.engine.run import Event
from launch import tables

Watch = Callable[[Event], None]


@contextmanager
def showing(*, script: bool) -> Iterator[Watch]:
    """A watcher that shows a run's events. `script`: stdout is for JSON, so at most a terminal's stderr is used."""
    stream = sys.stderr if script else sys.stdout
    if stream.isatty():
        with live(Console(file=stream)) as watch:
            yield watch
    elif script:
        yield lambda event: None
    else:
        yield Lines(stream).watch


class Lines:
    """Plain lines: one when a stage of preparing begins, one a start or resumption, one an epoch."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._stage = ""
        self._traffic = Traffic()

    def watch(self, event: Event) -> None:
        """Writes the event's line, if it has one."""
        match event["event"]:
            case "prepare" if event["what"] != self._stage:
                self._stage = event["what"]
                self._say(f"prepare: {self._stage}")
            case "started":
                self._say("workers started")
            case "resumed":
                self._say(f"resumed after epoch {event['epoch']}, step {event['step']}")
            case "epoch":
                pace = f"{event['seconds']:.2f} s  {tables.size(self._traffic.rate(event))}/s"
                self._say(f"epoch {event['epoch']}/{event['epochs']}  {summary(event)}  {pace}")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Traffic:
    """Bytes a second, told from the counters of one epoch and the next."""

    def __init__(self) -> None:
        self._sent = 0

    def rate(self, event: Event) -> float:
        """Bytes that the first worker sent a second of training, in this epoch."""
        sent = int(sum(event.get("bytes", {}).values()))
        grown, self._sent = sent - self._sent, sent
        return max(0, grown) / max(float(event["seconds"]), 1e-9)


def summary(event: Event) -> str:
    """An epoch's loss and validation metrics: `loss 0.5113  validation accuracy 0.8411`."""
    metrics = event.get("metrics", {})
    shown = {name: value for name, value in metrics.items() if name.startswith("validation")}
    parts = [f"loss {event['loss']:.4f}", *(f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())]
    return "  ".join(parts)


@contextmanager
def live(console: Console) -> Iterator[Watch]:
    """Bars for preparing, epochs and steps, redrawn in place."""
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars).watch


class _Bars:
    """One bar a name, made when it is first heard of."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._steps_of_last_epoch = 0
        self._traffic = Traffic()

    def watch(self, event: Event) -> None:
        """Moves the bars that the event is about."""
        match event["event"]:
            case "prepare":
                self._move("prepare", round(100 * event["done"]), 100, event["what"])
            case "started":
                self._hide("prepare")
                self._move("epoch", 0, None, "workers started")
            case "resumed":
                self._move("epoch", event["epoch"], None, f"resumed at step {event['step']}")
            case "step":
                total = event.get("steps", self._steps_of_last_epoch) or None
                self._move("step", event["step"], total, f"loss {event['loss']:.4f}" if "loss" in event else "")
                self._steps_of_last_epoch = max(self._steps_of_last_epoch, event["step"])
            case "epoch":
                note = f"{summary(event)}  {tables.size(self._traffic.rate(event))}/s"
                self._move("epoch", event["epoch"], event["epochs"], note)

    def _move(self, name: str, done: int, total: int | None, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        known = self._bars.tasks[self._tasks[name]].total
        self._bars.update(self._tasks[name], completed=done, total=total or known, note=note)

    def _hide(self, name: str) -> None:
        if name in self._tasks:
            self._bars.update(self._tasks[name], visible=False)
