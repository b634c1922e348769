"""What of an installation and its machine works: a list of findings, each good, a warning, or broken.

Assumptions: nothing here may hang, so whatever could (Ray) is asked in a process of its own that is ended at a
deadline; nothing is changed, and nothing is left running.
"""

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

import torch

from framework.comm.host import interface_towards
from framework.engine.versions import versions
from framework.errors import InputError
from framework.kernels import native
from framework.registry import REGISTRIES

State = Literal["good", "warning", "broken"]

DEADLINE = 10.0
"""Seconds that Ray has to answer."""
DISTRIBUTION = "shardyard"
PACKAGES = ("framework", "launch", "partitioners")
_NEEDED = ("torch", "ray", "pyarrow", "numpy", "shardyard")
_SPACE = 2e9  # bytes: less free disk than this is worth a warning

_RAY_PROBE = """
import json, sys, ray
address = sys.argv[1] or None
settings = {} if address else {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
ray.init(address=address or "local", log_to_driver=False, logging_level="error", **settings)
alive = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps({"hosts": len(alive), "cpus": ray.cluster_resources().get("CPU", 0)}))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What it is."""
    state: State
    """Whether it works; a warning is something that only some uses need."""
    text: str
    """What was found, and what would help."""


def examine(address: str | None = None, *, ray: bool = True) -> list[Finding]:
    """Looks at everything; takes at most about `DEADLINE` seconds. `address`: a Ray cluster to ask for, `HOST:PORT`.

    `ray=False` leaves Ray out."""
    looks: list[Callable[[], list[Finding]]] = [libraries, devices, kernels, disk, our_packages, plugins, network]
    if ray:
        looks.append(lambda: [ray_cluster(address) if address else ray_here()])
    return [finding for look in looks for finding in look()]


def libraries() -> list[Finding]:
    """The versions a result depends on."""
    found = versions()
    listed = [Finding(name=name, state="good", text=version) for name, version in found.items()]
    absent = [name for name in _NEEDED if name not in found]
    return listed + [
        Finding(name=name, state="broken", text=f"is not installed; `pip install {name}`.") for name in absent
    ]


