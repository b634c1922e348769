"""Learning to translate: the same on any number of workers, resumed as never stopped, and measured rightly."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from node_runs import same_metrics
from sentences import SMALL, Backwards, sentence_run
from shapes import Told, told_by_others, told_by_workers
from torch import Tensor, nn

from framework.comm.group import Group
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.engine.evaluate import predict
from framework.engine.optimize import Adam, Cosine, InverseSquareRoot
from framework.engine.run import Run, Worker
from framework.errors import InputError, StoreError
from framework.models.translation.levenshtein import Levenshtein
from framework.models.translation.transformer import Transformer
from framework.models.translation.translator import TranslationModel
from framework.random import Key
from framework.samples.pair_batch import PairBatch
from framework.workloads.bleu import bleu, bleu_signature, bleu_sums
from framework.workloads.translation import MEASURING, TranslationTask, cut_by_tokens
from launch.start import start

EDITS = Levenshtein(width=16, heads=2, inner=24, encoder_layers=1, decoder_layers=1, positions="sinusoidal")
CPU = torch.device("cpu")


def ignore(event: Any) -> None:
    """Nobody watches."""


def opened(run: Run, rank: int = 0, workers: int = 1) -> TranslationTask:
    """The run's task as one of its workers has it, who says nothing to the others."""
    prepared = run.workload.prepare(Path(run.store), map, ignore)
    task = run.workload.open(run, Worker(group=Group.alone(), prepared=prepared, device=CPU, watch=ignore))
    assert isinstance(task, TranslationTask)
    task.group = Group(rank=rank, size=workers, device=CPU, hosts=("here",) * workers, deadline=1.0)
    return task


KINDS: dict[str, dict[str, Any]] = {
    "many": {"epochs": 4, "schedule": InverseSquareRoot(warmup=5)},
    "few": {"batch_tokens": 8, "epochs": 1, "schedule": Cosine(by="step")},  # many a batch has one pair
}


