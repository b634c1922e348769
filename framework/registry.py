"""Plug-ins by name: the built-in ones first, then the entry points of installed packages for a name they lack.

A registry imports the package that holds its built-ins at its first question, so this file stays a leaf: it knows the
name of a package, never its contents. A plug-in of somebody else is an entry point in the group `shardyard.<kind>s`.
"""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions
from typing import Any, TypeVar

from framework.errors import InputError

T = TypeVar("T")

_IMPORTING = threading.RLock()  # one of all registries: two that import each other's built-ins would wait for ever


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What `shardyard list` shows of one plug-in."""

    name: str
    """The name it is chosen by."""
    module: str
    """The module that defines it."""
    summary: str
    """The first line of its docstring; of an installed plug-in that cannot be imported, why."""
    fields: dict[str, str]
    """Field name -> default value as text (`required` where there is none)."""


class Registry:
    """The plug-ins of one kind (`partitioner`, `sampler`, ...), looked up by name."""

    def __init__(self, kind: str, *, builtin: str) -> None:
        """`kind` is the word a user sees; `builtin` the package whose modules register the built-ins when imported."""
        self.kind = kind
        self.group = f"shardyard.{kind}s"
        self._builtin = builtin
        self.package = builtin.partition(".")[0]
        self._classes: dict[str, Callable[..., Any]] = {}
        self._names: dict[Callable[..., Any], str] = {}
        self._importing = self._imported = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator: make the class known as `name`; the class itself, and so its type, is unchanged."""

        def keep(plugin: T) -> T:
            assert callable(plugin)
            self._classes[name] = plugin
            self._names.setdefault(plugin, name)
            return plugin

        return keep

    def names(self) -> list[str]:
        """Every name that `get` answers, sorted."""
        self._import_builtin()
        return sorted({*self._classes, *self.announced()})

    def announced(self) -> dict[str, EntryPoint]:
        """Name -> entry point of every plug-in of this kind that an installed package announces."""
        return _entry_points().get(self.group, {})

    def get(self, name: str) -> Callable[..., Any]:
        """The class (or function) called `name`; or `module:attribute` for one that no package announces.

        Raises InputError with the known names and the nearest match."""
        self._import_builtin()
        if name in self._classes:
            return self._classes[name]
        if name in self.announced():
            return self._load_announced(name)
        if ":" in name:
            return load(name, self.kind)
        near = difflib.get_close_matches(name, self.names(), n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"no {self.kind} is called '{name}'.{guess} Known: {', '.join(self.names())}.")

    def name_of(self, plugin: type) -> str:
        """The name that `get` would find `plugin` under: its registered name, else `module:Class`.

        Imports nothing: a built-in was registered when the module that defines it was imported."""
        if plugin in self._names:
            return self._names[plugin]
        reference = f"{plugin.__module__}:{plugin.__qualname__}"
        return next((name for name, point in self.announced().items() if point.value == reference), reference)

    def entries(self) -> list[Entry]:
        """One Entry a plug-in, by name."""
        return [self._entry(name) for name in self.names()]

    def _load_announced(self, name: str) -> Callable[..., Any]:
        point = self.announced()[name]
        try:
            loaded: Callable[..., Any] = point.load()
        except (Exception, SystemExit) as error:  # a script without a guard leaves when it is imported
            if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
                raise  # as the command does when it is told to end
            raise InputError(
                f"{self.kind} '{name}' ({point.value}) could not be imported: {type(error).__name__}: {error}"
            ) from error
        if not callable(loaded):
            raise InputError(
                f"{self.kind} '{name}' ({point.value}) is a {type(loaded).__name__}; expected a class: give the entry "
                "point as MODULE:CLASS."
            )
        return loaded

    def _entry(self, name: str) -> Entry:
        try:
            plugin = self.get(name)
        except InputError as error:  # one broken package must not hide the others
            return Entry(name=name, module=_module_of(self.announced()[name]), summary=f"broken: {error}", fields={})
        fields = {}
        if dataclasses.is_dataclass(plugin):
            for field in dataclasses.fields(plugin):
                if field.default is not dataclasses.MISSING:
                    fields[field.name] = repr(field.default)
                elif field.default_factory is not dataclasses.MISSING:
                    fields[field.name] = repr(field.default_factory())
                else:
                    fields[field.name] = "required"
        summary = (plugin.__doc__ or "").strip().partition("\n")[0]
        return Entry(name=name, module=plugin.__module__, summary=summary, fields=fields)

    def _import_builtin(self) -> None:
        if self._imported:
            return
        with _IMPORTING:  # who asks meanwhile waits for the whole answer
            if self._imported or self._importing:  # the latter: a module imported below asks this registry in turn
                return
            self._importing = True
            try:
                package = importlib.import_module(self._builtin)
                for module in pkgutil.iter_modules(getattr(package, "__path__", [])):  # one module has no path: is all
                    importlib.import_module(f"{self._builtin}.{module.name}")
                self._imported = True
            finally:
                self._importing = False


