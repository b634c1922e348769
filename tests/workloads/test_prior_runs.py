"""A student with a prior, in runs: the same on any number of workers, resumed as never stopped, and not as without."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_steps import made
from sentences import sentence_run
from shapes import told_by_workers

from framework.comm.group import Group
from framework.config import encode
from framework.engine.run import Run, Worker
from framework.errors import InputError, StoreError
from framework.lexicon.pair_priors import prior_weight
from framework.made import Made
from framework.models.translation.masked import CMLM
from framework.workloads.align import Align
from framework.workloads.prior import Prior
from framework.workloads.translation import PRIOR

STUDENT = CMLM(width=16, heads=2, inner=24, encoder_layers=1, decoder_layers=1, longest=32, length_beam=2, passes=2)


def prior_of(run: Run) -> Made:
    """What the pairs of a run say of its words."""
    folder = Path(run.out)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(encode(run)))
    align = made(Align(pairs=Made(step="raw", digest="raw", path=run.out)), folder.with_name("align"))
    return made(Prior(align=align), folder.with_name("prior"))


def runs_of(folder: Path, workers: int) -> dict[str, Run]:
    """With a prior and without; one that is stopped, and the same to its end."""
    prior = prior_of(sentence_run(folder / "raw", model=STUDENT))
    settings: dict[str, Any] = {"model": STUDENT, "bleu": (), "epochs": 2, "workers": workers, "prior_updates": 40}
    stopped = sentence_run(folder / "stopped", **{**settings, "epochs": 1}, prior=prior)
    return {
        "without": sentence_run(folder / "without", **settings),
        "with": sentence_run(folder / "with", **settings, prior=prior),
        "stopped": stopped,
        "resumed": dataclasses.replace(stopped, epochs=2),
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, Any]]]:
    """What they report, by the number of workers."""
    return told_by_workers(tmp_path_factory, runs_of)


def test_workers_do_not_show(told: dict[int, dict[str, dict[str, Any]]]) -> None:
    one, two = told[1]["with"], told[2]["with"]
    assert len(one["loss"]) == 2
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert two["run_digest"] == one["run_digest"]


@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_is_never_stopped(told: dict[int, dict[str, dict[str, Any]]], workers: int) -> None:
    assert told[workers]["resumed"]["loss"] == told[workers]["with"]["loss"]
    assert told[workers]["resumed"]["weights_digest"] == told[workers]["with"]["weights_digest"]


def test_the_prior_is_learned_from(told: dict[int, dict[str, dict[str, Any]]]) -> None:
    with_prior, without = told[1]["with"]["loss"], told[1]["without"]["loss"]
    assert all(abs(ours / theirs - 1) > 1e-3 for ours, theirs in zip(with_prior, without, strict=True))


def test_a_prior_fades_over_the_first_half_of_the_run(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run", model=STUDENT, epochs=2, prior=prior_of(sentence_run(tmp_path / "raw")))
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    worker = Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=lambda event: None)
    task = run.workload.open(run, worker)
    batches = [batch.pairs for epoch in range(2) for batch in task.batches(epoch, 0)]
    weights = [prior_weight(update, len(batches)) for update in range(len(batches))]
    assert [batch.prior_weight for batch in batches] == weights
    assert [batch.prior is None for batch in batches] == [weight == 0 for weight in weights]
    assert (weights[0], weights[len(batches) // 2]) == (1.0, 0.0)
    (late,) = (batch.pairs.prior_weight for batch in list(task.batches(1, 2))[:1])  # resumed
    assert late == weights[len(batches) // 2 + 2]
    beside = prepared.path.parent / prepared.facts[PRIOR]
    spoilt = beside / "rows" / "weights.arrow"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    with pytest.raises(StoreError, match=r"weights\.arrow' was altered"):
        next(iter(run.workload.open(run, worker).batches(0, 0)))
    shutil.rmtree(beside)  # who is asked, and learns no more, needs none
    asked = run.workload.open(run, worker)
    assert "validation_loss" in asked.evaluate(asked.model().double())
    longer = dataclasses.replace(run, epochs=3)
    assert longer.continued() != run.continued()  # its steps so far would have been others
    fixed = [
        dataclasses.replace(each, workload=dataclasses.replace(run.workload, prior_updates=40))
        for each in (run, longer)
    ]
    assert fixed[0].continued() == fixed[1].continued()
    with pytest.raises(InputError, match="--prior-updates is 2; expected a whole number of at least 3"):
        sentence_run(tmp_path / "run", prior_updates=2)
