"""Arguments of a command -> a frozen dataclass, by tyro; whatever is wrong with them is one line, an InputError.

A command's flags are the fields of a dataclass: the string under a field is its help. tyro reports a wrong value in a
box on stderr and exits; here the box is caught and its text becomes the message.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from framework.errors import InputError

T = TypeVar("T")

INLINE = tyro.conf.arg(name="")
"""Marks a field whose own fields are flags without its name in front."""

_HELP = "`shardyard {} --help`"
_BOX_EDGES = "╭╮╰╯│─| "
_PLAIN = {
    "invalid literal for int() with base 10:": "expected a whole number, not",
    "could not convert string to float:": "expected a number, not",
}
_MISSING = re.compile(r"^(--\S+)", re.MULTILINE)


def parse(flags: type[T], arguments: Sequence[str], *, command: str, example: str, about: str = "") -> T:
    """The flags that `arguments` give. Prints help and exits with 0 when they ask for it.

    Raises InputError for an unknown flag (with the nearest one) and for a value of the wrong type."""
    value, unknown = parse_known(flags, arguments, command=command, example=example, about=about)
    refuse_unknown(unknown, flag_names(flags), arguments, command=command)
    return value


def parse_known(
    flags: type[T], arguments: Sequence[str], *, command: str, example: str, about: str = ""
) -> tuple[T, list[str]]:
    """As `parse`, with the arguments that no flag took handed back."""
    description = f"{about or flags.__doc__}\n\nExample: {example}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                flags,
                args=list(arguments),
                prog=f"shardyard {command}",
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise InputError(f"{_message(printed.getvalue())} {_HELP.format(command)} lists the flags.") from None
    except tyro.constructors.UnsupportedTypeAnnotationError as error:
        raise InputError(f"a field has a type that cannot be a flag: {_one_line(str(error))}") from error


def refuse_unknown(unknown: Sequence[str], known: Sequence[str], arguments: Sequence[str], *, command: str) -> None:
    """Raises InputError for the first of the `arguments` that no flag took, with the nearest flag."""
    if not unknown:
        return
    given = unknown[0].partition("=")[0]
    if not given.startswith("-"):
        raise InputError(
            f"'{given}' was not expected.{_switched(given, arguments)} {_HELP.format(command)} says what is."
        )
    opposite = "--" + ".".join([*given[2:].split(".")[:-1], f"no-{given[2:].rpartition('.')[2]}"])
    if opposite in known:
        raise InputError(f"{given} is on already; {opposite} turns it off. {_HELP.format(command)} lists the flags.")
    owner = given.rpartition(".")[0]
    siblings = [flag for flag in known if owner and flag.startswith(f"{owner}.")]
    last = {flag.rpartition(".")[2] if siblings else flag: flag for flag in siblings or known}
    ends = [flag for flag in known if not owner and flag.rpartition(".")[2] == given.lstrip("-")]
    near = difflib.get_close_matches(given.rpartition(".")[2] if siblings else given, last, n=1, cutoff=0.65)
    others = f" There {'is' if len(siblings) == 1 else 'are'} {', '.join(siblings)}." if siblings else ""
    guess = f" Did you mean {' or '.join(ends[:3]) or last[near[0]]}?" if ends or near else others
    raise InputError(f"there is no flag {given}.{guess} {_HELP.format(command)} lists the flags.")


def _switched(value: str, arguments: Sequence[str]) -> str:
    """A hint where `value` was given to a flag that only switches."""
    if value.lower() not in ("true", "false", "yes", "no", "on", "off"):
        return ""
    flags = [f"{before}={after}" for before, after in itertools.pairwise(arguments)] + list(arguments)
    flag = next((flag.partition("=")[0] for flag in flags if flag.startswith("--") and flag.endswith(f"={value}")), "")
    return f" {flag} takes no value: give it alone, or leave it away." if flag else ""


def flag_names(flags: type, prefix: str = "") -> list[str]:
    """Every flag of a dataclass of flags, with those of the dataclasses in its fields: `--model.hidden`."""
    names = []
    for field in dataclasses.fields(flags):
        annotation, name = _unwrapped(field.type, field.name)
        path = f"{prefix}.{name}".strip(".").replace("_", "-")
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            names += flag_names(annotation, path)
        elif annotation is bool and default_of(field) is True:  # a switch is named by what it changes
            owner, dot, last = path.rpartition(".")
            names.append(f"--{owner}{dot}no-{last}")
        else:
            names.append(f"--{path}")
    return names


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """A field's default value, or `dataclasses.MISSING`."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _unwrapped(annotation: Any, name: str) -> tuple[Any, str]:
    """An annotation without `Annotated`, and the field's name, or the one it is given there."""
    if not hasattr(annotation, "__metadata__"):
        return annotation, name
    given = [mark.name for mark in annotation.__metadata__ if getattr(mark, "name", None) is not None]
    return annotation.__origin__, given[0] if given else name


def _message(box: str) -> str:
    """The text of an error box between its title and the next rule, as a sentence."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(_BOX_EDGES)
        if text.strip("-"):
            sections[-1].append(text)
        elif sections[-1]:
            sections.append([])
    title, *body = sections[0] or [""]
    body = body or sections[1 % len(sections)]  # a terminal without box characters has a rule under the title too
    if title.startswith("Required") and (missing := _MISSING.findall("\n".join(body))):
        return f"{', '.join(missing)}: no value was given, and there is no default."
    text = _one_line(" ".join(body)).rstrip(".").removeprefix("Error parsing ")
    for theirs, ours in _PLAIN.items():
        text = text.replace(theirs, ours)
    return text + "."


def _one_line(text: str) -> str:
    return " ".join(text.split())
