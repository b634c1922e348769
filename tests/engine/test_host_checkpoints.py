"""Two hosts, a folder each: whichever is left resumes as if nothing had happened."""

import shutil
from pathlib import Path
from typing import Any

import torch
from line_workload import Line
from worker_processes import together

from framework.comm.group import Group
from framework.engine import checkpoint as checkpoints
from framework.engine.kept import newest, resumable
from framework.engine.run import Prepared, Run, Worker
from framework.engine.train import train


class StoppedError(Exception):
    """Thrown in the middle of a run, as a kill would be."""


def learn(group: Group, folder: str, stop_at: int | None) -> Any:
    """Trains as a worker on a host of its own: `folder`/<rank>. Stops after so many steps, if it is told to."""
    group.hosts = tuple("ab"[rank] for rank in range(group.size))
    prepared = Prepared(path=Path(), data_digest="line", seconds=0.0, facts={})
    steps = 0

    def watch(event: dict[str, Any]) -> None:
        nonlocal steps
        steps += event["event"] == "step"
        if stop_at is not None and steps == stop_at:
            raise StoppedError

    run = Run(workload=Line(), epochs=3, checkpoint_every=1, dtype="float64", out=f"{folder}/{group.rank}")
    worker = Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=watch)
    try:
        return train(run, worker)
    except StoppedError:
        return None


def test_any_host_s_checkpoint_is_the_whole_one(tmp_path: Path) -> None:
    whole = together(2, learn, str(tmp_path / "whole"), None)
    assert whole[0]["weights_digest"] == whole[1]["weights_digest"]
    assert together(2, learn, str(tmp_path / "cut"), 7) == [None, None]
    first, second = (
        checkpoints.read(sorted((tmp_path / "cut" / host / "checkpoints").glob("0*"))[-1]) for host in ("0", "1")
    )
    assert first.facts["loss_sums"] == second.facts["loss_sums"]
    assert min(first.facts["loss_sums"]) > 0
    assert first.place == second.place == (1, 2)
    shutil.rmtree(tmp_path / "cut" / "0")  # the host of the first worker comes back empty
    resumed = together(2, learn, str(tmp_path / "cut"), None)
    assert resumed[0]["weights_digest"] == whole[0]["weights_digest"]
    assert resumed[0]["loss"] == whole[0]["loss"]
    assert checkpoints.places(tmp_path / "cut" / "0" / "checkpoints")


def kept_weights(group: Group, folder: str) -> list[list[float]]:
    """The weights that this worker finds in its folder's newest checkpoint, whichever way it asks."""
    group.hosts = tuple("ab"[rank] for rank in range(group.size))
    mine = Path(folder) / str(group.rank) / "checkpoints"
    return [found.tensors["model"]["0.weight"].flatten().tolist() for found in (
        resumable(mine, group), newest(mine, group)
    ) if found is not None]  # fmt: skip


def test_checkpoints_of_one_name_that_differ_are_not_mixed(tmp_path: Path) -> None:
    """Each host has trained alone to the same place: both go on with the first one's weights, not each with its own."""
    together(2, learn, str(tmp_path), None)
    for host in ("0", "1"):
        (place,) = (tmp_path / host / "checkpoints").glob("000003*")
        found = checkpoints.read(place)
        found.tensors["model"]["0.weight"] = torch.full_like(found.tensors["model"]["0.weight"], float(host))
        data = checkpoints.files_of(found)
        for name, content in data.items():
            (place / name).write_bytes(content)
        digests = {name: checkpoints.sha256(content) for name, content in data.items()}
        (place / checkpoints.INDEX).write_bytes(checkpoints.index_of(found, digests))
    first, second = together(2, kept_weights, str(tmp_path))
    assert first == second
    assert {number for weights in first for number in weights} == {0.0}
