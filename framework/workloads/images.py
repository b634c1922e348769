"""Learning the classes of images.

A global batch is cut from the shuffled training samples by id, the same on every worker, then shared out. What an image
goes through (moves, holes, mixing) is drawn by its id, batch normalisation sums over all workers, and the loss is a sum
over the global batch divided by its size: so workers do not show in it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.sharded import Sharded
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.meeting import verify_together
from framework.config import asked, placement, plugin_name
from framework.data.dataset import TRAIN
from framework.data.image_sets import ImageSet
from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.errors import InputError
from framework.models.cnn.averaged import Averaged
from framework.models.cnn.image_model import ImageModel, Pretrained
from framework.models.cnn.normalize import connect
from framework.prepare.images import prepare_images
from framework.random import Key, shuffled
from framework.registry import WORKLOADS
from framework.samples.image_augment import ImageAugmentation
from framework.samples.images import ImageReader, ImageStore
from framework.workloads.goals import Classification, measures_of
from framework.workloads.graphs import AUGMENTING
from framework.workloads.precision import Precision, computing_in, require_precision
from framework.workloads.samples import (
    SHUFFLING,
    SPLITS,
    STEPPING,
    Split,
    evaluating,
    of_splits,
    row_of_each,
)


@WORKLOADS.register("images")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassification:
    """A class for every image."""

    data: ImageSet
    """The raw data set."""
    model: ImageModel
    """The network."""
    batch_size: int = 128
    """Training images in a global batch, over all workers."""
    augment: ImageAugmentation = ImageAugmentation()
    """How images are changed in training."""
    label_smoothing: float = 0.0
    """Share of an image's class that is spread over all classes (Szegedy et al., CVPR 2016)."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which evaluation then uses. 0: the weights as they are."""
    precision: Precision = "float32"
    """What convolutions compute in while the network learns: `bfloat16` where the device has it, weights and sums as
    `--dtype` says. What it has learned is measured, and answers, in the latter."""
    measured: tuple[Split, ...] = asked(("validation", "test"))
    """Splits that an evaluation measures; the training images, which are many, only where they are named."""
    evaluation_batch: int = placement(512)
    """Images that a worker evaluates at a time."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluation_batch"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; expected a whole number of at least 1."
                )
        for name in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; expected at least 0 and less than 1."
                )

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Decodes the images and writes them as a store."""
        done = prepare_images(
            self.data,
            root,
            mapper=mapper,
            progress=lambda what, share: watch({"event": "prepare", "what": what, "done": share}),
        )
        store = done.store
        facts = {"images": store.num_images, "size": list(store.shape), "parts": store.parts}
        return Prepared(path=store.path, data_digest=store.data_digest, seconds=done.seconds, facts=facts)

    def open(self, run: Run, worker: Worker) -> "ImageTask":
        """Maps the images. Raises InputError for a precision or an average that this run cannot have."""
        return ImageTask(self, run, worker)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShareOfImages:
    """One worker's share of a global batch of images; perhaps none of them."""

    images: Tensor
    """What the network sees: [n, channels, height, width]."""
    labels: Tensor
    """Their classes: int64 [n]."""
    mixed: tuple[Tensor, Tensor] | None
    """Where images are mixed: the classes of what each is mixed with, int64 [n], and the share that is its own, [n]."""
    reconstruct: bool
    """Whether the network is to learn the images themselves, not their classes."""
    size: int
    """Images in the global batch."""