def load(reference: str, kind: str) -> Callable[..., Any]:
    """The attribute that `module:attribute` names. Raises InputError that says which half is not there."""
    module_name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InputError(f"{kind} '{reference}': expected MODULE:NAME, as roads:Roads for Roads in roads.py.")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        why = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{kind} '{reference}': module '{module_name}' cannot be imported: {why}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise InputError(f"{kind} '{reference}': module '{module_name}' has no class or function '{attribute}'.")
    loaded: Callable[..., Any] = found
    return loaded


@functools.cache
def _entry_points() -> dict[str, dict[str, EntryPoint]]:
    """Group -> name -> entry point. Asked once a process: the answer takes a look at every installed distribution."""
    groups: dict[str, dict[str, EntryPoint]] = {}
    for point in (point for distribution in distributions() for point in distribution.entry_points):
        groups.setdefault(point.group, {}).setdefault(point.name, point)  # of two, the first on the path
    return groups


PARTITIONERS = Registry("partitioner", builtin="partitioners")
SAMPLERS = Registry("sampler", builtin="framework.sample")
HALOS = Registry("halo", builtin="framework.comm.halo")
CACHES = Registry("cache", builtin="framework.comm.cache")
LAYOUTS = Registry("layout", builtin="framework.comm.layout")
GRADIENTS = Registry("gradient", builtin="framework.comm.gradient")
MODELS = Registry("model", builtin="framework.models")
GRAPH_MODELS = Registry("graphmodel", builtin="framework.models")
IMAGE_MODELS = Registry("imagemodel", builtin="framework.models.cnn")
TRANSLATORS = Registry("translator", builtin="framework.models.translation")
ALIGNERS = Registry("aligner", builtin="framework.lexicon")
POOLINGS = Registry("pooling", builtin="framework.graph.coarsen")
DATASETS = Registry("dataset", builtin="framework.data")
GRAPH_SETS = Registry("graphset", builtin="framework.data")
IMAGE_SETS = Registry("imageset", builtin="framework.data")
PAIR_SETS = Registry("pairset", builtin="framework.data")
WORKLOADS = Registry("workload", builtin="framework.workloads")
OPTIMIZERS = Registry("optimizer", builtin="framework.engine.optimize")
SCHEDULES = Registry("schedule", builtin="framework.engine.optimize")
LAUNCHERS = Registry("launcher", builtin="launch")
RECIPES = Registry("recipe", builtin="launch.recipes")

REGISTRIES = {
    registry.kind: registry
    for registry in (
        PARTITIONERS,
        SAMPLERS,
        CACHES,
        HALOS,
        LAYOUTS,
        GRADIENTS,
        MODELS,
        GRAPH_MODELS,
        IMAGE_MODELS,
        TRANSLATORS,
        ALIGNERS,
        POOLINGS,
        DATASETS,
        GRAPH_SETS,
        IMAGE_SETS,
        PAIR_SETS,
        WORKLOADS,
        OPTIMIZERS,
        SCHEDULES,
        LAUNCHERS,
        RECIPES,
    )
}


def is_ours(module: str) -> bool:
    """Whether a module belongs to a package that holds built-ins."""
    return module.partition(".")[0] in {registry.package for registry in REGISTRIES.values()}


def is_known(module: str) -> bool:
    """Whether a module is imported already, or `is_announced`."""
    return module in sys.modules or is_announced(module)


def is_announced(module: str) -> bool:
    """Whether a module belongs to a package of ours or of an installed plug-in."""
    points = [point for registry in REGISTRIES.values() for point in registry.announced().values()]
    packages = {_module_of(point).partition(".")[0] for point in points}
    return is_ours(module) or module.partition(".")[0] in packages


def _module_of(point: EntryPoint) -> str:
    """The module that an entry point names; its own `module` fails on one that is badly written."""
    return point.value.partition(":")[0].strip()
