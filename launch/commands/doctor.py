"""`shardyard doctor`: what of this installation and machine works."""

import dataclasses
from typing import Annotated

import tyro

from framework.errors import InputError
from launch import tables, usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Say what of this installation and machine works; the exit code is 1 where something is broken."""

    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """A Ray cluster to ask, instead of trying to start one here."""
    skip_ray: bool = False
    """Leave Ray out, which takes some seconds to answer."""
    json: bool = False
    """Print a list of {name, state, text}."""


def command(arguments: list[str]) -> int:
    """Prints the findings."""
    flags = usage.parse(Flags, arguments, command="doctor", example="shardyard doctor --address 10.0.0.1:6379")
    if flags.skip_ray and flags.address is not None:
        raise InputError(f"--address is '{flags.address}', but --skip-ray leaves Ray out; leave one of them out.")
    from launch.doctor import examine  # imports torch: after the flags, so that help comes at once

    findings = examine(flags.address, ray=not flags.skip_ray)
    if flags.json:
        tables.show_json([dataclasses.asdict(finding) for finding in findings])
    else:
        tables.show(["", "", ""], [[finding.name, finding.state, finding.text] for finding in findings])
    return 1 if any(finding.state == "broken" for finding in findings) else 0
