"""Learning to translate from pairs of sentences.

Global batches are cut by tokens from the training pairs in the order of their lengths: which pairs are in a batch is a
function of the data and the settings, the order of batches one of the epoch as well. A batch is dealt out pair by pair,
so that all shares are of like lengths. What is drawn for a pair goes by its number, and the loss is a sum over the
global batch divided by what that holds: so workers do not show in it.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from framework.comm.meeting import finish_together, verify_together
from framework.comm.stage import stage
from framework.config import asked, placement, plugin_name
from framework.data.dataset import TRAIN
from framework.data.distilled import Distilled
from framework.data.pair_sets import PairSet
from framework.engine.folder import WEIGHTS, read_weights, weights_in
from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.errors import InputError
from framework.lexicon.pair_priors import FEWEST_UPDATES, PairPriors, prepare_pair_priors, prior_weight
from framework.made import Made
from framework.models.translation.initial import begin_with
from framework.models.translation.translator import TranslationModel, Translator
from framework.prepare.pairs import prepare_pairs
from framework.random import Key, bits, shuffled
from framework.registry import WORKLOADS
from framework.samples.pair_batch import PairBatch
from framework.samples.pairs import PairReader, PairStore
from framework.store.product import ProductFolder
from framework.workloads.agreement import require_same_pairs
from framework.workloads.bleu import bleu, bleu_signature, bleu_sums
from framework.workloads.precision import Precision, computing_in, require_precision, require_type
from framework.workloads.samples import SHUFFLING, SPLITS, STEPPING, evaluating, of_splits

PRIOR = "prior"
"""The fact that says which folder, beside that of the pairs, has what is known of them beforehand."""
CUTTING, MEASURING = 7, 8  # purposes of the run's key: the order of pairs of the same lengths, draws in evaluation


@WORKLOADS.register("translation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """Sentences of one language into another."""

    data: PairSet
    """The raw data set."""
    model: TranslationModel
    """The network."""
    vocabulary: int = 8000
    """Tokens of the subword vocabulary that both languages share."""
    batch_tokens: int = 4096
    """Tokens of either side of a global batch, padding counted, at most; a longer pair is a batch of its own."""
    longest: int = 128
    """Tokens of a sentence, above which a pair is not trained on."""
    precision: Precision = "float32"
    """What linear maps compute in while the network learns: `bfloat16` where the device has it, weights and losses as
    `--dtype` says. What it has learned is measured, and translates, in the latter."""
    prior: Made | None = None
    """The step that says what is known of target words beforehand, for models that learn from that. None: nothing."""
    prior_updates: int | None = None
    """Updates over the first half of which the prior fades. None: those of the run."""
    begin: Made | None = None
    """The step that trained a translator with whose encoder and decoder the network begins. None: it is drawn."""
    bleu: tuple[Literal["validation", "test"], ...] = asked(("validation", "test"))
    """Splits that are translated for BLEU in every evaluation; --evaluate-every says how often that is."""
    evaluation_tokens: int = placement(2048)
    """Source tokens that a worker evaluates or translates at a time, padding counted."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "batch_tokens", "longest", "evaluation_tokens"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; expected a whole number of at least 1."
                )
        if self.prior is not None and not getattr(self.model, "learns_prior", True):
            name = plugin_name(type(self.model)).rpartition(":")[2]
            raise InputError(
                f"a prior is given by step '{self.prior.step}', but --model {name} learns from none; take a model that "
                "writes all words at once, cmlm or levenshtein."
            )
        if self.prior_updates is not None and self.prior_updates < FEWEST_UPDATES:
            raise InputError(
                f"--prior-updates is {self.prior_updates}; expected a whole number of at least {FEWEST_UPDATES}."
            )

    @property
    def epochs_matter(self) -> bool:
        """Whether an update depends on how many epochs there will be: a prior may fade with the run."""
        return self.prior is not None and self.prior_updates is None

    def agree(self, steps: Mapping[str, Any]) -> None:
        """Refuses translations of other pairs than these, and a prior of others or of another vocabulary."""
        decoded = self.data.decoded if isinstance(self.data, Distilled) else None
        require_same_pairs(self, {"data.decoded": decoded}, steps, vocabulary=False)
        require_same_pairs(self, {"prior": self.prior, "begin": self.begin}, steps)
        split = getattr(steps.get(decoded.step), "split", "train") if decoded is not None else "train"
        if decoded is not None and split != "train":
            raise InputError(
                f"--{decoded.step}.split is '{split}', and the student learns from what step '{decoded.step}' made of "
                "its training pairs; expected 'train'."
            )
        for step in steps.values():  # told now: steps before it may take hours
            if isinstance(step, Run) and step.workload is self:
                require_type(self.precision, getattr(torch, step.dtype))
        if self.begin is not None:
            _require_same_sizes(self.model, getattr(getattr(steps[self.begin.step], "workload", None), "model", None))

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Learns the vocabulary, writes the pairs as a store of tokens, and links them where there is a prior."""
        began = time.monotonic()

        def told(what: str, share: float) -> None:
            watch({"event": "prepare", "what": what, "done": share})

        store = prepare_pairs(self.data, self.vocabulary, root, mapper=mapper, progress=told).store
        facts = {"pairs": store.num_pairs, "vocabulary": store.vocabulary_size, **store.facts, "bleu": bleu_signature()}
        if self.prior is not None:
            linked = functools.partial(told, "link")
            facts[PRIOR] = prepare_pair_priors(store, self.prior.folder, root, mapper=mapper, told=linked).name
        return Prepared(path=store.path, data_digest=store.data_digest, seconds=time.monotonic() - began, facts=facts)

    def open(self, run: Run, worker: Worker) -> "TranslationTask":
        """Maps the pairs. Raises InputError where none is short enough to be trained on."""
        return TranslationTask(self, run, worker)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShareOfPairs:
    """One worker's share of a global batch."""

    pairs: PairBatch
    """The pairs. For a worker without a share one that does not count, so that no network sees an empty batch."""
    counted: bool
    """Whether they are in the loss."""

    @property
    def size(self) -> int:
        """Pairs in the global batch."""
        return self.pairs.size


