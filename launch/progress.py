"""What a person sees while a run or a pipeline goes: lines, over live bars on a terminal; nothing for a script."""

import contextlib
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
        with live(Console(file=stream, highlight=False)) as watch:
            yield watch
    elif script:
        yield lambda event: None
    else:
        yield Lines(lambda line: _print(line, stream)).watch


@contextmanager
def live(console: Console) -> Iterator[Watch]:
    """Lines, and beneath them bars for preparing, epochs and steps, redrawn in place and gone at the end."""
    columns = (
        TextColumn("{task.description:>8}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        lines = Lines(lambda line: progress.console.print(line, markup=False, emoji=False))
        bars = _Bars(progress)

        def watch(event: Event) -> None:
            lines.watch(event)
            bars.watch(event)

        yield watch


class Lines:
    """A line when a step of a pipeline or a stage of preparing begins, when a run starts or is resumed, or was
    finished before, for every epoch, and for every tenth of a product's pieces."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` shows a line."""
        self._say = say
        self._stage = ""
        self._tenths = 0
        self._traffic = Traffic()

    def watch(self, event: Event) -> None:
        """Shows the event's line, if it has one."""
        match event["event"]:
            case "begins":
                self._stage, self._tenths, self._traffic = "", 0, Traffic()
                self._say(f"step {event['number']} of {event['steps']}: {event['step']}")
            case "ends" if event["was"] == "reused":
                self._say(f"{event['step']} is there already: {event['path']}")
            case "waits":
                self._say(f"{event['step']} is being made by another process: waiting for it")
            case "pieces" if (tenths := 10 * event["done"] // event["total"]) > self._tenths:
                self._tenths = tenths
                self._say(f"{event['what']} {event['done']:,} of {event['total']:,}  {pace(event)}")
            case "prepare" if event["what"] != self._stage:
                self._stage = event["what"]
                self._say(f"prepare: {self._stage}")
            case "started":
                self._say("workers started")
            case "note":
                self._say(event["text"])
            case "damaged":
                self._say(f"damaged checkpoints, set aside: {', '.join(event['checkpoints'])}")
            case "resumed":
                self._say(f"resumed after epoch {event['epoch']}, step {event['step']}")
            case "reused":
                self._say(
                    f"'{event['folder']}' was finished already: nothing was trained, and the figures are those of the "
                    "earlier start. Give another --out to train again."
                )
            case "stage":
                self._say(f"stage {event['stage'] + 1} begins after epoch {event['epoch']}")
            case "epoch":
                taken = f"{event['seconds']:.2f} s  {tables.size(self._traffic.rate(event))}/s"
                waited = f"  waiting {waiting:.0%}" if (waiting := self._traffic.waiting(event)) else ""
                self._say(f"epoch {event['epoch']}/{event['epochs']}  {summary(event)}  {taken}{waited}")


class Traffic:
    """Bytes a second and the share of waiting, told from the counters of one epoch and the next."""

    def __init__(self) -> None:
        self._sent, self._waited = 0, 0.0

    def rate(self, event: Event) -> float:
        """Bytes that the first worker sent a second of training, in this epoch."""
        sent = int(sum(event.get("bytes", {}).values()))
        grown, self._sent = sent - self._sent, sent
        return max(0, grown) / max(float(event["seconds"]), 1e-9)

    def waiting(self, event: Event) -> float:
        """The share of this epoch that the first worker waited for rows of others."""
        waited = float(event.get("busy", {}).get("waiting", 0.0))
        grown, self._waited = waited - self._waited, waited
        return min(1.0, max(0.0, grown) / max(float(event["seconds"]), 1e-9))


def summary(event: Event) -> str:
    """An epoch's loss and validation metrics: `loss 0.5113  validation accuracy 0.8411`."""
    metrics = event.get("metrics", {})
    shown = {name: value for name, value in metrics.items() if name.startswith("validation")}
    parts = [f"loss {event['loss']:.4f}", *(f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())]
    return "  ".join(parts)


def pace(event: Event) -> str:
    """How fast pieces of a product come, and how long the rest takes: `35.2 sentences/s  13 min left`."""
    left = f"{event['left'] / 60:.0f} min" if event["left"] >= 90 else f"{event['left']:.0f} s"
    return f"{event['rate']:.1f} {event['unit']}/s  {left} left"


class _Bars:
    """One bar a name, made when it is first heard of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def watch(self, event: Event) -> None:
        """Moves the bars that the event is about."""
        match event["event"]:
            case "prepare":
                self._move("prepare", round(100 * event["done"]), 100, event["what"])
            case "begins":
                for name in self._tasks:
                    self._hide(name)
            case "pieces":
                self._move(event["what"], event["done"], event["total"], pace(event))
            case "started":
                self._hide("prepare")
                self._move("epoch", 0, event.get("epochs"), "")
            case "resumed":
                self._move("epoch", event["epoch"], event.get("epochs"), "")
            case "step":
                note = f"loss {event['loss']:.4f}" if "loss" in event else ""
                self._move("step", event["step"], event.get("steps"), note)
            case "epoch":
                self._move("epoch", event["epoch"], event["epochs"], "")

    def _move(self, name: str, done: int, total: int | None, note: str) -> None:
        """Sets a bar; a total that was never told is the highest count so far."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, note=note)
        task = self._tasks[name]
        known = next(bar.total for bar in self._progress.tasks if bar.id == task) or 0
        self._progress.update(task, completed=done, total=total or max(known, done), note=note, visible=True)

    def _hide(self, name: str) -> None:
        if name in self._tasks:
            self._progress.update(self._tasks[name], visible=False)


def _print(line: str, stream: IO[str]) -> None:
    with contextlib.suppress(OSError):  # whoever reads has left, as `head` does, or a disk is full: the run goes on
        print(line, file=stream, flush=True)
