"""A run: one frozen value that says everything, and the contracts of what it is made of.

Fields declared with `placement` say where or how fast a run goes; they are left out of the digest of its result,
for the result must not depend on them.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.group import Group
from framework.config import digest, placement
from framework.engine.optimize import Adam, Constant, Optimizer, Schedule
from framework.errors import InputError, PluginError

LOWER_IS_BETTER = ("_loss", "_rmse")  # how the names of such metrics end
LONGEST_DEADLINE = 1e9  # seconds, thirty years: torch counts a wait in nanoseconds of 63 bits
Event = dict[str, Any]
"""Something a worker tells whoever watches: `event` names it (`epoch`, `step`, `resumed`, ...), the rest is numbers."""

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Applies a function to every item of a sequence, results in its order: `map`, or Ray tasks that do the same. Of an
object that can be called (`is_kept`) every process has one, for all its items: with a model that it opened once."""


def is_kept(function: Callable[[Any], Any]) -> bool:
    """Whether what a mapper applies is an object that processes keep, and no plain function."""
    return not inspect.isroutine(function) and not isinstance(function, functools.partial)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Data on disk, ready for workers."""

    path: Path
    """The folder that workers open."""
    data_digest: str
    """What the data is, whatever way it was partitioned."""
    seconds: float
    """Time it took; near zero where the folder was there already."""
    facts: Mapping[str, Any]
    """What the report says of it: `parts`, `partitioner`, ..."""


class Batch(Protocol):
    """One worker's share of a global batch."""

    @property
    def size(self) -> int:
        """Samples in the global batch, over all workers."""


