"""The training loop. It knows no graph, no Ray, no command line and no file format.

Every number it draws or sums is a function of the run and the place in it (epoch, step): so a run that is killed and
started again, on as many workers or not, goes on with the checkpoint's place and ends as one never stopped.
"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.comm.group import Group
from framework.comm.stage import stage
from framework.engine import checkpoint as checkpoints
from framework.engine.checkpoint import Checkpoint
from framework.engine.run import Run, Task, Worker
from framework.engine.state import load_optimizer_state, on_host, optimizer_state, weights_digest
from framework.engine.versions import versions
from framework.errors import InputError
from framework.random import Key

INITIAL, FOREIGN = 3, 4  # purposes of the run's key: first weights, and the draws of modules that know no keys


@dataclasses.dataclass(kw_only=True)
class Progress:
    """How far a run has come. What of it outlives a process is in `facts`."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Steps completed of the epoch after."""
    losses: list[float] = dataclasses.field(default_factory=list)
    """Mean loss of every completed epoch."""
    loss_sum: float = 0.0
    """Of the epoch under way: the sum over steps of mean loss times samples, over all workers at a checkpoint."""
    samples: int = 0
    """Of the epoch under way: samples seen."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    """The last evaluation."""
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    """The evaluation with the best monitored metric."""
    since_best: int = 0
    """Evaluations since then."""
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The weights it was made with, where the run keeps the best."""

    def facts(self) -> dict[str, Any]:
        """Everything but the place and the tensors, for a checkpoint."""
        kept = ("losses", "loss_sum", "samples", "metrics", "best", "since_best")
        return {name: getattr(self, name) for name in kept}


def train(run: Run, worker: Worker) -> dict[str, Any]:
    """Trains `run` as one of its workers; all of them return the same report. Resumes what `run.out` holds."""
    began = time.perf_counter()
    worker.watch({"event": "started"})
    worker = dataclasses.replace(worker, prepared=stage(worker.group, worker.prepared))
    task = run.workload.open(run, worker)
    learner = Learner(run, worker, task)
    learner.resume()
    seconds = []
    with run.gradient.wrap(learner.model, learner.optimizer, worker.group) as replica:
        while learner.progress.epoch < run.epochs and not learner.patience_ended():
            seconds.append(learner.epoch(replica))
    return learner.report(seconds, time.perf_counter() - began)


