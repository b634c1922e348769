"""Command line -> run: every field of a run is a typed flag, and every plug-in in it can be chosen by name.

A run is a tree of frozen dataclasses. For the tree at hand a twin of plain flags is made, class by class, with the
run's own values as defaults; tyro fills the twin; the tree is then built anew from it. The workload's name is left out
of its fields' flags (`--batch-size`, not `--workload.batch-size`). A field that holds a plug-in has two kinds of flags:
`--partitioner NAME` chooses and `--partitioner.FIELD VALUE` sets. Choosing decides which fields there are, so names are
read first; a plug-in that is chosen again keeps the run's settings, another one begins with its own defaults. A field
that says which step of a pipeline it is made of (Made) has no flag: that is how the pipeline is put together.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args

import tyro

from framework.config import says_what_is_asked, says_where
from framework.engine.run import Run
from framework.errors import InputError
from framework.made import Made
from framework.registry import Registry
from launch import usage
from launch.plugins import chosen, field_docs, field_types, registry_of

P = TypeVar("P")
T = TypeVar("T")

INLINED = ("workload", "shared")
"""Fields whose own fields have flags without their name: a run's workload, and what all steps of a pipeline share."""
STEP = "step"
"""Under which a field's metadata names the step of a pipeline that the field is of."""
_CHOICE = "chosen_"  # in front of a plug-in field's name: the twin's field that holds the plug-in's name
_ABSENT = object()  # what a field holds that has no default and was not given yet


def parse_run(
    run: Run | None,
    arguments: Sequence[str],
    options: type[T],
    *,
    command: str,
    example: str,
    about: str,
    hidden: Sequence[str] = (),
    learned: str = "",
) -> tuple[Run, T]:
    """`run` with the settings that `arguments` give, and the command's own `options` (a dataclass of flags).

    `--address` stands for the Ray launcher with that address. `hidden`: fields of the run that get no flag. `learned`:
    the name of a run that is trained already, so that only fields declared by `placement` or `asked` get flags.
    Without a `run` there are the flags that every run has, for help. Raises InputError for whatever cannot be
    understood."""
    return parse_placed(
        Run, run, arguments, options, command=command, example=example, about=about, hidden=hidden, learned=learned
    )


def parse_placed(
    plugin: type[P],
    value: P | None,
    arguments: Sequence[str],
    options: type[T],
    *,
    command: str,
    example: str,
    about: str,
    hidden: Sequence[str] = (),
    learned: str = "",
) -> tuple[P, T]:
    """As `parse_plugin`, of a plug-in with a launcher: with `--address`, which stands for Ray with that address."""
    address = tyro.conf.arg(metavar="HOST:PORT", help="A running Ray cluster to use; chooses the launcher ray.")
    both: type[Any] = dataclasses.make_dataclass(
        "Options",
        [("own", Annotated[options, usage.INLINE]), ("address", Annotated[str | None, address], None)],
        kw_only=True,
    )
    arguments = _with_address(arguments)
    parsed, chosen_options = parse_plugin(
        plugin, value, arguments, both, command=command, example=example, about=about, hidden=hidden, learned=learned
    )
    return parsed, chosen_options.own


def parse_plugin(
    plugin: type[P],
    value: P | None,
    arguments: Sequence[str],
    options: type[T],
    *,
    command: str,
    example: str,
    about: str,
    hidden: Sequence[str] = (),
    learned: str = "",
) -> tuple[P, T]:
    """A `plugin` with the settings that `arguments` give, the others those of `value` or their defaults; and `options`.

    `hidden`: fields, by their path from the plug-in, that get no flag; `learned` as in `parse_run`. Raises InputError
    for whatever cannot be understood."""
    twin = _Twin(arguments=arguments, hidden=frozenset(hidden))
    flags: type[Any] = dataclasses.make_dataclass(
        "Flags",
        [
            ("options", Annotated[options, usage.INLINE]),
            ("settings", Annotated[twin.of(plugin, value, "", free=not learned), usage.INLINE]),
        ],
        kw_only=True,
    )
    known = usage.flag_names(flags)
    twice = sorted({flag for flag in known if known.count(flag) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)}: a run has a field of this name too; rename the workload's.")
    filled, unknown = usage.parse_known(flags, arguments, command=command, example=example, about=about)
    _refuse_unchosen(unknown, twin.unchosen)
    _refuse_settled(unknown, twin.settled, learned, command)
    usage.refuse_unknown(unknown, known, arguments, command=command)
    return twin.build(plugin, filled.settings, value), filled.options