class Task(Protocol):
    """A workload that a worker has opened."""

    def model(self) -> nn.Module:
        """A new model, its parameters drawn from torch's generator, which the engine has seeded."""

    def batches(self, epoch: int, first_step: int) -> Iterator[Any]:
        """This worker's share (a Batch) of every global batch from `first_step` on; as many on every worker."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """This worker's part of the global batch's mean loss: the parts of all workers add up to it. A scalar."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics over all workers, the same on each: `validation_accuracy`, `test_accuracy`, ..."""

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        """This worker's samples: column name -> array, `id` first; classes and scores, or embeddings."""

    def state(self) -> dict[str, Tensor]:
        """What this worker keeps for itself from step to step (a Stateful): stale rows, residuals. Empty for most."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""

    def staleness(self) -> dict[str, int]:
        """How many steps old what others sent was when this worker used it last, by lane. Empty where nothing is."""


def scalar(loss: Any) -> Tensor:
    """What `Task.loss` answered. Raises PluginError for anything but one number with a gradient to come."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f" {list(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise PluginError(
            f"the workload's loss() gave a {type(loss).__name__}{shape}; expected a tensor of one number."
        )
    return loss


def measured(metrics: Any) -> dict[str, float]:
    """What `Task.evaluate` answered. Raises PluginError for anything but numbers by name."""
    if not isinstance(metrics, dict):
        raise PluginError(f"the workload's evaluate() gave a {type(metrics).__name__}; expected a dict of numbers.")
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, int | float):
            kind = type(value).__name__
            raise PluginError(
                f"the workload's evaluate() gave {name!r}: {value!r} ({kind}); expected a name and a float."
            )
    return metrics


@runtime_checkable
class Staged(Protocol):
    """A task that is learned in stages, one after the other: each ends when the monitored metric rises no more."""

    def stages_left(self) -> bool:
        """Whether there is a stage after this one."""

    @property
    def lag(self) -> int:
        """Epochs between `begin` and `finish`, in which training goes on in the stage before."""

    def begin(self, model: nn.Module) -> None:
        """Begins to make the next stage by a stage's result. Once more, by the same, after a restart in between.

        All workers call this together."""

    def finish(self) -> dict[str, Any]:
        """Goes to the stage that was begun; what a checkpoint says of it, as JSON. All workers call this together."""

    def enter(self, stage: dict[str, Any]) -> None:
        """Goes to the stage that a checkpoint says. All workers call this together."""


@runtime_checkable
class Initialized(Protocol):
    """A task whose model does not begin as it is drawn."""

    def initialize(self, model: nn.Module) -> None:
        """Gives a new model the weights that it begins with. All workers call this together."""


@runtime_checkable
class Pretrains(Protocol):
    """A task that learns something else before it learns what it measures."""

    @property
    def pretraining(self) -> int:
        """Epochs of that at the start of a run: no evaluation of theirs is the best one, and none is waited for."""


@runtime_checkable
class Counted(Protocol):
    """A task that knows beforehand how many steps an epoch has: as many in each."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""


@runtime_checkable
class Measuring(Protocol):
    """A task that knows beforehand what it measures: so a wrong `--monitor` is told of before the first step."""

    @property
    def measures(self) -> Collection[str]:
        """The names of all metrics that `evaluate` gives."""


@runtime_checkable
class Workload(Protocol):
    """What is learned: a data set, a model and a loss. A plug-in: its fields are its configuration.

    One whose steps depend on how many epochs there will be has a true `epochs_matter`: it goes on with no others."""

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Raw data -> folders of ready data beneath `root`; at once where it is there already."""

    def open(self, run: "Run", worker: "Worker") -> Task:
        """What a worker needs to learn it."""


@runtime_checkable
class Selective(Protocol):
    """A workload whose workers do not read all that it prepares: a host is given what its own workers do."""

    def needs(self, group: Group) -> Callable[[str], bool]:
        """Whether workers of this host read a file, by its path inside the prepared folder."""


@runtime_checkable
class Launcher(Protocol):
    """Who starts the workers."""

    def launch(self, main: "Main", run: "Run", prepared: Prepared, watch: Callable[[Event], None]) -> dict[str, Any]:
        """Runs `main` on every worker and returns what the first one returned. Raises one ShardyardError."""

    def mapper(self) -> Mapper:
        """How this launcher maps over many files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides what a run learns, and where."""

    workload: Workload
    """What is learned."""
    epochs: int = 10
    """How often every training sample is seen."""
    seed: int = 0
    """The root of every random draw."""
    dtype: Literal["float32", "float64"] = "float32"
    """The parameters' and activations' type."""
    optimizer: Optimizer = Adam()
    """How gradients become steps."""
    schedule: Schedule = Constant()
    """How the learning rate changes over the epochs."""
    gradient: GradientStrategy = AllReduce()
    """How workers agree on a gradient."""
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated. 0: the last one only."""
    monitor: str = "validation_accuracy"
    """The metric that early stopping and `keep` look at. Higher is better, but of `..._loss` and `..._rmse`."""
    patience: int | None = None
    """Stop after this many evaluations without a better monitored metric. None: never."""
    min_epochs: int = 0
    """Epochs, of every stage where a workload has several, before which a run does not stop early."""
    keep: Literal["last", "best"] = "last"
    """Which weights are the result: the last ones, or those of the best monitored metric."""
    workers: int = placement(1)
    """Number of worker processes."""
    device: Literal["cpu", "cuda"] = placement("cpu")
    """Where workers compute."""
    launcher: Launcher | None = placement(None)
    """Who starts the workers. None: processes of this machine."""
    out: str = placement("runs/latest")
    """The run's folder: log, checkpoints, report. A run started again with the same folder is resumed."""
    store: str = placement("stores")
    """Where prepared data is kept."""
    checkpoint_every: int = placement(0)
    """Steps between checkpoints within an epoch. 0: none within one."""
    save_every: int = placement(1)
    """Epochs between checkpoints at the end of one; the last epoch always ends with one."""
    deadline: float = placement(300.0)
    """Seconds a worker waits for the others before it gives up."""

    def __post_init__(self) -> None:
        least_values = {
            "epochs": 0,
            "min_epochs": 0,
            "seed": 0,
            "workers": 1,
            "evaluate_every": 0,
            "checkpoint_every": 0,
            "save_every": 1,
            "patience": 1,
        }
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is None and name == "patience":
                continue
            if not isinstance(value, int) or value < least:
                raise InputError(
                    f"--{name.replace('_', '-')} is {value!r}; expected a whole number of at least {least}."
                )
        choices = {"dtype": ("float32", "float64"), "keep": ("last", "best"), "device": ("cpu", "cuda")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"--{name} is {getattr(self, name)!r}; expected {' or '.join(known)}.")
        for name in ("out", "store"):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty; expected a folder.")
        if not 0 < self.deadline < LONGEST_DEADLINE:
            raise InputError(
                f"--deadline is {self.deadline!r}; expected seconds, more than 0 and less than {LONGEST_DEADLINE:g}."
            )
        if not isinstance(self.workload, Workload):
            raise InputError(f"a run's workload is a {type(self.workload).__name__}; expected prepare() and open().")

    def improves(self, metric: float, best: float) -> bool:
        """Whether a value of the monitored metric is better than the best one so far: anything is than no number."""
        if math.isnan(metric) or math.isnan(best):
            return not math.isnan(metric)
        return metric < best if self.monitor.endswith(LOWER_IS_BETTER) else metric > best

    def require_measured(self, metrics: Collection[str]) -> None:
        """Raises InputError where the run ends, or keeps weights, by a metric that is not among those it measures."""
        if self.monitor not in metrics and (self.patience is not None or self.keep == "best"):
            measured = ", ".join(sorted(metrics)) or "nothing, for its data has no sample to validate or test on"
            raise InputError(f"--monitor is '{self.monitor}'; expected what this run measures: {measured}.")

    def digest(self) -> str:
        """SHA-256 over everything that the result depends on, and nothing that it does not."""
        return digest(self, result_only=True)

    def continued(self) -> "Run":
        """This run as its checkpoints know it: what may not change when it is resumed.

        The number of epochs may, as long as nothing that was done depends on it: then it is zero here."""
        return self if self.epochs_matter else dataclasses.replace(self, epochs=0)

    @property
    def epochs_matter(self) -> bool:
        """Whether what an epoch does depends on how many there will be."""
        ending = self.patience is not None or self.keep == "best"
        return self.schedule.horizon or ending or bool(getattr(self.workload, "epochs_matter", False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """One process of a run, and what it was given."""

    group: Group
    """The workers talking to each other."""
    prepared: Prepared
    """The data."""
    device: torch.device
    """Where this worker computes."""
    watch: Callable[[Event], None]
    """Takes the events of the first worker; ignores them on the others."""
    mapper: Mapper = map
    """Applies a function to many items, by other processes where the launcher has some."""


Main = Callable[[Run, Worker], dict[str, Any]]
"""What a launcher runs on every worker: a function of a module, so that another process can import it."""
