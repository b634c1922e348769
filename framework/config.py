"""A run and its plug-ins as values: object <-> dict <-> digest.

A plug-in is a frozen, keyword-only dataclass; its fields are its whole configuration. As a dict it is its fields plus
`plugin`, the name its registry finds it under (`partitioner:fennel`). Nothing here is ever pickled, and what is read
from a file can name nothing but such dataclasses: no function, and no module that was not installed as a plug-in.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from framework.errors import InputError
from framework.registry import REGISTRIES, is_announced, is_known, load


def placement(default: Any) -> Any:
    """A dataclass field that says where or how fast, never what comes out: left out of the digest of a result."""
    return dataclasses.field(default=default, metadata={"result": False})


def asked(default: Any) -> Any:
    """A dataclass field that says what trained weights are asked, never what they are, but where the best are kept: it
    is in the digest, and may be another when they are asked again."""
    return dataclasses.field(default=default, metadata={"learned": False})


def reference() -> Any:
    """A required dataclass field that names a `module:attribute` to import: `decode` minds it as it does a plug-in."""
    return dataclasses.field(metadata={"reference": True})


def says_where(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field was declared by `placement`."""
    return field.metadata.get("result") is False


def says_what_is_asked(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field was declared by `asked`."""
    return field.metadata.get("learned") is False


def encode(value: Any, *, result_only: bool = False, asked_too: bool = True) -> Any:
    """`value` as JSON types. With `result_only`, without the fields declared by `placement`; without `asked_too`,
    without those declared by `asked`.

    Raises InputError for a type that has no plain form."""

    def inner(value: Any) -> Any:
        return encode(value, result_only=result_only, asked_too=asked_too)

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: inner(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (result_only and says_where(field)) and (asked_too or not says_what_is_asked(field))
        }
        return {"plugin": plugin_name(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [inner(item) for item in value]
    raise InputError(f"a field of a run holds a {type(value).__name__}; expected numbers, text, sequences, plug-ins.")


def decode(data: Any, *, trusted: bool = False) -> Any:
    """The value that `encode` made `data` of; lists come back as tuples, so that the value stays hashable.

    To import a module is to run it: `trusted` data, that is what this program wrote for itself, may name any; other
    data only what `is_known`. Raises InputError where a plug-in is not installed, or is none, or has no such field."""
    if isinstance(data, list):
        return tuple(decode(item, trusted=trusted) for item in data)
    if not isinstance(data, dict):
        return data
    fields = {name: decode(item, trusted=trusted) for name, item in data.items() if name != "plugin"}
    if "plugin" not in data:
        return fields
    plugin = _plugin_class(data["plugin"], trusted)
    for field in dataclasses.fields(plugin):
        if field.metadata.get("reference") and not trusted and field.name in fields:
            # What it names is called, whatever it is: that a module is imported already, as `os` is, is not enough.
            _refuse_unknown_module(fields[field.name], known=is_announced)
    try:
        return plugin(**fields)
    except TypeError as error:
        raise InputError(f"{data['plugin']} cannot be made from {sorted(data)}: {error}") from error


def plugin_name(plugin: type) -> str:
    """`kind:name` where a registry knows the class under a plain name, else `module:Class`."""
    for kind, registry in REGISTRIES.items():
        name = registry.name_of(plugin)
        if ":" not in name:
            return f"{kind}:{name}"
    return f"{plugin.__module__}:{plugin.__qualname__}"


def _plugin_class(name: str, trusted: bool) -> type[Any]:
    """The frozen dataclass of a `plugin_name`: whatever else a name leads to is not called."""
    kind, short = _module_of(name), name.partition(":")[2]
    registered = kind in REGISTRIES and ":" not in short
    if not registered and not trusted:
        _refuse_unknown_module(name)
    found: Any = REGISTRIES[kind].get(short) if registered else load(name, "class")
    if not isinstance(found, type) or not dataclasses.is_dataclass(found) or not _is_frozen(found):
        raise InputError(f"'{name}' is no plug-in; expected a frozen dataclass.")
    if not registered and found.__module__ != kind:
        raise InputError(f"'{name}' is not defined in module '{kind}' but in '{found.__module__}'; name that one.")
    return found


def _is_frozen(plugin: type[Any]) -> bool:
    return bool(plugin.__dataclass_params__.frozen)


def _refuse_unknown_module(name: str, known: Callable[[str], bool] = is_known) -> None:
    module = _module_of(name)
    if not known(module):
        raise InputError(
            f"'{name}' is of a module that no installed plug-in announces; module '{module}' was not imported. "
            "If you trust it, `evaluate`, `predict` and `translate` take --trust."
        )


def _module_of(name: object) -> str:
    """What is before the colon. Raises InputError for a name that is no text."""
    if not isinstance(name, str):
        raise InputError(f"a plug-in's name is {name!r}; expected text, as 'partitioner:fennel' or 'module:Class'.")
    return name.partition(":")[0]


def digest(value: Any, *, result_only: bool = False) -> str:
    """SHA-256, as 64 hex digits, of the canonical JSON of `value`."""
    text = json.dumps(encode(value, result_only=result_only), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