class TranslationTask:
    """Learning to translate as one worker does it."""

    def __init__(self, workload: Translation, run: Run, worker: Worker) -> None:
        self.workload, self.device, self.group = workload, worker.device, worker.group
        self.dtype = getattr(torch, run.dtype)
        self.key = Key.root(run.seed)
        self.store = PairStore.open(worker.prepared.path)
        verify_together(self.group, self.store.path, self.store.files)
        self.reader = PairReader(self.store)
        self.prepared, self.priors = worker.prepared, cast(PairPriors | None, None)  # which learning alone needs
        self.cut = self._global_batches()
        self._require_places()
        self.updates = workload.prior_updates or run.epochs * len(self.cut)

    def model(self) -> nn.Module:
        """The network, for the store's vocabulary."""
        return self.workload.model.build(self.store.vocabulary_size)

    def initialize(self, model: nn.Module) -> None:
        """Gives a new network the encoder and decoder that it begins with, if there is one."""
        made = self.workload.begin
        if made is None:
            return
        here = (made.folder / WEIGHTS).exists()
        holders = [rank for rank, holds in enumerate(self.group.gather_json(here)) if holds]
        source = holders[0] if holders else self.group.rank  # nobody has them: everybody says so
        data = read_weights(made) if self.group.rank == source else None
        begin_with(model, weights_in(self.group.broadcast_bytes(data, source, "state"), made), of=f"step '{made.step}'")

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return len(self.cut)

    @property
    def measures(self) -> list[str]:
        """Losses of the splits that have pairs, and BLEU where it is asked for."""
        held = [name for name, value in SPLITS if value != TRAIN and bool((self.reader.split == value).any())]
        return [*(f"{name}_loss" for name in held), *(f"{name}_bleu" for name in held if name in self.workload.bleu)]

    def batches(self, epoch: int, first_step: int) -> Iterator[ShareOfPairs]:
        """This worker's share of every batch of an epoch."""
        require_precision(self.workload.precision, self.device, self.dtype)
        if self.workload.prior is not None and self.priors is None:
            self.priors = self._opened_priors()
        order = shuffled(self.key.fold(SHUFFLING, epoch), torch.arange(len(self.cut))).tolist()
        for step, number in enumerate(order):
            if step >= first_step:
                update = epoch * len(self.cut) + step
                yield self._share(self.cut[number], self.key.fold(STEPPING, epoch, step), update)

    def _share(self, batch: Tensor, key: Key, update: int) -> ShareOfPairs:
        """This worker's share of a global batch of samples, which are in the order of their lengths."""
        mine = batch[self.group.rank :: self.group.size]
        held = mine if len(mine) else batch[:1]
        pairs = self.reader.batch(held, self.reader.lengths(batch), key=key)
        weight = 0.0 if self.priors is None else prior_weight(update, self.updates)
        if self.priors is not None and weight > 0:
            prior = self.priors.rows(held, pairs.source, pairs.target.shape[1])
            pairs = dataclasses.replace(pairs, prior=prior, prior_weight=weight)
        return ShareOfPairs(pairs=pairs.to(self.device), counted=len(mine) > 0)

    def _opened_priors(self) -> PairPriors:
        """What is known of the pairs beforehand, every byte read. All workers call this together."""
        prepared = self.prepared
        beside = dataclasses.replace(prepared, path=prepared.path.parent / prepared.facts[PRIOR])
        path = stage(self.group, beside).path
        verify_together(self.group, path, ProductFolder.open(path).files)
        return PairPriors.open(path)

    def _global_batches(self) -> list[Tensor]:
        """The training pairs that are short enough, cut: int64 [pairs of the batch] each, by length."""
        reader, longest = self.reader, self.workload.longest
        fitting = (reader.source_lengths <= longest) & (reader.target_lengths <= longest)
        samples = torch.nonzero((reader.split == TRAIN) & fitting).squeeze(1)
        if not len(samples):
            raise InputError(f"no training pair has at most --longest {longest} tokens; raise it.")
        drawn = bits(self.key.fold(CUTTING), samples)
        order = self._ordered(samples, reader.target_lengths, reader.source_lengths, last=drawn)
        return cut_by_tokens(order, self._longer_side(order), self.workload.batch_tokens)

    def _require_places(self) -> None:
        """Raises InputError where the model learns fewer positions than a sentence has that it learns or is measured
        by: told now, for the first evaluation may be hours away."""
        model, reader = self.workload.model, self.reader
        if getattr(model, "positions", None) != "learned":
            return
        asked = torch.cat([*self.cut, of_splits(reader.split, ["validation", "test"])])
        targets = reader.target_lengths[asked] + getattr(model, "places_before", 0)
        tokens = int(torch.maximum(reader.source_lengths[asked], targets).max())
        if tokens > (longest := getattr(model, "longest", tokens)):
            raise InputError(
                f"the longest sentence that is learned or measured has {tokens} tokens; --model.longest is {longest}. "
                "Raise it, or take sinusoidal --model.positions."
            )

    def _longer_side(self, samples: Tensor) -> Tensor:
        return torch.maximum(self.reader.source_lengths[samples], self.reader.target_lengths[samples])

    def _ordered(self, samples: Tensor, *lengths: Tensor, last: Tensor) -> Tensor:
        """Samples in the order of the first lengths, then of the second, then of `last`."""
        keys = [last.numpy(), *(length[samples].numpy() for length in reversed(lengths))]
        return samples[torch.from_numpy(np.lexsort(keys))]

    def loss(self, model: nn.Module, batch: ShareOfPairs) -> Tensor:
        """The pairs' part of the global batch's mean loss."""
        loss = self._loss(model, batch.pairs)
        return loss if batch.counted else loss * 0.0

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The loss of the validation and the test pairs, unsmoothed where the model says so; BLEU where it is due."""
        metrics: dict[str, float] = {}
        with torch.no_grad(), evaluating(model):
            for name, value in SPLITS:
                asked = torch.nonzero(self.reader.split == value).squeeze(1)
                if value == TRAIN or not len(asked):  # training pairs are too many to be asked again
                    continue
                metrics[f"{name}_loss"] = self._corpus_loss(model, asked)
                if name in self.workload.bleu:
                    metrics[f"{name}_bleu"] = self._corpus_bleu(model, asked)
        return metrics

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        """This worker's validation and test pairs: raw id, source, reference, translation, mean log-probability."""
        if embeddings:
            raise InputError("networks that translate give no embeddings; predict without --embeddings.")
        with torch.no_grad(), evaluating(model):
            samples, texts, scores = self._translated(model, torch.nonzero(self.reader.split > TRAIN).squeeze(1))
        return {
            "id": self.store.raw_ids().take(pa.array(samples.numpy())),
            "source": pa.array(self.reader.texts("source", samples), pa.string()),
            "reference": pa.array(self.reader.texts("target", samples), pa.string()),
            "translation": pa.array(texts, pa.string()),
            "score": scores.numpy(),
        }

    def state(self) -> dict[str, Tensor]:
        """Nothing: every draw is keyed."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""
        assert not state

    def staleness(self) -> dict[str, int]:
        """Nothing is late."""
        return {}

    def _corpus_loss(self, model: nn.Module, samples: Tensor) -> float:
        """The mean loss of some samples, as if they were one global batch."""
        everyone, key = self.reader.lengths(samples).to(self.device), self.key.fold(MEASURING)
        total = torch.zeros(1, dtype=torch.float64)
        reader = self.reader
        ordered = self._ordered(samples, reader.target_lengths, reader.source_lengths, last=samples)

        def pieces() -> Iterator[None]:
            for piece in self._mine(ordered, self._longer_side(ordered)):
                batch = self.reader.batch(piece, everyone, key=key).to(self.device)
                total.add_(float(self._loss(model, batch)))
                yield

        finish_together(self.group, pieces())
        return float(self.group.all_reduce(total, "state"))

    def _corpus_bleu(self, model: nn.Module, samples: Tensor) -> float:
        """BLEU of the translations of some samples, over all workers."""
        mine, texts, _ = self._translated(model, samples)
        return bleu(self.group.all_reduce(bleu_sums(texts, self.reader.texts("target", mine)), "state"))

    def _translated(self, model: nn.Module, samples: Tensor) -> tuple[Tensor, list[str], Tensor]:
        """This worker's share of some samples, int64 [n]; what each became; its score, float64 [n]."""
        translator, vocabulary = cast(Translator, model), self.store.vocabulary()
        mine: list[Tensor] = [samples[:0]]
        texts: list[str] = []
        scores = [torch.empty(0, dtype=torch.float64)]
        ordered = self._ordered(samples, self.reader.source_lengths, last=samples)

        def pieces() -> Iterator[None]:
            for piece in self._mine(ordered, self.reader.source_lengths[ordered]):
                source, lengths = self.reader.tokens("source", piece)
                found = translator.translate(source.to(self.device), lengths.to(self.device))
                tokens, ends = found.tokens.tolist(), found.lengths.tolist()
                texts.extend(vocabulary.decode([row[:end] for row, end in zip(tokens, ends, strict=True)]))
                mine.append(piece)
                scores.append(found.scores.cpu())
                yield

        finish_together(self.group, pieces())
        return torch.cat(mine), texts, torch.cat(scores)

    def _mine(self, ordered: Tensor, lengths: Tensor) -> list[Tensor]:
        """This worker's pieces of some samples: a piece is the same whoever has it, so that what becomes of it is."""
        return cut_by_tokens(ordered, lengths, self.workload.evaluation_tokens)[self.group.rank :: self.group.size]

    def _loss(self, model: nn.Module, pairs: PairBatch) -> Tensor:
        """A network's answer. Raises InputError where it is not one number."""
        with computing_in(self.workload.precision if model.training else "float32", self.device):
            loss = model(pairs)
        if not isinstance(loss, Tensor) or loss.dim():
            name = plugin_name(type(self.workload.model)).rpartition(":")[2]
            given = tuple(loss.shape) if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError(f"the network of --model {name} answered {given}; expected a scalar, the share's loss.")
        return loss


def _require_same_sizes(model: TranslationModel, other: Any) -> None:
    """Raises InputError where one model cannot begin with another's weights, as far as their settings tell."""
    learned = all(getattr(each, "positions", None) == "learned" for each in (model, other))
    for name in ("width", "inner", "heads", "norm", *(["longest"] if learned else [])):
        mine, theirs = getattr(model, name, None), getattr(other, name, None)
        if mine is not None and theirs is not None and mine != theirs:
            raise InputError(
                f"--model.{name} is {mine}, and {theirs} in the model with whose weights this one begins; give both "
                "the same."
            )


def cut_by_tokens(samples: Tensor, lengths: Tensor, tokens: int) -> list[Tensor]:
    """Samples (int64 [n]) in the order given, in pieces: each of at most `tokens` tokens, padding counted, or of one
    sample that has more. `lengths`: int64 [n], of their longer side where they have two."""
    pieces, begin, widest = [], 0, 0
    for place, length in enumerate(lengths.tolist()):
        widest = max(widest, length)
        if place > begin and (place + 1 - begin) * widest > tokens:
            pieces.append(samples[begin:place])
            begin, widest = place, length
    return [*pieces, samples[begin:]] if len(samples) else []
