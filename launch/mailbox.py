"""How the workers of a Ray launcher reach the process that launched them: an actor that holds their messages.

Assumption: messages are JSON: an event, or one of {"result": ...} and {"error": ...}. No torch is imported here, so the
actor's process starts quickly and stays small.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from framework.errors import ShardyardError
from launch.failure import restore

Message = dict[str, Any]

ENDING = 20.0
"""Seconds that the workers have to end after an error, before they are given up."""


class Mailbox:
    """Where workers leave messages for the process that launched them. A Ray actor; messages are JSON."""

    def __init__(self) -> None:
        """Empty."""
        self._messages: list[str] = []
        self._arrived = asyncio.Event()
        self._failed = asyncio.Event()

    async def tell(self, message: str) -> None:
        """Leaves a message."""
        self._messages.append(message)
        self._arrived.set()

    async def fail(self, message: str) -> None:
        """Leaves a message that says why the run cannot go on."""
        await self.tell(message)
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
