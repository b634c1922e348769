"""Weights and states as plain tensors: what a checkpoint holds and what a digest is taken of."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.comm.group import as_tensor


@runtime_checkable
class Stateful(Protocol):
    """What a worker keeps for itself from step to step, and a checkpoint with it."""

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on and that is this worker's alone; empty where there is nothing."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave, on the same worker of a run with as many."""


def beneath(word: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `word.` before their names."""
    return {f"{word}.{name}": tensor for name, tensor in tensors.items()}


def under(word: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `word.`, without it."""
    return {name.removeprefix(f"{word}."): one for name, one in tensors.items() if name.startswith(f"{word}.")}


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors takes them: contiguous, on the host, each with memory of its own."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over all weights in the order of their names, each its name and its bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_NUMBERS = "numbers"  # where the others are called by a weight's index


def optimizer_state(optimizer: torch.optim.Optimizer, *, own: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimiser's state as plain values and its own tensors; `load_optimizer_state` takes both back.

    `own`: it is this worker's alone, so numbers that some keep of weights are among the tensors, as JSON."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    if own and numbers:
        tensors[_NUMBERS], numbers = as_tensor(json.dumps(numbers).encode()), {}
    return {"groups": state["param_groups"], "numbers": numbers}, tensors


def fits(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors that `optimizer_state` gave have the shapes of this optimiser's weights, or are numbers."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shapes = [(weights[int(name.partition(".")[0])].shape, tensor.shape) for name, tensor in tensors.items()]
    return all(len(shape) == 0 or shape == weight for weight, shape in shapes)


def load_optimizer_state(optimizer: torch.optim.Optimizer, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_state` gave."""
    state: dict[int, dict[str, Any]] = {}
    own = json.loads(tensors[_NUMBERS].numpy().tobytes()) if _NUMBERS in tensors else {}
    for key, value in {**tensors, **plain["numbers"], **own}.items():
        if key == _NUMBERS:
            continue
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
