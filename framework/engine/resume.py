"""Where a run goes on: the checkpoint that its folder holds, and whether it is one that this run may go on from."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from framework.config import plugin_name
from framework.engine import checkpoint as checkpoints
from framework.engine.checkpoint import Checkpoint
from framework.engine.kept import resumable
from framework.engine.run import Run, Staged, Task, Worker
from framework.errors import InputError


def checkpoints_of(run: Run) -> Path:
    """Where a run keeps them."""
    return Path(run.out) / "checkpoints"


def last_checkpoint(run: Run, worker: Worker) -> Checkpoint | None:
    """The newest checkpoint to go on from, if there is one. Raises InputError where it is none of this run's."""
    folder, group = checkpoints_of(run), worker.group
    damaged = checkpoints.tidy(folder) if group.leader else []
    damaged = sorted({name for host in group.gather_json(damaged) for name in host})
    if damaged:
        worker.watch({"event": "damaged", "checkpoints": damaged})
    found = resumable(folder, group)
    if found is None:
        return None
    require_same_run(found, run, worker, folder)
    if found.own and found.workers != group.size:
        whose = {"task": plugin_name(type(run.workload))}
        kept = {whose.get(kind, plugin_name(type(run.gradient))) for kinds in found.own.values() for kind in kinds}
        raise not_shared_out(found, run, group.size, sorted(kept))
    return found


def require_same_run(found: Checkpoint, run: Run, worker: Worker, folder: Path, *, learned: str | None = None) -> None:
    """Raises InputError where a checkpoint is of another run, of other data, or further than the run goes.

    `learned`: the digest of the run that was trained, where this one may ask something else of its weights."""
    if found.run_digest != (learned or run.continued().digest()):
        raise InputError(
            f"{folder} holds checkpoints of another run (other settings); choose another --out or remove it."
        )
    if found.data_digest != worker.prepared.data_digest:
        raise InputError(
            f"{folder} holds checkpoints of other data than is there now; choose another --out or remove it."
        )
    if found.place > (run.epochs, 0):
        place = f"{found.epoch} epochs{f' and {found.step} steps' if found.step else ''}"
        raise InputError(f"{folder} holds {place}, --epochs is {run.epochs}; choose another --out or more.")


def not_shared_out(found: Checkpoint, run: Run, workers: int, keepers: Sequence[str]) -> InputError:
    """What to say of a checkpoint of so many workers that others cannot go on from."""
    return InputError(
        f"{checkpoints_of(run)} holds what each of {found.workers} workers keeps for itself ({', '.join(keepers)}), "
        f"which {workers} cannot share out; resume with --workers {found.workers}."
    )


def return_to(found: Checkpoint, task: Task, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Takes task and model to a checkpoint's stage, with some of its weights. All workers call this together."""
    stages = found.facts["stages"]
    if stages and isinstance(task, Staged):
        task.enter(stages[-1]["is"])
    model.load_state_dict(weights)
