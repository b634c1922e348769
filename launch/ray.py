"""The launcher `ray`: Ray Train places the workers, watches them and starts them again; tensors travel by our group.

Assumptions: `framework` and `launch` can be imported on every host. Prepared data and the run's folder lie on the
host of the command, so the first worker is placed there whenever that host has processors to give; the others receive
the data over the group. A run that is interrupted goes on from its own checkpoints: Ray only starts its workers again.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from framework.data.dataset import is_of_raw_files
from framework.engine.run import Event, Main, Mapper, Prepared, Run, is_kept
from framework.errors import InputError, LostWorkerError
from framework.registry import LAUNCHERS
from launch.failure import describe, log_file, write_traceback
from launch.mailbox import Listener, Mailbox, Teller
from launch.ray_mapper import by_actors, by_tasks, first_line, processors, this_host
from launch.stream import by_stream
from launch.worker import Job, threads_for

GRACE = 5.0
"""Seconds in which a worker that lost the group learns whether another one's error was the cause."""
_NAME = ".ray"  # a folder that Ray Train makes in the run's, of no use to us
_OBJECT_STORE = 100_000_000  # bytes, of a Ray of this machine: what tasks share; more than that goes to its disk
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean in the command's folder
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what the cluster has to tell us, it would print into our output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray would warn of otherwise
}


