"""How Ray maps: plain functions by tasks on this host, objects that are kept by actors of the whole cluster.

Assumptions: this process is connected to a Ray, and its paths lead to the same packages on every host. What a task of
this host reads may lie on its disk; what an actor needs comes with the object and the items. A host that gives Ray no
processors still prepares its data: its tasks then ask for none. Where others have all processors, Ray would wait for
ever and say nothing; that ends after `PATIENCE`.
"""

import collections
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from framework.errors import LostWorkerError, ShardyardError
from launch.worker import threads_for

PATIENCE = 120.0
"""Seconds in which Ray has to find a processor for a first task or actor."""


def by_tasks(function: Callable[[Any], Any], items: Sequence[Any], *, beside_workers: bool = False) -> Iterator[Any]:
    """Results in the items' order, with a bounded number of tasks ahead. Raises what `function` raises.

    `beside_workers`: for workers that wait for the results, and keep the processors that Ray gave them."""
    import ray

    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # they run on this host: its paths are right
    bound = function.args if isinstance(function, functools.partial) else ()
    plain = function.func if isinstance(function, functools.partial) else function
    reserved = 0 if beside_workers else reserved_here()
    task: Any = ray.remote(plain).options(
        label_selector=this_host(), runtime_env=paths, max_retries=0, num_cpus=reserved
    )
    shared = [ray.put(value) for value in bound]
    ahead = 2 * max(1, int(processors())) if reserved else threads_for(1)
    under_way: collections.deque[Any] = collections.deque()
    waiting = iter(items)
    try:
        while True:
            while len(under_way) < ahead and (item := next(waiting, _END)) is not _END:
                under_way.append(task.remote(*shared, item))
            if not under_way:
                return
            yield ray.get(under_way.popleft())
    except ray.exceptions.RayError as error:
        raise _of_a_piece(error) from error
    finally:
        for task_left in under_way:
            ray.cancel(task_left, force=True)


def by_actors(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Results in the items' order. An actor that is lost is started again, and the item that it had tried again."""
    import ray

    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # as for workers, what is not there is not missed
    keeper: Any = ray.remote(_Keeper).options(
        num_cpus=min(1, processors()), runtime_env=paths, max_restarts=3, max_task_retries=3
    )
    kept = ray.put(function)
    actors = [keeper.remote([kept]) for _ in range(min(max(1, int(processors())), len(items)))]
    waiting = iter(enumerate(items))
    # What an actor will give -> the item's place, the actor. One that found no processor yet is given no item.
    under_way: dict[Any, tuple[int | None, Any]] = {actor.__ray_ready__.remote(): (None, actor) for actor in actors}
    idle: list[Any] = []
    given: dict[int, Any] = {}
    told, started = 0, False
    try:
        while told < len(items):
            while idle and len(given) < _AHEAD * len(actors) and (item := next(waiting, None)) is not None:
                actor = idle.pop()
                under_way[actor.apply.remote(item[1])] = item[0], actor
            ready, _ = ray.wait(list(under_way), timeout=None if started else PATIENCE)
            if not ready:
                raise _no_processor("the cluster's")
            (reference,), started = ready, True
            place, actor = under_way.pop(reference)
            idle.append(actor)
            result = ray.get(reference)
            if place is not None:
                given[place] = result
            while told in given:
                yield given.pop(told)
                told += 1
    except ray.exceptions.RayError as error:
        raise _of_a_piece(error) from error
    finally:
        for actor in actors:
            ray.kill(actor)


class _Keeper:
    """An actor that keeps an object and applies it."""

    def __init__(self, kept: Sequence[Any]) -> None:
        """`kept`: a reference to the object, in a list, so that one that is started again can ask for it again."""
        import ray

        self._function: Callable[[Any], Any] = ray.get(kept[0])

    def apply(self, item: Any) -> Any:
        """What the object gives for an item."""
        return self._function(item)


_AHEAD = 8  # results an actor, at most, that wait for an earlier one
_END = object()


def _of_a_piece(error: Exception) -> ShardyardError:
    """The error of a task or an actor, in one line."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return LostWorkerError(
            f"a process that worked on a piece was lost ({first_line(error)}); is there enough memory?"
        )
    cause = error.cause
    if isinstance(cause, ShardyardError):
        return cause
    return ShardyardError(f"working on a piece failed: {type(cause).__name__}: {first_line(cause)}")


def reserved_here() -> int:
    """Processors that Ray reserves for a task of this host: one, if it has any to give. Waits until one is free.

    Raises ShardyardError where none is, for as long as `PATIENCE`."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    here = next(node for node in nodes if node["NodeID"] == this_host()["ray.io/node-id"])
    if here["Resources"].get("CPU", 0.0) < 1:
        return 0
    probe: Any = ray.remote(_nothing).options(label_selector=this_host(), max_retries=0).remote()
    if not ray.wait([probe], timeout=PATIENCE)[0]:
        ray.cancel(probe, force=True)
        raise _no_processor("this host's")
    return 1


def _nothing() -> None:
    """What a task does that only asks for a processor."""


def _no_processor(whose: str) -> ShardyardError:
    return ShardyardError(
        f"Ray found no processor in {PATIENCE:g} s: others have all of {whose}. Start again when they have ended, or "
        "give Ray more of them (`ray start --num-cpus`)."
    )


def processors() -> float:
    """Processors of the whole cluster."""
    import ray

    return float(ray.cluster_resources().get("CPU", 0.0))  # type: ignore[no-untyped-call]


def this_host() -> dict[str, str]:
    """The label that only the host of this process has."""
    import ray

    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
