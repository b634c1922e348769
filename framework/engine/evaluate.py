"""What a trained run is worth, and what it says of every sample: the mains of `evaluate` and `predict`."""

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from framework.comm.group import Group
from framework.config import digest, encode
from framework.engine.files import replacing
from framework.engine.folder import RUN, encoded_run
from framework.engine.kept import newest
from framework.engine.recorded import like, recorded
from framework.engine.resume import checkpoints_of, require_same_run, return_to
from framework.engine.run import Run, Task, Worker, measured
from framework.engine.staging import with_data
from framework.engine.state import weights_digest
from framework.engine.train import drawn_model
from framework.errors import InputError


def evaluate(run: Run, worker: Worker) -> dict[str, Any]:
    """The metrics of the run's weights, the same on every worker."""
    task, model = trained(run, worker)
    return {"metrics": measured(task.evaluate(model)), "weights_digest": weights_digest(model.state_dict())}


def predict(run: Run, worker: Worker) -> dict[str, Any]:
    """Class and score of every sample, written to `predictions.parquet` in the run's folder by the first worker."""
    return _predicted(run, worker, embeddings=False)


def embed(run: Run, worker: Worker) -> dict[str, Any]:
    """Embedding of every sample, written to `embeddings.parquet` in the run's folder by the first worker."""
    return _predicted(run, worker, embeddings=True)


def predict_apart(run: Run, worker: Worker) -> dict[str, Any]:
    """As `predict`, in a file that nobody else writes to: to be moved to where it is wanted."""
    return _predicted(run, worker, embeddings=False, apart=True)


def embed_apart(run: Run, worker: Worker) -> dict[str, Any]:
    """As `embed`, in a file that nobody else writes to: to be moved to where it is wanted."""
    return _predicted(run, worker, embeddings=True, apart=True)


def trained(run: Run, worker: Worker) -> tuple[Task, nn.Module]:
    """The opened task and the model with the run's weights: the best ones where it keeps those, else the last."""
    worker = with_data(run, worker)
    task = run.workload.open(run, worker)
    folder = checkpoints_of(run)
    found = newest(folder, worker.group)
    if found is None:
        raise InputError(f"{run.out} holds no checkpoint; train the run first.")
    require_same_run(found, run, worker, folder, learned=_learned(run, worker))
    model = drawn_model(run, worker, task)
    best = found.tensors.get("best") if run.keep == "best" else None
    return_to(found, task, model, best or found.tensors["model"])
    return task, model


def _learned(run: Run, worker: Worker) -> str | None:
    """What checkpoints of the run that was trained here are of, by its own record; None where nobody kept one.

    What the run asks of its weights may differ from what that one asked. Raises InputError where anything else does."""
    folder = Path(run.out)
    written = encoded_run(folder) if (folder / RUN).exists() else None
    kept = next((record for record in worker.group.gather_json(written) if record is not None), None)
    if kept is None:
        return None
    if like(kept, run, asked_too=False) != like(encode(run), run, asked_too=False, among=kept):
        raise InputError(f"'{folder}' holds another run (other settings); ask its weights with the settings of that.")
    return digest(recorded(kept, run))


def _predicted(run: Run, worker: Worker, *, embeddings: bool, apart: bool = False) -> dict[str, Any]:
    task, model = trained(run, worker)
    columns = task.predict(model, embeddings)
    table = pa.table({name: _column(values) for name, values in columns.items()})
    tables = _at_first(worker.group, table)
    path = Path(run.out) / ("embeddings.parquet" if embeddings else "predictions.parquet")
    if worker.group.rank == 0:
        path = path.with_stem(f"{path.stem}-{uuid.uuid4().hex[:8]}") if apart else path
        with replacing(path) as torn:
            pq.write_table(pa.concat_tables(tables).sort_by("id"), torn)
    return {"path": str(path), "rows": sum(worker.group.gather_json(table.num_rows)), "columns": list(columns)}


def _column(values: Any) -> pa.Array:
    """A column of numbers or text, or of rows of numbers."""
    if getattr(values, "ndim", 1) == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)


def _at_first(group: Group, table: pa.Table) -> list[pa.Table]:
    """Every worker's table, at the first worker; nothing elsewhere. Tables travel as Arrow streams."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    message = torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)
    lengths: list[int] = group.gather_json(len(message))
    send = [len(message), *[0] * (group.size - 1)]
    coming = lengths if group.rank == 0 else [0] * group.size
    received = group.exchange(message, send, coming, "state")
    return [
        pa.ipc.open_stream(pa.py_buffer(part.numpy())).read_all()
        for part in received.split_with_sizes(coming)
        if len(part)
    ]
