"""Several hosts for real: network namespaces of this machine, each with its own address, /dev/shm and host name.

The script that builds them is no part of this repository: it is looked for in the folder that SHARDYARD_NETNS names, or
in `shared/netns` beside the repository; without it, root or iproute2, these tests are skipped.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_runs import small_run

from launch.start import start

ROOT = Path(__file__).parents[2]
SCRIPT = Path(os.environ.get("SHARDYARD_NETNS", ROOT.parent / "shared" / "netns")) / "netns_cluster.sh"
NETWORK, PORT = "10.78.3", 6391
HEAD = f"{NETWORK}.1:{PORT}"

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
from pathlib import Path
import launch_mains, node_runs
from framework.engine.run import Run
from framework.engine.train import train
from launch.ray import Ray
from launch.start import start
from line_workload import Line

what, address, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
ray = Ray(address=address)
if what == "staged":
    run = Run(workload=Line(), workers=workers, out="/dev/shm/run", store="/dev/shm/store", launcher=ray, deadline=60.0)
    main = launch_mains.staged
else:
    out, epochs = Path("/dev/shm") / what / "run", int(what.removeprefix("train"))
    run = node_runs.small_run(out, workers=workers, epochs=epochs, launcher=ray, deadline=60.0)
    main = train
events = []
answer = start(run, lambda event: events.append(event["event"]), main)
print("ANSWER", json.dumps({**answer, "attempts": events.count("started")}))
"""


class Hosts:
    """Three hosts and the Ray cluster that spans them."""

    def __init__(self) -> None:
        self.environment = {
            **os.environ,
            "RT_PREFIX": "shardyard",
            "RT_NET": NETWORK,
            "RT_PORT": str(PORT),
            "RT_NO_HOSTS": "1",  # a host's name leads nowhere, as on many a real network
            "GLOO_SOCKET_IFNAME": "",  # the group finds its interface by itself
            "RAYBIN": str(Path(sys.executable).parent / "ray"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "OMP_NUM_THREADS": "1",
        }

    def do(self, *words: str, timeout: float = 120.0) -> str:
        """Runs the script; its output. Raises AssertionError with all it said where it failed."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *words], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{words[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def lose(self, number: int, once: Path) -> threading.Thread:
        """Crashes a host as soon as host 0 has a file `once`; returns the thread that does so."""

        def crash() -> None:
            self.do("exec", "0", "sh", "-c", f"until test -e {once}; do sleep 0.1; done")
            self.do("kill", str(number))

        thread = threading.Thread(target=crash)
        thread.start()
        return thread

    def inside(self, number: int, script: str, *arguments: str) -> Any:
        """What a Python script on a host prints as its answer."""
        output = self.do("exec", str(number), sys.executable, "-c", script, *arguments, timeout=300.0)
        answers = [line for line in output.splitlines() if line.startswith("ANSWER ")]
        assert len(answers) == 1, output
        return json.loads(answers[0].removeprefix("ANSWER "))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if not SCRIPT.exists():
        pytest.skip(f"there is no {SCRIPT}; SHARDYARD_NETNS may name its folder")
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "unshare", "nsenter"))):
        pytest.skip("network namespaces need root, iproute2 and util-linux")
    built = Hosts()
    built.do("down")
    try:
        built.do("up", "3", "1gbit")
        built.do("ray", "2")
        yield built
    finally:
        built.do("down")


MAKE = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])
import test_stage
test_stage.make(Path("/dev/shm/store"))
print("ANSWER 1")
"""


def test_a_group_spans_the_hosts_and_they_receive_the_data(hosts: Hosts) -> None:
    hosts.inside(0, MAKE, str(ROOT / "tests" / "comm"))
    answer = hosts.inside(0, DRIVER, "staged", HEAD, "3")
    assert len(set(answer["hosts"])) == 3
    assert answer["hosts"][0].startswith("shardyard-n0/"), "the first worker is where the command was given"
    assert answer["before"] == [True, False, False]
    assert answer["held"][0] == answer["held"][1] == answer["held"][2]
    size = sum(length for name, length in answer["held"][0] if name != "manifest.json")
    assert 2 * size < answer["sent"][0]["stage"] < 2 * size + 5000
    again = hosts.inside(0, DRIVER, "staged", HEAD, "3")
    assert again["before"] == [True, True, True]
    assert again["sent"][0]["stage"] < 1000


def test_a_run_has_the_losses_it_has_on_one_host(hosts: Hosts, tmp_path: Path) -> None:
    spread = hosts.inside(0, DRIVER, "train3", HEAD, "3")
    here = start(small_run(tmp_path / "run", workers=1, epochs=3), lambda event: None)
    assert spread["workers"] == 3
    assert spread["loss"] == pytest.approx(here["loss"], rel=1e-9)
    assert spread["run_digest"] == here["run_digest"]
    assert spread["metrics"] == pytest.approx(here["metrics"])
    assert spread["bytes"]["features"] > 0
    assert spread["bytes"]["stage"] > 0


def test_too_many_workers_for_the_cluster_are_refused(hosts: Hosts) -> None:
    with pytest.raises(AssertionError, match="the cluster at .* has 6 CPUs. Use fewer workers"):
        hosts.inside(0, DRIVER, "train3", HEAD, "7")


def test_a_run_goes_on_when_a_host_is_lost(hosts: Hosts, tmp_path: Path) -> None:
    crashing = hosts.lose(2, Path("/dev/shm/train40/run/checkpoints/000002-00000000"))
    survived = hosts.inside(0, DRIVER, "train40", HEAD, "3")
    crashing.join()
    here = start(small_run(tmp_path / "run", workers=1, epochs=40), lambda event: None)
    assert survived["loss"] == pytest.approx(here["loss"], rel=1e-9)
    assert survived["attempts"] == 2
