"""How the workers of a Ray launcher reach the process that launched them: an actor that holds their messages.

Assumption: messages are JSON: an event, or one of {"result": ...} and {"error": ...}. No torch is imported here, so the
actor's process starts quickly and stays small.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from framework.errors import ShardyardError
from launch.failure import restore

Message = dict[str, Any]

STEP_EVENTS = 0.1
"""Seconds between two `step` events of one worker; the ones between are not sent."""
LATE = 10.0
"""Seconds that a message waits for those before it."""
ENDING = 20.0
"""Seconds that the workers have to end after an error, before they are given up."""


class Mailbox:
    """Where workers leave messages for the process that launched them. A Ray actor; messages are JSON."""

    def __init__(self) -> None:
        """Empty."""
        self._messages: list[str] = []
        self._early: dict[str, dict[int, str]] = collections.defaultdict(dict)
        self._told: collections.Counter[str] = collections.Counter()
        self._moved = asyncio.Condition()
        self._arrived = asyncio.Event()
        self._failed = asyncio.Event()

    async def tell(self, sender: str, number: int, message: str) -> None:
        """Leaves the sender's message `number`, of 0, 1, 2, ...; ends when it and all before it can be taken.

        Ray runs the calls of an actor that awaits in any order, so the numbers, not the calls, say what came first.
        """
        async with self._moved:
            early = self._early[sender]
            early[number] = message
            while (due := self._told[sender]) in early:
                self._messages.append(early.pop(due))
                self._told[sender] += 1
                self._arrived.set()
            self._moved.notify_all()
            with contextlib.suppress(TimeoutError):  # one that never comes must not hold the others for good
                await asyncio.wait_for(self._moved.wait_for(lambda: self._told[sender] > number), LATE)
            for late in sorted(early):
                if late <= number:
                    self._messages.append(early.pop(late))
                    self._told[sender] = max(self._told[sender], late + 1)
                    self._arrived.set()

    async def fail(self, message: str) -> None:
        """Leaves a message that says why the run cannot go on."""
        self._messages.append(message)
        self._arrived.set()
        self._failed.set()

    async def take(self, seconds: float) -> list[str]:
        """All messages; waits for one, but not longer than `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)
        taken, self._messages = self._messages, []
        self._arrived.clear()
        return taken

    async def failed(self, seconds: float) -> bool:
        """Whether somebody has said why the run cannot go on, or does within `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._failed.wait(), seconds)
        return self._failed.is_set()


class Teller:
    """A worker's end of the mailbox, for one attempt of it."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._sender = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._last_step = float("-inf")

    def event(self, event: Message) -> None:
        """Sends an event without waiting for it; of the many `step` events, some."""
        if event["event"] == "step":
            now = time.monotonic()
            if now - self._last_step < STEP_EVENTS:
                return
            self._last_step = now
        self._tell(event)

    def result(self, result: dict[str, Any]) -> None:
        """Sends what the run came to; ends when it and all events before it have arrived."""
        import ray

        ray.get(self._tell({"result": result}))

    def _tell(self, message: Message) -> Any:
        return self._mailbox.tell.remote(self._sender, next(self._numbers), json.dumps(message))


class Listener:
    """The launching process's end of the mailbox."""

    def __init__(self, mailbox: Any, watch: Callable[[Message], None]) -> None:
        self._mailbox = mailbox
        self._watch = watch
        self._result: dict[str, Any] | None = None
        self._error: ShardyardError | None = None

    def until(self, fitting: concurrent.futures.Future[None]) -> dict[str, Any]:
        """Hands events on until the workers have ended; the first one's result. Raises the error of the run."""
        give_up = float("inf")
        while not fitting.done() and time.monotonic() < give_up:
            self._hear(0.5)
            if self._error is not None:
                give_up = min(give_up, time.monotonic() + ENDING)
        if fitting.done():
            self._hear(0.0)
        if self._error is not None:
            raise self._error
        fitting.result()
        if self._result is None:
            raise ShardyardError("the workers ended without a result and without an error; see the workers' logs.")
        return self._result

    def _hear(self, seconds: float) -> None:
        import ray

        for message in ray.get(self._mailbox.take.remote(seconds)):
            told = json.loads(message)
            if "result" in told:
                self._result = told["result"]
            elif "error" in told:
                self._error = self._error or restore(told["error"])
            else:
                self._watch(told)