@LAUNCHERS.register("ray")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ray:
    """Run the workers under Ray Train, on this machine or on a cluster."""

    address: str | None = None
    """HOST:PORT of a running cluster's head. None: a Ray of this machine, started for the run."""
    max_failures: int = 3
    """How often lost workers are replaced before the run is given up."""
    cpus_per_worker: float = 1.0
    """Processors that Ray reserves for each worker; on a Ray of this machine, less where there are not as many."""
    deadline: float = 15.0
    """Seconds that the cluster has to answer."""

    def __post_init__(self) -> None:
        """Refuses settings that Ray has no meaning for, or another: to it, -1 failures are any number."""
        if self.max_failures < 0:
            raise InputError(f"--launcher.max-failures is {self.max_failures}; expected a number of restarts, or 0.")
        if not 0 <= self.cpus_per_worker < float("inf"):
            raise InputError(f"--launcher.cpus-per-worker is {self.cpus_per_worker}; expected a number, or 0 for none.")
        if not 0 < self.deadline < float("inf"):
            raise InputError(f"--launcher.deadline is {self.deadline}; expected seconds, more than 0.")

    def launch(self, main: Main, run: Run, prepared: Prepared, watch: Callable[[Event], None]) -> dict[str, Any]:
        """What `main` returns on the first worker. Raises one ShardyardError, once no worker is left running."""
        self._connect()
        import ray  # after _connect, which silences it first

        cpus = self._cpus_of_each(run.workers)
        job = Job.of(main, run, prepared, max(1, int(cpus)) if self.address else threads_for(run.workers))
        here = this_host()
        mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, label_selector=here).remote()
        fitting = _in_thread(lambda: _fit(self, job, run, cpus, mailbox))
        try:
            return Listener(mailbox, watch).until(fitting)
        except ray.exceptions.RayError as error:
            raise LostWorkerError(
                f"the connection to Ray was lost ({first_line(error)}). Start the run again with the same --out to "
                "resume it."
            ) from error
        finally:
            if fitting.done():
                ray.kill(mailbox)
            else:  # an interrupt, or workers that do not end: with the connection, all of them do
                ray.shutdown()

    def mapper(self) -> Mapper:
        """Tasks on this host, where the raw files are; as many at a time as it has processors.

        What a functools.partial binds to the function crosses once for all of them; tasks map its arrays. An object
        that is kept is kept by actors, one a processor of the whole cluster: what it needs of files it has read. Pieces
        of raw files are a stream of Ray Data."""

        def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
            self._connect()
            if is_kept(function):
                return by_actors(function, items)
            return by_stream(function, items) if is_of_raw_files(function) else by_tasks(function, items)

        return mapped

    def _connect(self) -> None:
        """Connects this process, once. Raises InputError for a cluster that does not answer in time."""
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import ray

        if ray.is_initialized():
            connected = ray.get_runtime_context().gcs_address
            if self.address is not None and _resolved(self.address) != _resolved(connected):
                raise InputError(
                    f"--address is {self.address}, but this process is connected to the Ray at {connected}; "
                    "call ray.shutdown() first."
                )
            return
        for name in ("ray", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        join = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
        with _sigterm_kept():
            self._join(join)

    def _join(self, join: Callable[..., Any]) -> None:
        """Lets `join` start a Ray of this machine, or find the one at the address. Raises as `_connect`."""
        if self.address is None:
            join(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE)
            return
        _probe(*_resolved(self.address), min(5.0, self.deadline))
        connecting = _in_thread(lambda: join(address=self.address))
        try:
            connecting.result(timeout=self.deadline)
        except TimeoutError as error:
            raise InputError(
                f"--address is {self.address}: something listens there, but no Ray head answered within "
                f"{self.deadline:g} s. Give the HOST:PORT that `ray start --head` showed."
            ) from error
        except Exception as error:
            raise InputError(f"--address is {self.address}, but Ray could not join: {first_line(error)}") from error

    def _cpus_of_each(self, workers: int) -> float:
        """Processors to reserve for each worker. Raises InputError where the cluster has not as many."""
        total = processors()
        if self.address is None:
            return min(self.cpus_per_worker, total / workers)
        if total < workers * self.cpus_per_worker:
            raise InputError(
                f"--workers is {workers} with {self.cpus_per_worker:g} CPUs each, but the cluster at {self.address} "
                f"has {total:g} CPUs. Use fewer workers, a smaller --launcher.cpus-per-worker, or add hosts."
            )
        return self.cpus_per_worker


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Puts this process's answer to SIGTERM back, which Ray replaces by one that prints a stack and aborts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _fit(launcher: Ray, job: Job, run: Run, cpus: float, mailbox: Any) -> None:
    """Lets Ray Train run the workers to their end. Raises LostWorkerError where it gave up."""
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = DataParallelTrainer(
        _work,
        train_loop_config={"job": json.dumps(dataclasses.asdict(job)), "mailbox": mailbox, "paths": sys.path},
        scaling_config=ScalingConfig(
            num_workers=run.workers,
            use_gpu=run.device == "cuda",
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if run.device == "cuda" else {})},
            placement_strategy="SPREAD" if launcher.address else "PACK",
            label_selector=[_first_host(cpus), *[{} for _ in range(run.workers - 1)]],
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # the annotation there is still that of Ray Train v1
            name=_NAME,
            storage_path=run.out,
            failure_config=FailureConfig(
                max_failures=launcher.max_failures, controller_failure_limit=launcher.max_failures
            ),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise LostWorkerError(
            f"{_lost(error)}; gave up after {launcher.max_failures} restarts (--launcher.max-failures). "
            "Start the run again with the same --out to resume it."
        ) from error
    finally:
        shutil.rmtree(Path(run.out) / _NAME, ignore_errors=True)


def _work(config: dict[str, Any]) -> None:
    """The whole of one attempt of a worker."""
    import ray
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    sys.path.extend(path for path in config["paths"] if path not in sys.path)
    context, job, mailbox = get_context(), Job(**json.loads(config["job"])), config["mailbox"]
    rank, size = context.get_world_rank(), context.get_world_size()
    log, teller = log_file(Path(job.run["out"]), rank), Teller(mailbox)
    try:
        listener, meeting = _listen() if rank == 0 else (None, None)
        result = job.perform(
            rank=rank,
            size=size,
            rendezvous=broadcast_from_rank_zero(meeting),
            local_rank=context.get_local_rank(),
            tell=teller.event,
            listener=listener,
            mapper=functools.partial(by_tasks, beside_workers=True),
        )
        if rank == 0:
            teller.result(result)
    except (Exception, SystemExit) as error:  # a network may leave by sys.exit, which is no loss of a worker
        write_traceback(error, log)
        if isinstance(error, LostWorkerError):
            if not ray.get(mailbox.failed.remote(GRACE)):
                raise  # so that Ray starts the workers again
        else:
            ray.get(mailbox.fail.remote(json.dumps({"error": describe(error, rank, log)})))


def _listen() -> tuple[socket.socket, str]:
    """A listening socket on a free port of this host, and how the other workers reach it."""
    import ray

    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    listener = socket.create_server((address, 0))
    return listener, f"tcp://{address}:{listener.getsockname()[1]}"


def _first_host(cpus: float) -> dict[str, str]:
    """Where the first worker goes: to this host, where the data is, if it has processors to give; else anywhere."""
    import ray

    here = this_host()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    node = next(node for node in nodes if node["NodeID"] == here["ray.io/node-id"])
    return here if node["Resources"].get("CPU", 0.0) >= cpus else {}


def _resolved(address: str) -> tuple[str, int]:
    """IP address and port of HOST:PORT. Raises InputError for anything else."""
    name, _, port = address.rpartition(":")
    if not name or not port.isdecimal() or "/" in name:
        raise InputError(f"--address is '{address}'; expected HOST:PORT, as `ray start --head` showed it.")
    try:
        return socket.gethostbyname(name), int(port)
    except OSError as error:
        raise InputError(f"--address is '{address}', but no host is called '{name}' ({error}).") from error


def _probe(ip: str, port: int, deadline: float) -> None:
    """Raises InputError, soon, where nothing listens: Ray itself would say nothing for minutes."""
    try:
        socket.create_connection((ip, port), timeout=deadline).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address is {ip}:{port}, but nothing answers there ({error}). Is the head running, and is this its port?"
        ) from error


def _lost(error: BaseException) -> str:
    """Who was lost, of an error by which Ray Train gave up."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    gone = {rank: cause for rank, cause in failures.items() if not isinstance(cause, LostWorkerError)} or failures
    if not gone:
        return f"the workers could not be started: {first_line(getattr(error, 'controller_failure', error))}"
    rank, cause = min(gone.items())
    return f"worker {rank} was lost: {first_line(cause)}"


def _in_thread(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Runs `function` in a thread that does not keep this process alive."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