@dataclasses.dataclass(kw_only=True)
class _Twin:
    """Makes the twin of a tree of plug-ins, and the tree of a filled twin."""

    arguments: Sequence[str]
    """The command line, where chosen names are looked up."""
    hidden: frozenset[str]
    """Fields, by their path from the root, that get no flag."""
    settled: list[str] = dataclasses.field(default_factory=list)
    """Flags that fields would have if what was learned did not depend on them."""
    unchosen: dict[str, Registry] = dataclasses.field(default_factory=dict)
    """Flags of plug-in fields that hold nothing, so that their settings have no flags."""
    plugins: dict[str, type] = dataclasses.field(default_factory=dict)
    """Path of a field -> the class of the plug-in it holds."""
    emptied: set[str] = dataclasses.field(default_factory=set)
    """Paths of plug-in fields that are to hold none, by the word `None`."""

    def of(self, plugin: type, value: Any, path: str, *, free: bool) -> type:
        """A dataclass of flags for `plugin`'s fields; defaults are those of `value`, where there is one.

        `free`: whether all of them may be set, or only those declared by `placement` or `asked`."""
        docs, members = field_docs(plugin), []
        fields = {field.name: field for field in dataclasses.fields(plugin)}
        for name, annotation in field_types(plugin).items():
            inner = _join(path, name)
            current = self._current(fields[name], value)
            if inner in self.hidden or isinstance(current, Made):
                continue
            registry = registry_of(annotation)
            if not free and not (says_where(fields[name]) or says_what_is_asked(fields[name])):
                self.settled.append(_flag(inner))
                if dataclasses.is_dataclass(current) and not isinstance(current, type):
                    members += self._nested(type(current), current, name, inner, free=False)
            elif registry is not None:
                may_be_none = type(None) in get_args(annotation)
                members += self._plugin_members(
                    registry, name, current, inner, docs.get(name, ""), may_be_none=may_be_none
                )
            elif dataclasses.is_dataclass(current) and not isinstance(current, type):
                members += self._nested(type(current), current, name, inner)
            else:
                mark = tyro.conf.arg(help=docs.get(name, ""))
                members.append((name, Annotated[annotation, mark], _field(current)))
        return dataclasses.make_dataclass(
            plugin.__name__, members, kw_only=True, namespace={"__doc__": (plugin.__doc__ or "").partition("\n")[0]}
        )

    def build(self, plugin: type[P], twin: Any, value: P | None, path: str = "") -> P:
        """The plug-in that a filled twin describes; what the twin has no field for is kept from `value`."""
        settings: dict[str, Any] = {}
        steps = {field.name: field.metadata.get(STEP) for field in dataclasses.fields(plugin)}  # type: ignore[arg-type]
        for name in field_types(plugin):
            inner = _join(path, name)
            if inner in self.emptied:
                settings[name] = None
            elif not hasattr(twin, name):
                if value is not None:
                    settings[name] = getattr(value, name)
            elif inner in self.plugins:
                held = getattr(value, name, None)
                kept = held if type(held) is self.plugins[inner] else None
                with _naming(steps[name]):
                    settings[name] = self.build(self.plugins[inner], getattr(twin, name), kept, inner)
            else:
                settings[name] = getattr(twin, name)
        try:
            return plugin(**settings)
        except (TypeError, ValueError) as error:
            raise InputError(f"{plugin.__name__} cannot be made of {settings}: {error}") from error

    def _plugin_members(
        self, registry: Registry, name: str, current: Any, path: str, doc: str, *, may_be_none: bool
    ) -> list[Any]:
        """The field that chooses a plug-in, and the one that holds its settings."""
        flag = _flag(path)
        given = _last_value(self.arguments, flag)
        held = None if current is None or current is _ABSENT else type(current)
        if given == "None" and may_be_none:
            self.emptied.add(path)
            held = plugin = None
        else:
            plugin = held if given is None else chosen(registry, given)
        known = ", ".join(registry.names())
        if plugin is None and current is _ABSENT:
            raise InputError(f"{flag} is missing; expected a {registry.kind}: {known}, or module:Class.")
        mark = tyro.conf.arg(name=name, metavar="NAME", help=f"{doc} One of: {known}; or module:Class.".strip())
        default = registry.name_of(held) if held else None
        choice = (_CHOICE + name, Annotated[str | None, mark], _field(default))
        if plugin is None:
            self.unchosen[flag] = registry
            return [choice]
        return [choice, *self._nested(plugin, current if plugin is held else None, name, path)]

    def _nested(self, plugin: type, value: Any, name: str, path: str, *, free: bool = True) -> list[Any]:
        """The field that holds a plug-in's settings; none where nothing of it may be set."""
        twin = self.of(plugin, value, path, free=free)
        if not free and not dataclasses.fields(twin):
            return []
        self.plugins[path] = plugin
        mark = tyro.conf.arg(name="" if name in INLINED else name)
        return [(name, Annotated[twin, mark])]

    @staticmethod
    def _current(field: "dataclasses.Field[Any]", value: Any) -> Any:
        """What a field holds now: the value's, else its default, else `_ABSENT`."""
        if value is not None:
            return getattr(value, field.name)
        default = usage.default_of(field)
        return _ABSENT if default is dataclasses.MISSING else default


