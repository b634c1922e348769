"""A run's folder as anybody reads it: which run it is of, and what that came to. `launch/record.py` writes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from framework.config import decode
from framework.engine.run import Run
from framework.engine.state import weights_digest
from framework.errors import StoreError
from framework.made import Made

RUN, PREPARED, REPORT = "run.json", "prepared.json", "report.json"
CHECKPOINTS, WEIGHTS = "checkpoints", "model.safetensors"


def read_run(folder: Path, *, trusted: bool = False) -> Run:
    """The run that a folder is of; `trusted` as in framework.config.decode.

    Raises StoreError where the folder has none, InputError where a plug-in is not installed."""
    try:
        run = decode(encoded_run(folder), trusted=trusted)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"'{folder / RUN}' is no run ({type(error).__name__}: {error}).") from error
    if not isinstance(run, Run):
        raise StoreError(f"'{folder / RUN}' holds a {type(run).__name__}; expected a run.")
    return run


def read_weights(made: Made) -> bytes:
    """The file of the weights that a step trained, as safetensors has them. Raises StoreError without one."""
    path = made.folder / WEIGHTS
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"'{path}' cannot be read: {error.strerror}. Train the step '{made.step}' again.") from error


def weights_in(data: bytes, made: Made) -> dict[str, Tensor]:
    """The weights in the bytes of a step's file, by name. Raises StoreError where they are torn."""
    try:
        return load(data)
    except SafetensorError as error:
        raise StoreError(
            f"'{made.folder / WEIGHTS}' is damaged ({error}). Train the step '{made.step}' again."
        ) from error


def verify_weights(folder: Path, report: Mapping[str, Any], remedy: str) -> None:
    """Reads the weights of a finished run. Raises StoreError, with `remedy`, where they are not those of its report."""
    path = folder / WEIGHTS
    try:
        found = weights_digest(load(path.read_bytes()))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"'{path}' cannot be read ({error}). {remedy}") from error
    if found != report["weights_digest"]:
        raise StoreError(f"'{path}' was altered: its digest is not the one in {REPORT}. {remedy}")


def encoded_run(folder: Path) -> dict[str, Any]:
    """The run that a folder is of, as it is written there; nothing is imported. Raises StoreError."""
    data = read_json(folder / RUN, "Give the folder that `shardyard train --out` wrote.")
    if not isinstance(data, dict) or not isinstance(data.get("plugin"), str):
        raise StoreError(f"'{folder / RUN}' is no run; expected an object that says of which class it is.")
    return data


def read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file. Raises StoreError with `remedy` where it is missing, torn, or something else."""
    data = read_json(path, remedy)
    if not isinstance(data, dict):
        raise StoreError(f"'{path}' holds a {type(data).__name__}; expected an object. {remedy}")
    return data


def read_json(path: Path, remedy: str) -> Any:
    """A JSON file's content. Raises StoreError with `remedy` where it is missing or torn."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"'{path}' is not there. {remedy}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"'{path}' cannot be read ({type(error).__name__}: {error}). {remedy}") from error