class Learner:
    """A model, its optimiser and their place in the run."""

    def __init__(self, run: Run, worker: Worker, task: Task) -> None:
        self.run, self.worker, self.task, self.group = run, worker, task, worker.group
        self.key = Key.root(run.seed)
        self.model = first_model(run, worker, task)
        self.optimizer = run.optimizer.build(self.model.parameters())
        self.schedule = run.schedule.attach(self.optimizer, run.epochs)
        self.progress = Progress()
        self.folder = Path(run.out) / "checkpoints"
        self.identity = dataclasses.replace(run, epochs=0).digest()

    def epoch(self, replica: nn.Module) -> float:
        """The rest of the current epoch, its evaluation and its checkpoint. Returns its training seconds."""
        now, run = self.progress, self.run
        began = time.perf_counter()
        replica.train()
        for batch in self.task.batches(now.epoch, now.step):
            self.step(replica, batch)
            if run.checkpoint_every and now.step % run.checkpoint_every == 0:
                self.save()
        self._sum_loss()
        self.schedule.step()
        now.losses.append(now.loss_sum / max(1, now.samples))
        now.epoch, now.step, now.loss_sum, now.samples = now.epoch + 1, 0, 0.0, 0
        seconds = time.perf_counter() - began
        self.evaluate()
        self.save()
        self.worker.watch(
            {
                "event": "epoch",
                "epoch": now.epoch,
                "epochs": run.epochs,
                "loss": now.losses[-1],
                "seconds": seconds,
                "metrics": now.metrics,
                "bytes": dict(self.group.sent),
            }
        )
        return seconds

    def step(self, replica: nn.Module, batch: Any) -> None:
        """One step of the optimiser."""
        now = self.progress
        torch.manual_seed(self.key.fold(FOREIGN, now.epoch, now.step).value >> 1)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(replica, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        now.step += 1
        now.loss_sum += float(loss.detach()) * batch.size
        now.samples += batch.size
        self.worker.watch({"event": "step", "epoch": now.epoch, "step": now.step})

    def evaluate(self) -> None:
        """Metrics where this epoch is due for them; remembers the best."""
        now, run = self.progress, self.run
        due = run.evaluate_every and now.epoch % run.evaluate_every == 0
        if not due and now.epoch < run.epochs:
            return
        now.metrics = self.task.evaluate(self.model)
        if run.monitor not in now.metrics:
            if run.patience is None and run.keep == "last":
                return
            raise InputError(f"--monitor is '{run.monitor}'; this run measures {', '.join(sorted(now.metrics))}.")
        if not now.best or now.metrics[run.monitor] > now.best[run.monitor]:
            now.best, now.since_best = dict(now.metrics), 0
            if run.keep == "best":
                now.best_weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            now.since_best += 1

    def patience_ended(self) -> bool:
        """Whether the monitored metric has not risen for as long as the run waits."""
        return self.run.patience is not None and self.progress.since_best >= self.run.patience

    def save(self) -> None:
        """A checkpoint of this place, on every host."""
        self._sum_loss()
        if not self.group.leader:
            return
        groups, optimizer = optimizer_state(self.optimizer)
        tensors = {"model": on_host(self.model.state_dict()), "optimizer": optimizer}
        if self.progress.best_weights:
            tensors["best"] = on_host(self.progress.best_weights)
        facts = {**self.progress.facts(), "optimizer": groups, "schedule": self.schedule.state_dict()}
        checkpoint = Checkpoint(
            run_digest=self.identity,
            epoch=self.progress.epoch,
            step=self.progress.step,
            facts=facts,
            tensors=tensors,
        )
        checkpoints.write(self.folder, checkpoint)

    def resume(self) -> None:
        """Goes to the newest checkpoint's place, if there is one. Raises InputError where it is of another run."""
        found = checkpoints.newest(self.folder, self.group)
        if found is None:
            return
        if found.run_digest != self.identity:
            raise InputError(
                f"{self.folder} holds checkpoints of another run (other settings); choose another --out or remove it."
            )
        facts = dict(found.facts)
        self.model.load_state_dict(found.tensors["model"])
        load_optimizer_state(self.optimizer, facts.pop("optimizer"), found.tensors["optimizer"])
        self.schedule.load_state_dict(facts.pop("schedule"))
        self.progress = Progress(
            epoch=found.epoch, step=found.step, best_weights=found.tensors.get("best", {}), **facts
        )
        if self.group.rank != 0:
            self.progress.loss_sum = 0.0  # the checkpoint's sum is over all workers already
        self.worker.watch({"event": "resumed", "epoch": found.epoch, "step": found.step})

    def report(self, seconds: list[float], total: float) -> dict[str, Any]:
        """What the run came to."""
        now, run, prepared = self.progress, self.run, self.worker.prepared
        weights = now.best_weights if run.keep == "best" and now.best_weights else self.model.state_dict()
        if self.group.leader:
            checkpoints.write_weights(Path(run.out), on_host(weights))
        return {
            "workload": type(run.workload).__name__,
            "workers": self.group.size,
            **prepared.facts,
            "epochs": now.epoch,
            "loss": now.losses,
            "metrics": now.best if run.keep == "best" and now.best else now.metrics,
            "seconds": {"epoch_median": statistics.median(seconds) if seconds else 0.0, "train": total},
            "bytes": total_bytes(self.group),
            "run_digest": run.digest(),
            "data_digest": prepared.data_digest,
            "weights_digest": weights_digest(weights),
            "versions": versions(),
        }

    def _sum_loss(self) -> None:
        """Makes the first worker's loss the sum of all workers', and the others' zero."""
        total = self.group.all_reduce(torch.tensor(self.progress.loss_sum, dtype=torch.float64), "loss")
        self.progress.loss_sum = float(total) if self.group.rank == 0 else 0.0


def first_model(run: Run, worker: Worker, task: Task) -> nn.Module:
    """The model before its first step: a function of the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key.root(run.seed).fold(INITIAL).value >> 1)
        return task.model().to(worker.device, getattr(torch, run.dtype))


def total_bytes(group: Group) -> dict[str, int]:
    """Payload bytes that all workers sent, by purpose, and in all."""
    sent: list[dict[str, int]] = group.gather_json(dict(group.sent))
    purposes = {"frontier", "features", "halo", "gradient", *(purpose for worker in sent for purpose in worker)}
    by_purpose = {purpose: sum(worker.get(purpose, 0) for worker in sent) for purpose in sorted(purposes)}
    return {**by_purpose, "total": sum(by_purpose.values())}