def devices() -> list[Finding]:
    """Processors and GPUs that workers may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    threads = f"{torch.get_num_threads()} threads" + (f" (OMP_NUM_THREADS={limit})" if limit else "")
    text = f"{cores} of {os.cpu_count()} cores for this process, {platform.machine()}; {threads}"
    findings = [Finding(name="cpu", state="good", text=text)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return [*findings, Finding(name="cuda", state="good", text=", ".join(names))]
    return [*findings, Finding(name="cuda", state="good", text="none; workers compute on the CPU")]


def kernels() -> list[Finding]:
    """Whether the C++ kernels were compiled, and what could compile them."""
    candidates = (os.environ.get("CXX", ""), "g++", "clang++")
    compiler = next((path for path in map(shutil.which, filter(None, candidates)) if path), None)
    found = Finding(
        name="compiler", state="good" if compiler else "warning", text=compiler or "none: looked for $CXX, g++, clang++"
    )
    if native.available():
        return [Finding(name="kernels", state="good", text="compiled C++"), found]
    if os.environ.get("SHARDYARD_KERNELS") == "torch":
        return [Finding(name="kernels", state="warning", text="torch twins, as SHARDYARD_KERNELS asks"), found]
    remedy = "install shardyard again" if compiler else "install a C++ compiler, then shardyard again"
    text = f"not compiled, slower torch twins are used; {remedy}."
    return [Finding(name="kernels", state="warning", text=text), found]


def disk() -> list[Finding]:
    """Room for stores and runs in the current directory."""
    free = shutil.disk_usage(".").free
    state: State = "good" if free > _SPACE else "warning"
    return [Finding(name="disk", state=state, text=f"{free / 1e9:.1f} GB free in {Path.cwd()}")]


def our_packages() -> list[Finding]:
    """Whether the import packages, whose names are common words, are those of this distribution."""
    try:
        ours = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        text = f"the distribution {DISTRIBUTION} is not installed; `pip install .` in its folder."
        return [Finding(name="packages", state="broken", text=text)]
    root = _source_of(ours)
    owners = packages_distributions()
    return [_owned(name, root, [owner for owner in owners.get(name, []) if owner != DISTRIBUTION]) for name in PACKAGES]


def plugins() -> list[Finding]:
    """Plug-ins, of installed packages and our own, that cannot be imported."""
    findings = []
    for kind, registry in REGISTRIES.items():
        try:
            names = registry.names()
        except ImportError as error:
            findings.append(Finding(name=f"{kind}s", state="broken", text=f"cannot be imported: {error}"))
            continue
        for name in names:
            try:
                registry.get(name)
            except InputError as error:
                findings.append(Finding(name=f"{kind} {name}", state="broken", text=str(error)))
    return findings or [Finding(name="plug-ins", state="good", text="all can be imported")]


def network() -> list[Finding]:
    """The interface that gloo would use towards other hosts."""
    chosen = os.environ.get("GLOO_SOCKET_IFNAME")
    present = [name for _, name in socket.if_nameindex()]
    if chosen:
        if chosen in present:
            return [Finding(name="network", state="good", text=f"{chosen}, as GLOO_SOCKET_IFNAME says")]
        text = f"GLOO_SOCKET_IFNAME is {chosen}; expected one of {', '.join(present)}."
        return [Finding(name="network", state="broken", text=text)]
    outward = interface_towards("192.0.2.1")  # an address of nobody (RFC 5737): it follows the default route
    if outward is None:
        return [Finding(name="network", state="warning", text="no route to other hosts; runs on this one still work")]
    return [Finding(name="network", state="good", text=f"{outward} towards other hosts; launchers choose it")]


def ray_here(deadline: float = DEADLINE) -> Finding:
    """Whether Ray starts on this machine. Another address may be given by RAY_ADDRESS, as to Ray itself."""
    if os.environ.get("RAY_ADDRESS"):
        try:
            return ray_cluster(os.environ["RAY_ADDRESS"], deadline)
        except InputError:
            text = (
                f"RAY_ADDRESS is '{os.environ['RAY_ADDRESS']}'; expected HOST:PORT. Without it a start here is tried."
            )
            return Finding(name="ray", state="warning", text=text)
    began = time.monotonic()
    state, text = _ask_ray("", deadline)
    if state == "good":
        return Finding(name="ray", state="good", text=f"starts here in {time.monotonic() - began:.1f} s")
    return Finding(name="ray", state="warning" if state == "silent" else "broken", text=f"a start here {text}")


def ray_cluster(address: str, deadline: float = DEADLINE) -> Finding:
    """Whether a Ray cluster answers at `HOST:PORT`. Raises InputError for an address of another form."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InputError(f"--address is '{address}'; expected HOST:PORT, as `ray start --head` prints it.")
    until = time.monotonic() + deadline
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=deadline / 3).close()
    except (OSError, OverflowError) as error:
        return Finding(name="ray", state="broken", text=f"nobody listens at {address} ({error}); is the head running?")
    state, text = _ask_ray(address, until - time.monotonic())
    return Finding(name="ray", state="good" if state == "good" else "broken", text=f"{address} {text}")


def _ask_ray(address: str, deadline: float) -> tuple[Literal["good", "silent", "failed"], str]:
    """Asks Ray in another process, which is ended with all it started when the deadline passes."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", _RAY_PROBE, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, complaint = process.communicate(timeout=max(deadline, 0.1))
        except subprocess.TimeoutExpired:
            return "silent", f"did not answer within {deadline:.0f} s; a busy machine may need longer"
        finally:  # also where a signal has ended this command: nothing is left running, or waited for
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        facts = json.loads(output.strip().splitlines()[-1])
        return "good", f"answers: {facts['hosts']} hosts, {facts['cpus']:.0f} cores"
    lines = complaint.strip().splitlines()
    return "failed", f"failed: {lines[-1] if lines else f'exit code {process.returncode}'}"


def _owned(name: str, root: Path, others: list[str]) -> Finding:
    """Whether the package `name` that an import finds lies in `root`, and nobody else installed one."""
    spec = importlib.util.find_spec(name)
    places = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
    if not places:
        return Finding(name=name, state="broken", text=f"cannot be imported; install {DISTRIBUTION} again.")
    if places[0].parent != root:
        text = f"{places[0]} is not ours, which is {root / name}; rename it, or leave its folder off the path."
        return Finding(name=name, state="broken", text=text)
    if others:
        text = f"ours, but {', '.join(others)} installs a package of the same name; uninstall one of them."
        return Finding(name=name, state="broken", text=text)
    return Finding(name=name, state="good", text=f"ours, {places[0]}")


def _source_of(ours: Distribution) -> Path:
    """The folder that holds the distribution's packages; for an editable installation, that of its source."""
    direct = ours.read_text("direct_url.json")
    if direct:
        facts = json.loads(direct)
        if facts.get("dir_info", {}).get("editable"):
            return Path(unquote(urlparse(facts["url"]).path)).resolve()
    return Path(str(ours.locate_file(""))).resolve()