class ImageTask:
    """Learning from images as one worker does it."""

    def __init__(self, workload: ImageClassification, run: Run, worker: Worker) -> None:
        self.workload, self.device, self.group = workload, worker.device, worker.group
        self.dtype = getattr(torch, run.dtype)
        _require_fitting(workload, run.gradient)
        self.key = Key.root(run.seed)
        self.store = ImageStore.open(worker.prepared.path)
        verify_together(self.group, self.store.path, self.store.files)
        self.reader = ImageReader(self.store)
        self.goal = Classification(self.reader.labels, self.store.num_classes, self.store.class_names)
        self.training = torch.nonzero(self.reader.split == TRAIN).squeeze(1)
        self.pretraining = workload.model.pretraining if isinstance(workload.model, Pretrained) else 0

    def model(self) -> nn.Module:
        """The network, from the images' channels to classes; its batch normalisation sums over all workers."""
        network = self.workload.model.build(self.store.shape[2], self.store.num_classes)
        if self.group.size > 1:
            connect(network, lambda tensor: self.group.all_reduce(tensor, "statistics"))
        if self.workload.ema:
            network = Averaged(network, self.workload.ema)
        # Weights in memory as images are, a pixel's channels together; torch's stubs do not know of it.
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return -(-len(self.training) // self.workload.batch_size)

    def batches(self, epoch: int, first_step: int) -> Iterator[ShareOfImages]:
        """This worker's share of every batch of an epoch."""
        require_precision(self.workload.precision, self.device, self.dtype)
        order = self.training[shuffled(self.key.fold(SHUFFLING, epoch), self.training)]
        for step, chosen in enumerate(torch.split(order, self.workload.batch_size)):
            if step >= first_step:
                yield self._share(chosen.sort().values, epoch, step)

    def _share(self, batch: Tensor, epoch: int, step: int) -> ShareOfImages:
        """This worker's share of a global batch of samples, ascending."""
        augment, places = self.workload.augment, slice(self.group.rank, None, self.group.size)
        mine, drawing = batch[places], self.key.fold(AUGMENTING, epoch)
        images, reconstruct, mixed = self._seen(mine, drawing), epoch < self.pretraining, None
        if augment.mixup and not reconstruct:
            partners = augment.partners(batch, self.key.fold(STEPPING, epoch, step))[places]
            shares = augment.shares(mine, drawing).to(self.dtype)
            images = torch.lerp(self._seen(partners, drawing), images, shares[:, None, None, None])
            mixed = self.reader.labels[partners].to(self.device), shares.to(self.device)
        if not reconstruct:
            images = augment.holed(images, mine, drawing)
        return ShareOfImages(
            images=images.to(self.device),
            labels=self.reader.labels[mine].to(self.device),
            mixed=mixed,
            reconstruct=reconstruct,
            size=len(batch),
        )

    def _seen(self, samples: Tensor, drawing: Key | None = None) -> Tensor:
        """The images of samples as the network sees them; moved, where there is a key to draw by."""
        pixels = self.reader.pixels(samples)
        if drawing is not None:
            pixels = self.workload.augment.moved(pixels, samples, drawing)
        return self.reader.scaled(pixels, self.dtype)

    def loss(self, model: nn.Module, batch: ShareOfImages) -> Tensor:
        """The images' loss, summed here and divided by the global batch's size."""
        if batch.reconstruct:
            with computing_in(self.workload.precision, self.device):
                decoded: Tensor = model(batch.images, reconstruct=True)
            return (decoded.to(self.dtype) - batch.images).square().mean(dim=(1, 2, 3)).sum() / batch.size
        scores = self._scores(model, batch.images, self.workload.precision)
        losses = self._losses(scores, batch.labels)
        if batch.mixed is not None:
            others, shares = batch.mixed
            losses = torch.lerp(self._losses(scores, others), losses, shares)
        return losses.sum() / batch.size

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.workload.label_smoothing
        return nn.functional.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and loss of the splits that are measured."""
        mine, scores = self._answers(model, of_splits(self.reader.split, self.workload.measured))
        split, answers = self.reader.split[mine], self.goal.answers(scores)
        metrics: dict[str, float] = {}
        for name, value in SPLITS:
            chosen = split == value
            loss = self.goal.loss(scores[chosen].double(), mine[chosen])
            sums = torch.cat([self.goal.sums(answers[chosen], mine[chosen]), loss[None]])
            sums = self.group.all_reduce(sums, "state")
            if sums[0] > 0:
                metrics |= {f"{name}_{metric}": number for metric, number in self.goal.metrics(sums[:-1]).items()}
                metrics[f"{name}_loss"] = float(sums[-1] / sums[0])
        return metrics

    @property
    def measures(self) -> list[str]:
        """The goal's metrics and the loss, by their names, of the splits that are measured and have images."""
        return measures_of(self.goal, self.reader.split, self.workload.measured, "loss")

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        """The raw ids of this worker's samples, and class, its probability and name for each."""
        if embeddings:
            raise InputError("networks of images give no embeddings; predict without --embeddings.")
        mine, scores = self._answers(model, torch.arange(self.store.num_images))
        ids = self.store.raw_ids().take(pa.array(mine.numpy()))
        return {"id": ids, **self.goal.columns(self.goal.answers(scores))}

    def state(self) -> dict[str, Tensor]:
        """Nothing: every draw is keyed."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""
        assert not state

    def staleness(self) -> dict[str, int]:
        """Nothing is late."""
        return {}

    def _answers(self, model: nn.Module, samples: Tensor) -> tuple[Tensor, Tensor]:
        """This worker's share of some samples, and their scores: int64 [n], [n, classes] on the host."""
        mine = samples[self.group.rank :: self.group.size]
        with torch.no_grad(), evaluating(model):
            scores = [
                self._scores(model, self._seen(chosen).to(self.device), "float32").cpu()
                for chosen in torch.split(mine, self.workload.evaluation_batch)
            ]
        return mine, torch.cat(scores)

    def _scores(self, model: nn.Module, images: Tensor, precision: Precision) -> Tensor:
        """A network's answer. Raises InputError where it is not one row of scores an image."""
        with computing_in(precision, self.device):
            answer = model(images)
        answer = row_of_each(answer, len(images), self.goal.outputs, model=self.workload.model, sample="image")
        return answer.to(self.dtype)


def _require_fitting(workload: ImageClassification, gradient: GradientStrategy) -> None:
    """Raises InputError for a strategy under which an average, or weights that rest, would not be what they are."""
    if workload.ema and not isinstance(gradient, AllReduce | Compressed):
        name = plugin_name(type(gradient)).partition(":")[2]
        raise InputError(
            f"--ema averages weights that are whole and the same on every worker, which they are not by --gradient "
            f"{name}; choose --gradient all-reduce or compressed, or --ema 0."
        )
    stage = gradient.stage if isinstance(gradient, Sharded) else ""
    if stage in ("zero2", "zero3") and isinstance(workload.model, Pretrained):
        name = plugin_name(type(workload.model)).removeprefix("imagemodel:")
        raise InputError(
            f"--gradient.stage {stage} steps on all weights together, and --model {name} has some that rest while "
            "others are learned; take zero1 or fsdp."
        )
