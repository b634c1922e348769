"""The training loop. It knows no graph, no Ray, no command line and no file format.

Every number it draws or sums is a function of the run and the place in it (epoch, step): so a run that is killed and
started again, on as many workers or not, goes on with the checkpoint's place and ends as one never stopped.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.collect import held
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.config import plugin_name
from framework.engine import checkpoint as checkpoints
from framework.engine.checkpoint import Checkpoint
from framework.engine.kept import keep, own_state
from framework.engine.progress import Progress
from framework.engine.resume import checkpoints_of, last_checkpoint, not_shared_out, return_to
from framework.engine.run import (
    Counted,
    Initialized,
    Measuring,
    Pretrains,
    Run,
    Staged,
    Task,
    Worker,
    measured,
    scalar,
)
from framework.engine.staging import with_data
from framework.engine.state import beneath, fits, load_optimizer_state, on_host, optimizer_state, under, weights_digest
from framework.engine.versions import versions
from framework.errors import InputError, ShardyardError
from framework.random import Key

REPORTED_PURPOSES = ("frontier", "features", "halo", "gradient")  # in every report, sent or not
ACTIVITIES = ("waiting", "packing")  # that the group times; the rest is computing
INITIAL, FOREIGN = 3, 4  # purposes of the run's key: first weights, and the draws of modules that know no keys


def train(run: Run, worker: Worker) -> dict[str, Any]:
    """Trains `run` as one of its workers; all of them return the same report. Resumes what `run.out` holds."""
    began = time.perf_counter()
    worker.watch({"event": "started"})
    worker = with_data(run, worker)
    task = run.workload.open(run, worker)
    found = last_checkpoint(run, worker)
    model = drawn_model(run, worker, task) if found is not None else first_model(run, worker, task)
    require_whole_weights(run, task)
    if isinstance(task, Measuring):
        run.require_measured(task.measures)
    if found is not None:
        return_to(found, task, model, found.tensors["model"])
    optimizer = run.optimizer.build(model.parameters())
    schedule = run.schedule.attach(optimizer, run.epochs, task.steps if isinstance(task, Counted) else None)
    with run.gradient.open(model, optimizer, worker.group) as synchronizer:
        learner = Learner(run, worker, task, synchronizer, optimizer, schedule)
        if found is not None:
            learner.resume(found)
        elif 0 < run.epochs <= _pretraining(task):
            worker.watch({"event": "note", "text": _nothing_measured(run.epochs)})
        elif learner.ended():  # of no epochs: its first weights can be asked
            learner.save()
        while not learner.ended():
            learner.epoch()
        return learner.report(time.perf_counter() - began)


class Learner:
    """A model at work, its optimiser and their place in the run."""

    def __init__(
        self,
        run: Run,
        worker: Worker,
        task: Task,
        synchronizer: GradientSynchronizer,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
    ) -> None:
        self.run, self.worker, self.task, self.group = run, worker, task, worker.group
        self.synchronizer, self.optimizer, self.schedule = synchronizer, optimizer, schedule
        self.key = Key.root(run.seed)
        self.progress = Progress()
        self.run_digest = run.continued().digest()

    def epoch(self) -> None:
        """The rest of the current epoch, its evaluation and its checkpoint."""
        now, run = self.progress, self.run
        began = time.perf_counter()
        self.synchronizer.module.train()
        for batch in self.task.batches(now.epoch, now.step):
            self.step(batch)
            if run.checkpoint_every and now.step % run.checkpoint_every == 0:
                self.save()
        now.losses.append(self._mean_loss())
        if not math.isfinite(now.losses[-1]):
            raise _diverged(f"the loss of epoch {now.epoch + 1} is {now.losses[-1]}")
        now.epoch, now.step, now.loss_sum, now.samples = now.epoch + 1, 0, 0.0, 0
        if run.schedule.counts == "epochs":
            self.schedule.step()
        now.seconds.append(time.perf_counter() - began)
        finite = all(bool(held(weight).isfinite().all()) for weight in self.synchronizer.module.parameters())
        if not all(self.group.gather_json(finite)):  # the loss is that of the weights before the last step
            raise _diverged(f"weights are no numbers after epoch {now.epoch}")
        measured = self.evaluate()
        self.advance(measured)
        if now.epoch % run.save_every == 0 or self.ended():
            self.save()
        self.worker.watch(
            {
                "event": "epoch",
                "epoch": now.epoch,
                "epochs": run.epochs,
                "loss": now.losses[-1],
                "seconds": now.seconds[-1],
                "metrics": now.metrics if measured else {},
                "bytes": _by_purpose(self.group.sent),
                "busy": dict(self.group.seconds),
                "staleness": self.task.staleness(),
            }
        )

    def step(self, batch: Any) -> None:
        """One step of the optimiser."""
        now, module = self.progress, self.synchronizer.module
        torch.manual_seed(self.key.fold(FOREIGN, now.epoch, now.step).value >> 1)
        module.zero_grad(set_to_none=True)
        loss = scalar(self.task.loss(module, batch))
        loss.backward()  # type: ignore[no-untyped-call]
        self.synchronizer.step()
        if self.run.schedule.counts == "steps":
            self.schedule.step()
        now.step += 1
        now.loss_sum = now.loss_sum + loss.detach().to(torch.float64) * batch.size
        now.samples += batch.size
        self.worker.watch({"event": "step", "epoch": now.epoch + 1, "step": now.step})

    def evaluate(self) -> bool:
        """Metrics where this epoch is due for them; remembers the best. Returns whether it was due."""
        now, run = self.progress, self.run
        due = run.evaluate_every and now.epoch % run.evaluate_every == 0
        if not due and now.epoch < run.epochs:
            return False
        with self.synchronizer.whole() as model:
            now.metrics = measured(self.task.evaluate(model))
            self.compare(model)
        return True

    def compare(self, model: nn.Module) -> None:
        """Remembers `model` and its evaluation if it is the best one yet."""
        now, run = self.progress, self.run
        run.require_measured(now.metrics)
        if run.monitor not in now.metrics or now.epoch <= _pretraining(self.task):
            return
        if not now.best or run.improves(now.metrics[run.monitor], now.best[run.monitor]):
            now.best, now.since_best = dict(now.metrics), 0
            if run.keep == "best":
                now.best_weights = on_host(model.state_dict())
        else:
            now.since_best += 1

    def advance(self, measured: bool) -> None:
        """The next stage, or the end, where the monitored metric has not risen for as long as the run waits.

        Only an epoch that was `measured` ends a run or a stage: what is reported is of the weights that it left."""
        now, run, task = self.progress, self.run, self.task
        began = now.stages[-1]["epochs"] if now.stages else 0
        waited = run.patience is not None and now.since_best >= run.patience and now.epoch - began >= run.min_epochs
        if measured and waited and now.due is None:
            if not isinstance(task, Staged) or not task.stages_left() or now.epoch + task.lag >= run.epochs:
                now.exhausted = True
                return
            with self.synchronizer.whole() as model:
                now.begun_weights = now.best_weights or on_host(model.state_dict())
            now.due = now.epoch + task.lag
            self.begin()
        if now.due is not None and now.epoch >= now.due:
            self.enter()

    def begin(self) -> None:
        """The next stage, to be entered when it is due; training goes on with the weights that it has."""
        assert isinstance(self.task, Staged)
        with self.synchronizer.whole() as model:
            current = on_host(model.state_dict())
            model.load_state_dict(self.progress.begun_weights)
            self.task.begin(model)
            model.load_state_dict(current)

    def enter(self) -> None:
        """The stage that was begun, with the best weights of the one before."""
        now = self.progress
        assert isinstance(self.task, Staged)
        with self.synchronizer.whole() as model:
            if now.best_weights:
                model.load_state_dict(now.best_weights)
            next_stage = self.task.finish()
        now.stages.append({"epochs": now.epoch, "metrics": now.best, "is": next_stage})
        now.best, now.best_weights, now.since_best, now.due, now.begun_weights = {}, {}, 0, None, {}
        self.worker.watch({"event": "stage", "epoch": now.epoch, "stage": len(now.stages)})

    def ended(self) -> bool:
        """Whether all epochs are done, or nothing was learned for as long as the run waits."""
        return self.progress.exhausted or self.progress.epoch >= self.run.epochs

    def save(self) -> None:
        """A checkpoint of this place, on every host."""
        sums = {"loss_sums": self.group.gather_json(float(self.progress.loss_sum)), "sent": self._sent()}
        groups, optimizer = optimizer_state(self.optimizer, own=not self.synchronizer.shared)
        leads = self.group.leader  # the others' copies would be dropped
        with self.synchronizer.whole() as model:
            tensors = {"model": on_host(model.state_dict())} if leads else {}
        others = {"best": self.progress.best_weights, "begun": self.progress.begun_weights}
        tensors |= {name: weights for name, weights in others.items() if weights}
        own = {**beneath("gradient", self.synchronizer.state()), **beneath("task", self.task.state())}
        if self.synchronizer.shared:
            tensors["optimizer"] = on_host(optimizer) if leads else {}
        else:
            own |= beneath("optimizer", optimizer)
        plain = {"optimizer": groups, "schedule": self.schedule.state_dict()}
        checkpoint = Checkpoint(
            run_digest=self.run_digest,
            data_digest=self.worker.prepared.data_digest,
            epoch=self.progress.epoch,
            step=self.progress.step,
            facts={**self.progress.facts(), **sums, **plain},
            tensors=tensors,
        )
        keep(checkpoints_of(self.run), checkpoint, own, self.group)

    def resume(self, found: Checkpoint) -> None:
        """Goes to a checkpoint's place; the model has its weights already."""
        own = own_state(checkpoints_of(self.run), found, self.group)
        facts = dict(found.facts)
        loss_sums = facts.pop("loss_sums")
        if len(loss_sums) != self.group.size:
            loss_sums = [sum(loss_sums), *[0.0] * (self.group.size - 1)]
        optimizer = found.tensors.get("optimizer", under("optimizer", own))
        gradient = under("gradient", own)
        if found.workers != self.group.size:
            fitting = fits(self.optimizer, optimizer) and self.synchronizer.state().keys() == gradient.keys()
            if not all(self.group.gather_json(fitting)):
                raise not_shared_out(found, self.run, self.group.size, [plugin_name(type(self.run.gradient))])
        load_optimizer_state(self.optimizer, facts.pop("optimizer"), optimizer)
        self.schedule.load_state_dict(facts.pop("schedule"))
        self.synchronizer.load_state(gradient)
        self.task.load_state(under("task", own))
        self.progress = Progress(
            epoch=found.epoch,
            step=found.step,
            loss_sum=loss_sums[self.group.rank],
            best_weights=found.tensors.get("best", {}),
            begun_weights=found.tensors.get("begun", {}),
            **facts,
        )
        if self.progress.due is not None:
            self.begin()
        self.worker.watch({"event": "resumed", "epoch": found.epoch, "step": found.step})

    def report(self, seconds: float) -> dict[str, Any]:
        """What the run came to; `seconds` since this start."""
        now, run, prepared = self.progress, self.run, self.worker.prepared
        with self.synchronizer.whole() as model:
            weights = now.best_weights if run.keep == "best" and now.best_weights else on_host(model.state_dict())
        if self.group.leader:
            checkpoints.write_weights(Path(run.out), weights)
        sent = self._sent()
        return {
            "workload": plugin_name(type(run.workload)).removeprefix("workload:"),
            "workers": self.group.size,
            **prepared.facts,
            "epochs": now.epoch,
            "loss": now.losses,
            "metrics": now.best if run.keep == "best" and now.best else now.metrics,
            "seconds": {"epoch_median": statistics.median(now.seconds) if now.seconds else 0.0, "train": seconds},
            "bytes": {**_by_purpose(sent), "total": sum(sent.values())},
            "bytes_by_lane": {purpose: payload for purpose, payload in sent.items() if "/" in purpose},
            "busy": self._busy(seconds),
            "staleness": self.task.staleness(),
            **({"stages": now.stages} if now.stages else {}),
            "run_digest": run.digest(),
            "data_digest": prepared.data_digest,
            "weights_digest": weights_digest(weights),
            "versions": versions(),
        }

    def _mean_loss(self) -> float:
        """The epoch's, over all workers."""
        mine = torch.as_tensor(self.progress.loss_sum, dtype=torch.float64).cpu().clone()
        return float(self.group.all_reduce(mine, "loss")) / max(1, self.progress.samples)

    def _busy(self, seconds: float) -> dict[str, float]:
        """What a worker did with the `seconds` since this start, on average. All workers call this together."""
        workers: list[dict[str, float]] = self.group.gather_json(dict(self.group.seconds))
        busy = {name: sum(worker.get(name, 0.0) for worker in workers) / len(workers) for name in ACTIVITIES}
        return {"computing": seconds - sum(busy.values()), **busy}

    def _sent(self) -> dict[str, int]:
        """Payload bytes that all workers sent in all starts of this run, by purpose. All workers call this together."""
        workers: list[dict[str, int]] = self.group.gather_json(dict(self.group.sent))
        total: Counter[str] = Counter()
        for sent in (self.progress.sent, *workers):
            total.update(sent)
        return dict(sorted(total.items()))


