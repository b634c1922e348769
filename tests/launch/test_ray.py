"""The Ray launcher: the same runs, placed and restarted by Ray Train; one error, soon, and nothing printed."""

import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launch_mains
import pytest
from line_workload import Line
from spagan_runs import spagan_run

from framework.engine.run import Event, Main, Run
from framework.engine.train import train
from framework.errors import InputError, LostWorkerError, ShardyardError, StoreError
from framework.workloads.paths import PathSearch
from launch.local import Local
from launch.ray import Ray
from launch.start import start


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray of this machine for all tests."""
    import ray

    Ray()._connect()
    yield
    ray.shutdown()


def run_of(folder: Path, workers: int, launcher: Ray | Local) -> Run:
    return Run(
        workload=Line(),
        epochs=3,
        workers=workers,
        dtype="float64",
        out=str(folder / "run"),
        store=str(folder / "stores"),
        launcher=launcher,
    )


def started(folder: Path, workers: int, main: Main, events: list[Event], *, max_failures: int = 3) -> dict[str, Any]:
    return start(run_of(folder, workers, Ray(max_failures=max_failures)), events.append, main)


@pytest.mark.parametrize(
    ("field", "value"), [("max_failures", -1), ("cpus_per_worker", -1.0), ("deadline", 0.0), ("deadline", float("nan"))]
)
def test_a_setting_that_ray_has_no_meaning_for_is_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"--launcher\.{field.replace('_', '-')} is {value}; expected"):
        Ray(**{field: value})  # type: ignore[arg-type]


def test_workers_meet_and_the_first_one_is_heard(
    ray_here: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    answer = started(tmp_path, 2, launch_mains.meet, events)
    assert len({*answer["pids"], os.getpid()}) == 3
    assert answer["total"] == 3
    assert answer["rank"] == 0
    assert answer["out"] == str(tmp_path / "run")
    assert answer["dtype"] == "float64"
    assert events == [{"event": "started"}, {"event": "epoch", "epoch": 1}]
    assert 0 < answer["seconds"]["start"] < answer["seconds"]["total"]
    assert [file.name for file in (tmp_path / "run").iterdir()] == []
    assert capfd.readouterr() == ("", "")


def test_paths_are_searched_by_tasks_beside_the_workers(ray_here: None, tmp_path: Path) -> None:
    fields = {"epochs": 12, "workers": 2, "paths": PathSearch(edges_for_tasks=0)}
    events: list[Event] = []
    tasks = start(spagan_run(tmp_path / "ray", launcher=Ray(), **fields), events.append)
    assert any(event["event"] == "prepare" and event["what"] == "searching paths" for event in events)
    alone = start(spagan_run(tmp_path / "local", **{**fields, "workers": 1}), lambda event: None)
    assert len(tasks["stages"]) == len(alone["stages"]) == 1
    assert tasks["loss"] == pytest.approx(alone["loss"], rel=1e-9)


def test_an_error_of_the_user_is_told_once_and_not_tried_again(ray_here: None, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(StoreError, match="^the store is torn$"):
        started(tmp_path, 2, launch_mains.refused, [])
    assert time.monotonic() - begin < 60
    log = (tmp_path / "run" / "worker-1.log").read_text()
    assert log.count("StoreError: the store is torn") == 1


@pytest.mark.slow
def test_a_defect_is_told_once_with_its_place(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(ShardyardError, match=r"worker 1 failed: ValueError: of this and that \(launch_mains.py:"):
        started(tmp_path, 2, launch_mains.broken, [])


@pytest.mark.slow
def test_a_network_that_leaves_is_no_lost_worker(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(ShardyardError, match=r"worker 1 failed: SystemExit: enough \(launch_mains.py:"):
        started(tmp_path, 2, launch_mains.leaving, [])
    log = (tmp_path / "run" / "worker-1.log").read_text()
    assert log.count("SystemExit: enough") == 1, "it is not tried again"


@pytest.mark.slow
def test_a_killed_worker_is_replaced(ray_here: None, tmp_path: Path) -> None:
    events: list[Event] = []
    answer = started(tmp_path, 2, launch_mains.killed_once, events)
    assert answer["first"] is False
    assert [event["event"] for event in events] == ["started", "started"]


@pytest.mark.slow
def test_a_worker_that_cannot_be_replaced_is_named(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(LostWorkerError, match="worker 1 was lost: .*gave up after 0 restarts") as caught:
        started(tmp_path, 2, launch_mains.killed, [], max_failures=0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_result_is_that_of_local_processes(ray_here: None, tmp_path: Path) -> None:
    under_ray = started(tmp_path / "ray", 2, train, [])
    local = start(run_of(tmp_path / "local", 2, Local()), lambda event: None)
    assert under_ray["weights_digest"] == local["weights_digest"]
    assert under_ray["loss"] == local["loss"]
    assert under_ray["run_digest"] == local["run_digest"]
    assert under_ray["bytes"] == local["bytes"]


def doubled(item: int) -> int:
    time.sleep(0.01 * (item % 3))
    return 2 * item


def picky(item: int) -> int:
    if item == 3:
        raise StoreError("item 3 is torn")
    if item == 7:
        raise ValueError("a defect")
    return item


def test_items_are_mapped_in_order_and_errors_are_themselves(ray_here: None) -> None:
    mapper = Ray().mapper()
    assert list(mapper(doubled, list(range(12)))) == [2 * item for item in range(12)]
    assert list(mapper(doubled, [])) == []
    with pytest.raises(StoreError, match="^item 3 is torn$"):
        list(mapper(picky, [1, 2, 3, 4]))
    with pytest.raises(ShardyardError, match="^working on a piece failed: ValueError: a defect$"):
        list(mapper(picky, [7]))


@dataclasses.dataclass(frozen=True)
class Slow:
    """Opens in a second, and dies of the item 5 where nobody has before."""

    folder: Path

    @functools.cached_property
    def opened(self) -> int:
        (self.folder / f"opened-{os.getpid()}").touch(exist_ok=False)
        return os.getpid()

    def __call__(self, item: int) -> tuple[int, int]:
        opened = self.opened
        if item == 5 and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(opened, signal.SIGKILL)
        return 2 * item, opened


def test_an_object_is_kept_by_actors_and_an_item_outlives_them(ray_here: None, tmp_path: Path) -> None:
    answers = list(Ray().mapper()(Slow(tmp_path), list(range(12))))
    assert [answer for answer, _ in answers] == [2 * item for item in range(12)]
    opened = {int(file.name.partition("-")[2]) for file in tmp_path.glob("opened-*")}
    assert {process for _, process in answers} <= opened
    assert len(opened) <= os.cpu_count() + 1, "one process a processor, and one in place of the lost one"
    assert os.getpid() not in opened


def minus(number: int) -> int:
    return -number


MAPS = {
    "tasks": "by_tasks",
    "a stream": "by_stream",
    "actors": "by_actors",
}


def mapped(way: str, cpus: int, held: int, patience: float) -> str:
    """What a process's map says under a Ray of so many processors, of which another job holds some."""
    script = (
        "import sys, ray; from test_ray import minus; from launch import ray_mapper, stream\n"
        "way, cpus, held, ray_mapper.PATIENCE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])\n"
        "ray.init(address='local', num_cpus=cpus, include_dashboard=False, log_to_driver=False, "
        "object_store_memory=10**8, logging_level='ERROR')\n"
        "class Other:\n    def there(self): return True\n"
        "others = [ray.remote(Other).options(num_cpus=1).remote() for _ in range(held)]\n"
        "ray.get([other.there.remote() for other in others])\n"
        "map = getattr(stream if way == 'by_stream' else ray_mapper, way)\n"
        "try: print(list(map(minus, [1, 2, 3])))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "ray.shutdown()\n"
    )
    arguments = [sys.executable, "-c", script, MAPS[way], str(cpus), str(held), str(patience)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("way", MAPS)
def test_a_host_without_processors_for_ray_maps_all_the_same(way: str) -> None:
    assert mapped(way, cpus=0, held=0, patience=100.0) == "[-1, -2, -3]"


@pytest.mark.slow
@pytest.mark.parametrize("way", MAPS)
def test_processors_that_others_keep_are_not_waited_for_in_silence(way: str) -> None:
    said = mapped(way, cpus=1, held=1, patience=3.0)
    assert said.startswith("ShardyardError Ray found no processor in 3 s: others have all of"), said


def connect(address: str) -> tuple[str, float]:
    """What a process that has no Ray yet says of `address`, and after how many seconds."""
    script = (
        "import sys, time; from launch.ray import Ray; begin = time.monotonic()\n"
        "try: Ray(address=sys.argv[1], deadline=3.0)._connect()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(time.monotonic() - begin, flush=True); import os; os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, address], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    message, seconds = done.stdout.strip().splitlines()
    return message, float(seconds)


def test_an_address_where_nothing_listens_is_named_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message, seconds = connect(f"127.0.0.1:{port}")
    assert message.startswith(f"InputError --address is 127.0.0.1:{port}, but nothing answers there")
    assert seconds < 15


def test_an_address_where_no_ray_answers_is_named_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        message, seconds = connect(f"127.0.0.1:{port}")
    assert message.startswith(f"InputError --address is 127.0.0.1:{port}")
    assert seconds < 15


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("host", "expected HOST:PORT"),
        ("ray://host:10001", "expected HOST:PORT"),
        ("host:port", "expected HOST:PORT"),
        ("no-such-host.invalid:1", "no host is called 'no-such-host.invalid'"),
    ],
)
def test_a_wrong_address_is_named(ray_here: None, address: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Ray(address=address)._connect()


def test_another_cluster_is_not_taken_for_the_one_asked_for(ray_here: None) -> None:
    import ray

    connected = ray.get_runtime_context().gcs_address
    Ray(address=connected)._connect()
    with pytest.raises(InputError, match=f"connected to the Ray at {connected}"):
        Ray(address="127.0.0.1:1")._connect()
