"""Which kind of plug-in a field holds, told by the protocol in its annotation; and what a plug-in's fields say.

This is where kinds and protocols meet: a new kind of plug-in adds a line to `PROTOCOLS`.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any

from framework.comm.cache.policy import Cache
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.layout.strategy import Layout
from framework.data.dataset import Dataset
from framework.data.graph_sets import GraphSet
from framework.data.image_sets import ImageSet
from framework.data.pair_sets import PairSet
from framework.engine.optimize import Optimizer, Schedule
from framework.engine.run import Launcher, Workload
from framework.errors import InputError
from framework.graph.coarsen import Pooling
from framework.lexicon.aligner import Aligner
from framework.models.cnn.image_model import ImageModel
from framework.models.graph_model import GraphModel
from framework.models.node_model import NodeModel
from framework.models.translation.translator import TranslationModel
from framework.partition import EdgeCut, VertexCut
from framework.registry import (
    ALIGNERS,
    CACHES,
    DATASETS,
    GRADIENTS,
    GRAPH_MODELS,
    GRAPH_SETS,
    HALOS,
    IMAGE_MODELS,
    IMAGE_SETS,
    LAUNCHERS,
    LAYOUTS,
    MODELS,
    OPTIMIZERS,
    PAIR_SETS,
    PARTITIONERS,
    POOLINGS,
    SAMPLERS,
    SCHEDULES,
    TRANSLATORS,
    WORKLOADS,
    Registry,
)
from framework.sample.sampler import Sampler

PROTOCOLS: tuple[tuple[type, Registry], ...] = (
    (EdgeCut, PARTITIONERS),
    (VertexCut, PARTITIONERS),
    (Sampler, SAMPLERS),
    (Cache, CACHES),
    (HaloStrategy, HALOS),
    (Layout, LAYOUTS),
    (GradientStrategy, GRADIENTS),
    (NodeModel, MODELS),
    (GraphModel, GRAPH_MODELS),
    (ImageModel, IMAGE_MODELS),
    (Pooling, POOLINGS),
    (Dataset, DATASETS),
    (GraphSet, GRAPH_SETS),
    (PairSet, PAIR_SETS),
    (TranslationModel, TRANSLATORS),
    (Aligner, ALIGNERS),
    (ImageSet, IMAGE_SETS),
    (Workload, WORKLOADS),
    (Optimizer, OPTIMIZERS),
    (Schedule, SCHEDULES),
    (Launcher, LAUNCHERS),
)


def registry_of(annotation: Any) -> Registry | None:
    """The registry whose plug-ins a field of this annotation holds; None where it holds a plain value."""
    for option in _options(annotation):
        for protocol, registry in PROTOCOLS:
            if option is protocol:
                return registry
    return None


def chosen(registry: Registry, name: str) -> type[Any]:
    """The plug-in class called `name`. Raises InputError where there is none, or it is no plug-in of that kind."""
    plugin = registry.get(name)
    if not isinstance(plugin, type) or not dataclasses.is_dataclass(plugin):
        raise InputError(f"{registry.kind} '{name}' is not a frozen dataclass; its fields would be its settings.")
    wanted = [protocol for protocol, known in PROTOCOLS if known is registry]
    if not any(_has_members(plugin, protocol) for protocol in wanted):
        members = " or ".join(sorted(f"{member}()" for protocol in wanted for member in _members(protocol)))
        raise InputError(f"{registry.kind} '{name}' has no {members}: it is no {registry.kind}.")
    return plugin


def field_types(plugin: type) -> dict[str, Any]:
    """Annotation of every field that a caller sets. Raises InputError where one names a class that there is not."""
    try:
        hints = typing.get_type_hints(plugin, include_extras=True)
    except (NameError, AttributeError) as error:
        name = f"{plugin.__module__}:{plugin.__qualname__}"
        raise InputError(f"the field types of {name} are unknown: {error}") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(plugin) if field.init}


def field_docs(plugin: type) -> dict[str, str]:
    """The string under every field, as one line; fields without one, or of a class without source, are left out."""
    docs: dict[str, str] = {}
    for ancestor in reversed(plugin.__mro__):
        try:
            source = inspect.getsource(ancestor)
        except (OSError, TypeError):
            continue
        body = getattr(ast.parse(textwrap.dedent(source)).body[0], "body", [])
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and _is_text(following):
                docs[statement.target.id] = " ".join(following.value.value.split())
    return docs


def _is_text(statement: ast.AST) -> typing.TypeGuard[Any]:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _options(annotation: Any) -> list[Any]:
    """The members of a union, through `Annotated`; or the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in _options(member)]
    return [annotation]


def _members(protocol: type) -> list[str]:
    """The methods and properties that a protocol asks for."""
    return [name for name, value in vars(protocol).items() if _is_member(name, value)]


def _is_member(name: str, value: Callable[..., Any] | object) -> bool:
    return not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))


def _has_members(plugin: type, protocol: type) -> bool:
    return all(hasattr(plugin, member) for member in _members(protocol))