def _by_purpose(sent: Mapping[str, int]) -> dict[str, int]:
    """Bytes by the first part of their purpose: `halo/1/forward` counts for `halo`."""
    total = Counter(dict.fromkeys(REPORTED_PURPOSES, 0))
    for purpose, payload in sent.items():
        total[purpose.partition("/")[0]] += payload
    return dict(sorted(total.items()))


def _pretraining(task: Task) -> int:
    """Epochs at the start of a run in which a task learns something else than what it measures."""
    return task.pretraining if isinstance(task, Pretrains) else 0


def _nothing_measured(epochs: int) -> str:
    return (
        f"all epochs of the run ({epochs}) are the model's pretraining: what is measured is of weights that have not "
        "learned it yet; give more by --epochs"
    )


def _diverged(how: str) -> ShardyardError:
    return ShardyardError(
        f"{how}: nothing is learned any more. Lower --optimizer.lr, or look at the data, and start again with another "
        "--out."
    )


def require_whole_weights(run: Run, task: Task) -> None:
    """Raises InputError where the best weights of a stage could not be put back: workers have others, or a part."""
    if isinstance(task, Staged) and task.stages_left() and not isinstance(run.gradient, AllReduce | Compressed):
        name = plugin_name(type(run.gradient)).partition(":")[2]
        raise InputError(
            f"--gradient {name} does not keep the same weights on every worker, and this run has stages, each of which "
            "begins with the best of the one before; choose --gradient all-reduce or compressed."
        )


def first_model(run: Run, worker: Worker, task: Task) -> nn.Module:
    """The model before its first step: as it is drawn, or with the weights that the task begins with. All workers call
    this together."""
    model = drawn_model(run, worker, task)
    if isinstance(task, Initialized):
        task.initialize(model)
    return model


def drawn_model(run: Run, worker: Worker, task: Task) -> nn.Module:
    """A new model: a function of the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key.root(run.seed).fold(INITIAL).value >> 1)
        return task.model().to(worker.device, getattr(torch, run.dtype))