def runs_of(folder: Path, workers: int) -> dict[str, Run]:
    """A run of every kind; one that is stopped; the same, to its end."""
    kinds = {kind: sentence_run(folder / kind, **settings, workers=workers) for kind, settings in KINDS.items()}
    stopped = sentence_run(folder / "stopped", **{**KINDS["many"], "epochs": 2}, workers=workers)
    return {**kinds, "stopped": stopped, "resumed": dataclasses.replace(stopped, epochs=4)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Told]:
    """What they report, by the number of workers."""
    return told_by_workers(tmp_path_factory, runs_of)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_do_not_show(told: dict[int, Told], kind: str) -> None:
    one, two = told[1][kind], told[2][kind]
    assert len(one["loss"]) == KINDS[kind]["epochs"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert same_metrics(two["metrics"], one["metrics"])
    assert two["run_digest"] == one["run_digest"]


@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_is_never_stopped(told: dict[int, Told], workers: int) -> None:
    resumed, whole = told[workers]["resumed"], told[workers]["many"]
    assert len(told[workers]["stopped"]["loss"]) == 2
    assert resumed["loss"] == whole["loss"]
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What they report where other workers are at them."""
    return told_by_others(tmp_path_factory, runs_of)


@pytest.mark.parametrize(("name", "expected"), [("3 after 1", "many"), ("1 after 2", "many"), ("few", "few")])
def test_other_workers_go_on_where_some_were_stopped(
    told: dict[int, Told], elsewhere: Told, name: str, expected: str
) -> None:
    assert elsewhere[name]["loss"] == pytest.approx(told[1][expected]["loss"], rel=1e-9)
    assert same_metrics(elsewhere[name]["metrics"], told[1][expected]["metrics"])


class InterruptedRunError(Exception):
    """In the middle of an epoch."""


def test_resumed_within_an_epoch(tmp_path: Path) -> None:
    whole = start(sentence_run(tmp_path / "whole", epochs=2, bleu=()), ignore)

    def stop(event: Any) -> None:
        if (event["event"], event.get("epoch"), event.get("step")) == ("step", 2, 2):
            raise InterruptedRunError

    cut = sentence_run(tmp_path / "cut", epochs=2, bleu=(), checkpoint_every=1)
    with pytest.raises(Exception, match="Interrupted"):
        start(cut, stop)
    resumed = start(cut, ignore)
    assert resumed["loss"] == whole["loss"]
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.mark.parametrize("workers", [2, 3])
def test_batches_are_the_same_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    run = sentence_run(tmp_path / "run", batch_tokens=24)
    alone = [share.pairs for share in opened(run).batches(1, 0)]
    shares = [list(opened(run, rank, workers).batches(1, 0)) for rank in range(workers)]
    for whole, *parts in zip(alone, *shares, strict=True):
        counted = [part.pairs.samples for part in parts if part.counted]
        assert torch.cat(counted).sort().values.equal(whole.samples.sort().values)
        sizes = [len(part.pairs.samples) if part.counted else 0 for part in parts]
        assert max(sizes) - min(sizes) <= 1
        for part in parts:
            assert part.pairs.everyone.equal(whole.everyone)
            assert part.pairs.key == whole.key
            assert part.size == len(whole.samples)
            assert part.pairs.source.shape[1] == int(part.pairs.source_lengths.max())


def test_batches_hold_every_training_pair_once_and_no_more_tokens_than_asked(tmp_path: Path) -> None:
    task = opened(sentence_run(tmp_path / "run", batch_tokens=24))
    training = torch.nonzero(task.reader.split == TRAIN).squeeze(1)
    epochs = [[share.pairs for share in task.batches(epoch, 0)] for epoch in (0, 1)]
    for batches in epochs:
        assert torch.cat([batch.samples for batch in batches]).sort().values.equal(training)
        for batch in batches:
            assert len(batch.samples) == 1 or max(batch.source.numel(), batch.target.numel()) <= 24
    first, second = ([tuple(batch.samples.tolist()) for batch in batches] for batches in epochs)
    assert set(first) == set(second)
    assert first != second
    assert [share.pairs.samples.tolist() for share in task.batches(1, 2)] == list(map(list, second[2:]))
    other = opened(sentence_run(tmp_path / "run", batch_tokens=24, seed=1))
    assert {tuple(batch.tolist()) for batch in other.cut} != set(first)


def test_longer_pairs_are_not_trained_on(tmp_path: Path) -> None:
    task = opened(sentence_run(tmp_path / "run", longest=5))
    lengths = torch.cat([share.pairs.everyone[:, 1:] for share in task.batches(0, 0)])
    assert int(lengths.max()) == 5
    assert int(task.reader.lengths(torch.arange(60))[:, 1:].max()) > 5
    assert cut_by_tokens(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 5) == []
    with pytest.raises(InputError, match="no training pair has at most --longest 1 tokens"):
        opened(sentence_run(tmp_path / "run", longest=1))


def test_the_loss_of_a_split_is_that_of_all_its_pairs(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run", bleu=(), evaluation_tokens=20)
    task = opened(run)
    torch.manual_seed(0)
    model = task.model().double().train()
    metrics = task.evaluate(model)
    assert model.training
    assert sorted(metrics) == ["test_loss", "validation_loss"]
    for name, value in (("validation", VALIDATION), ("test", TEST)):
        samples = torch.nonzero(task.reader.split == value).squeeze(1)
        batch = task.reader.batch(samples, task.reader.lengths(samples), key=Key.root(0).fold(MEASURING))
        with torch.no_grad():
            scores, gold = model.eval().forced(batch)
        expected = nn.functional.cross_entropy(scores, gold)
        assert metrics[f"{name}_loss"] == pytest.approx(float(expected), rel=1e-12)


HYPOTHESES = ["the cat sat on a mat .", "a dog", "it rains today , they say", "no one knows"]
REFERENCES = ["the cat sat on the mat .", "one dog", "today it rains , they say", "no one knows it"]


def test_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    parts = bleu_sums(HYPOTHESES[:1], REFERENCES[:1]) + bleu_sums(HYPOTHESES[1:], REFERENCES[1:]) + bleu_sums([], [])
    assert bleu(parts) == expected.score
    assert 0 < expected.score < 100
    assert bleu(bleu_sums([], [])) == 0.0
    assert "tok:13a" in bleu_signature()
    assert sacrebleu.__version__ in bleu_signature()


class Parrot(nn.Module):
    """Says of every source what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.translator = SMALL.build(64)

    def forward(self, batch: PairBatch) -> Tensor:
        return torch.zeros(())

    def translate(self, source: Tensor, source_lengths: Tensor) -> Any:
        found = self.translator.translate(source, source_lengths)
        return dataclasses.replace(found, tokens=source, lengths=source_lengths - 1)


def test_bleu_is_of_the_text_that_was_given(tmp_path: Path) -> None:
    data = Backwards(capitals=False)  # what a parrot says has all of the words, and few of the sequences
    task = opened(sentence_run(tmp_path / "run", data=data, vocabulary=50, evaluation_tokens=20))
    metrics = task.evaluate(Parrot())
    raw = data.open()
    for name, value in (("validation", VALIDATION), ("test", TEST)):
        chosen = [number for number, split in enumerate(raw.split.tolist()) if split == value]
        source, target = ([side[number].as_py() for number in chosen] for side in (raw.source, raw.target))
        expected = bleu(bleu_sums(source, target))
        assert 0 < expected < 100
        assert metrics[f"{name}_bleu"] == expected


def test_sentences_are_learned_backwards(tmp_path: Path) -> None:
    run = sentence_run(
        tmp_path / "run",
        data=Backwards(pairs=800, words=6, longest=5),
        model=Transformer(width=32, heads=2, inner=64, encoder_layers=1, decoder_layers=1, dropout=0.0, beam=2),
        vocabulary=48,
        batch_tokens=160,
        dtype="float32",
        optimizer=Adam(lr=5e-3, betas=(0.9, 0.98)),
        schedule=InverseSquareRoot(warmup=60),
        epochs=30,
        evaluate_every=0,
    )
    assert start(run, ignore)["metrics"]["test_bleu"] > 90


def test_predictions_are_of_every_pair_that_was_not_trained_on(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run", epochs=1, evaluation_tokens=20)
    start(run, ignore)
    one, two = (
        parquet.read_table(start(dataclasses.replace(run, workers=workers), ignore, predict)["path"])
        for workers in (1, 2)
    )
    raw = Backwards().open()
    asked = [number for number, split in enumerate(raw.split.tolist()) if split != TRAIN]
    assert one["id"].to_pylist() == [raw.ids[number] for number in asked]  # type: ignore[index]
    assert one["source"].to_pylist() == [raw.source[number].as_py() for number in asked]
    assert one["reference"].to_pylist() == [raw.target[number].as_py() for number in asked]
    assert one["translation"] == two["translation"]
    assert one["score"].to_numpy() == pytest.approx(two["score"].to_numpy(), rel=1e-9)


def test_an_altered_byte_is_not_learned_from(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run")
    file = opened(run).store.path / "part-00000" / "target_tokens.arrow"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"target_tokens\.arrow' was altered"):
        opened(run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowByRow:
    """Answers a loss for every pair."""

    def build(self, vocabulary: int) -> nn.Module:
        return RowsOfLosses()


class RowsOfLosses(nn.Module):
    def forward(self, batch: PairBatch) -> Tensor:
        return torch.zeros(len(batch.samples))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    task = opened(sentence_run(tmp_path / "run", model=RowByRow()))
    with pytest.raises(InputError, match=r"answered \(\d+,\); expected a scalar, the share's loss"):
        task.loss(task.model(), next(iter(task.batches(0, 0))))
    with pytest.raises(InputError, match="give no embeddings"):
        task.predict(task.model(), embeddings=True)
    with pytest.raises(InputError, match="--batch-tokens is 0"):
        sentence_run(tmp_path / "run", batch_tokens=0)


def test_what_is_monitored_is_asked_for(tmp_path: Path) -> None:
    """Told before the first step, and not by the first evaluation."""
    settings: dict[str, Any] = {"monitor": "validation_bleu", "keep": "best", "evaluate_every": 0, "epochs": 1}
    with pytest.raises(
        InputError, match=r"'validation_bleu'; expected what this run measures: test_bleu, test_loss, v"
    ):
        start(sentence_run(tmp_path / "run", bleu=("test",), **settings), ignore)
    assert not (tmp_path / "run" / "checkpoints").exists()
    task = opened(sentence_run(tmp_path / "run", bleu=("test",)))
    assert sorted(task.measures) == sorted(task.evaluate(task.model().double()))


@pytest.mark.parametrize(("model", "more"), [(SMALL, 0), (EDITS, 1)])
def test_positions_are_learned_for_the_longest_sentence(tmp_path: Path, model: TranslationModel, more: int) -> None:
    """Told before the first step, of sentences that are measured too."""
    sinusoidal = opened(sentence_run(tmp_path / "run", model=dataclasses.replace(model, longest=3)))  # type: ignore[type-var]
    held_out = torch.nonzero(sinusoidal.reader.split != TRAIN).squeeze(1)
    needed = int((sinusoidal.reader.lengths(held_out) + torch.tensor([0, 0, more]))[:, 1:].max())
    assert needed > 5

    def learned(longest: int) -> TranslationTask:
        changed = dataclasses.replace(model, positions="learned", longest=longest)  # type: ignore[type-var]
        return opened(sentence_run(tmp_path / "run", model=changed, longest=5))

    with pytest.raises(InputError, match=rf"has {needed} tokens; --model\.longest is {needed - 1}\. Raise it, or"):
        learned(needed - 1)
    enough = learned(needed)
    assert enough.evaluate(enough.model().double())
