"""What workloads share: what samples are for, what draws are for, what a network has to answer."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framework.config import plugin_name
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.errors import InputError

SHUFFLING, STEPPING = 1, 2  # the purposes that a run's key is folded by: the order of the samples, and a step's draws
EVALUATING = 9  # and what is drawn where a network is evaluated on draws, the same every time
Split = Literal["train", "validation", "test"]
SPLITS: tuple[tuple[Split, int], ...] = (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))


def of_splits(split: Tensor, wanted: Collection[Split]) -> Tensor:
    """The numbers of samples that are in one of the splits `wanted`: uint8 [n] -> int64 [any], ascending."""
    values = torch.tensor([value for name, value in SPLITS if name in wanted], dtype=split.dtype)
    return torch.isin(split, values).nonzero().squeeze(1)


def row_of_each(outputs: Any, samples: int, columns: int, *, model: object, sample: str) -> Tensor:
    """What a network has answered. Raises InputError where it is not one row of `columns` outputs a `sample`."""
    expected = (samples, columns)
    if not isinstance(outputs, Tensor) or outputs.shape != expected:
        name = plugin_name(type(model)).rpartition(":")[2]
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise InputError(f"the network of --model {name} answered {given}; expected {expected}, a row a {sample}.")
    return outputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, the former mode after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
