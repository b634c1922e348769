"""Gradient strategies on a Transformer: in pieces it learns what it learns whole, and is resumed to the bit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from backwards import Rhymes
from gradient_runs import StoppedError, worker
from worker_processes import together

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.sharded import Sharded
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.group import Group
from framework.engine.optimize import Adam, InverseSquareRoot
from framework.engine.run import Run
from framework.engine.train import train
from framework.models.translation.transformer import Transformer
from framework.workloads.translation import Translation

MODEL = Transformer(width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1, dropout=0.1)
WORKLOAD = Translation(data=Rhymes(), model=MODEL, vocabulary=60, batch_tokens=200, bleu=())
STRATEGIES: dict[str, GradientStrategy] = {
    "all-reduce": AllReduce(),
    "fsdp": Sharded(stage="fsdp"),
    "zero1": Sharded(stage="zero1"),
}


def reports(group: Group, folder: str) -> dict[str, dict[str, Any]]:
    """The report of every strategy's run, and of those that were stopped in their second epoch and went on."""
    told = {}
    for name, strategy in STRATEGIES.items():
        for stop_at in (None, 9):
            run = Run(
                workload=WORKLOAD,
                epochs=2,
                dtype="float64",
                optimizer=Adam(lr=0.01, betas=(0.9, 0.98)),
                schedule=InverseSquareRoot(warmup=4),
                gradient=strategy,
                checkpoint_every=3 if stop_at else 0,
                out=f"{folder}/{name}-{stop_at}",
            )
            prepared = WORKLOAD.prepare(Path(folder) / "stores", map, lambda event: None)
            if stop_at:
                with pytest.raises(StoppedError):
                    train(run, dataclasses.replace(worker(group, stop_at), prepared=prepared))
            told[f"{name} cut" if stop_at else name] = train(run, dataclasses.replace(worker(group), prepared=prepared))
    return told


def test_in_pieces_is_as_whole_and_resumed_is_as_never_stopped(tmp_path: Path) -> None:
    first, second = together(2, reports, str(tmp_path))
    whole = first["all-reduce"]
    assert whole["loss"][1] < whole["loss"][0]
    for name in STRATEGIES:
        assert first[name]["loss"] == pytest.approx(whole["loss"], rel=1e-9)
        assert first[name]["metrics"] == pytest.approx(whole["metrics"], rel=1e-9)
        assert first[name]["weights_digest"] == second[name]["weights_digest"]
        assert first[f"{name} cut"]["weights_digest"] == first[name]["weights_digest"]
        assert first[f"{name} cut"]["loss"] == first[name]["loss"]