@contextlib.contextmanager
def _naming(step: str | None) -> Iterator[None]:
    """Puts the name of a step in front of what is wrong with its settings, whose flags begin with it."""
    try:
        yield
    except InputError as error:
        if step is None:
            raise
        raise InputError(f"step '{step}': {error}") from error


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _flag(path: str) -> str:
    """`workload.batch_size` -> `--batch-size`."""
    *owners, last = path.split(".")
    return "--" + ".".join([*(name for name in owners if name not in INLINED), last]).replace("_", "-")


def _field(current: Any) -> Any:
    """A dataclass field with that default; one without, where there is none yet."""
    if current is _ABSENT:
        return dataclasses.field()
    return dataclasses.field(default_factory=lambda: current)


def _last_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of the last `flag VALUE` or `flag=VALUE`. Raises InputError for a flag without a value."""
    found = None
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if equals:
            found = value
        elif position + 1 < len(arguments) and not arguments[position + 1].startswith("--"):
            found = arguments[position + 1]
        else:
            raise InputError(f"{flag} needs a value.")
    return found


def _with_address(arguments: Sequence[str]) -> list[str]:
    """`--address HOST:PORT` means the Ray launcher at that address."""
    address = _last_value(arguments, "--address")
    if address is None:
        return list(arguments)
    other, launcher = _last_value(arguments, "--launcher.address"), _last_value(arguments, "--launcher")
    if other not in (None, address):
        raise InputError(f"--address is '{address}', but --launcher.address is '{other}'; leave one of them out.")
    if launcher not in (None, "ray"):
        raise InputError(f"--address is of the launcher 'ray', but --launcher is '{launcher}'; leave one of them out.")
    return [*arguments, "--launcher", "ray", "--launcher.address", address]


def _refuse_unchosen(unknown: Sequence[str], unchosen: dict[str, Registry]) -> None:
    """Raises InputError for a setting of a plug-in that nobody chose."""
    for argument in unknown:
        owner = argument.partition("=")[0].rpartition(".")[0]
        if owner in unchosen:
            kind, names = unchosen[owner].kind, ", ".join(unchosen[owner].names())
            raise InputError(f"{argument} sets a {kind} that was not chosen; add {owner} NAME: {names}.")


def _refuse_settled(unknown: Sequence[str], settled: Sequence[str], learned: str, command: str) -> None:
    """Raises InputError that names every flag given which says what was learned already."""
    given = [argument.partition("=")[0].replace("_", "-") for argument in unknown]
    changing = [flag for flag in given if any(flag == known or flag.startswith(f"{known}.") for known in settled)]
    if changing:
        raise InputError(
            f"{', '.join(dict.fromkeys(changing))} would change what '{learned}' learned; expected only flags that say "
            f"where it runs or what its weights are asked. `shardyard {command} --help` lists them."
        )
