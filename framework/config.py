"""A run and its plug-ins as values: object <-> dict <-> digest.

A plug-in is a frozen, keyword-only dataclass; its fields are its whole configuration. As a dict it is its fields plus
`plugin`, the name its registry finds it under (`partitioner:fennel`). Nothing here is ever pickled.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from framework.errors import InputError
from framework.registry import REGISTRIES, load

T = TypeVar("T")


def placement(default: Any) -> Any:
    """A dataclass field that says where or how fast, never what comes out: left out of the digest of a result."""
    return dataclasses.field(default=default, metadata={"result": False})


def encode(value: Any, *, result_only: bool = False) -> Any:
    """`value` as JSON types. With `result_only`, without the fields declared by `placement`.

    Raises InputError for a type that has no plain form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: encode(getattr(value, field.name), result_only=result_only)
            for field in dataclasses.fields(value)
            if not (result_only and field.metadata.get("result") is False)
        }
        return {"plugin": plugin_name(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): encode(item, result_only=result_only) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [encode(item, result_only=result_only) for item in value]
    raise InputError(f"a field of a run holds a {type(value).__name__}; expected numbers, text, sequences, plug-ins.")


def decode(data: Any) -> Any:
    """The value that `encode` made `data` of; lists come back as tuples, so that the value stays hashable.

    Raises InputError where a plug-in is not installed or has no such field."""
    if isinstance(data, list):
        return tuple(decode(item) for item in data)
    if not isinstance(data, dict):
        return data
    if "plugin" not in data:
        return {key: decode(item) for key, item in data.items()}
    kind, _, name = data["plugin"].partition(":")
    plugin = REGISTRIES[kind].get(name) if kind in REGISTRIES else load(data["plugin"], "class")
    try:
        return plugin(**{key: decode(item) for key, item in data.items() if key != "plugin"})
    except TypeError as error:
        raise InputError(f"{data['plugin']} cannot be made from {sorted(data)}: {error}") from error


def plugin_name(plugin: type) -> str:
    """`kind:name` where a registry knows the class under a plain name, else `module:Class`."""
    for kind, registry in REGISTRIES.items():
        name = registry.name_of(plugin)
        if ":" not in name:
            return f"{kind}:{name}"
    return f"{plugin.__module__}:{plugin.__qualname__}"


def digest(value: Any, *, result_only: bool = False) -> str:
    """SHA-256, as 64 hex digits, of the canonical JSON of `value`."""
    text = json.dumps(encode(value, result_only=result_only), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
