"""Who is trained on, validated on and tested on, where the data does not say: a hash of the node's id decides."""

import numpy as np
import torch
from numpy.typing import NDArray

from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.errors import InputError
from framework.random import Key, uniform

_SPLIT = Key.root(0).fold(0x53504C49)  # the purpose of the draw ("SPLI")


def hashed_split(num_nodes: int, shares: tuple[float, float]) -> NDArray[np.uint8]:
    """What every node is for, uint8 [num_nodes]. `shares`: of training and validation nodes; the rest are test nodes.

    Raises InputError for shares below 0 or above 1 together."""
    training, validation = shares
    if training < 0 or validation < 0 or training + validation > 1:
        raise InputError(f"the split shares are {training}, {validation}; expected at least 0 each, at most 1 in all.")
    draws = uniform(_SPLIT, torch.arange(num_nodes)).numpy()
    split = np.full(num_nodes, TEST, np.uint8)
    split[draws < training + validation] = VALIDATION
    split[draws < training] = TRAIN
    return split
