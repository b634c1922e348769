"""The mailbox between workers and launcher: what came first is heard first, whatever order Ray runs the calls in."""

import asyncio

import pytest

from launch.mailbox import Mailbox


def test_messages_are_taken_in_their_senders_order_and_none_is_early() -> None:
    async def exchange() -> None:
        mailbox = Mailbox()
        last = asyncio.create_task(mailbox.tell("a", 2, "third"))
        await asyncio.sleep(0)
        middle = asyncio.create_task(mailbox.tell("a", 1, "second"))
        await asyncio.sleep(0)
        assert await mailbox.take(0.01) == []
        assert not last.done()
        await mailbox.tell("b", 0, "another's")
        await mailbox.tell("a", 0, "first")
        await asyncio.gather(last, middle)
        assert await mailbox.take(0.01) == ["another's", "first", "second", "third"]
        assert await mailbox.take(0.01) == []

    asyncio.run(exchange())


def test_a_message_that_never_comes_holds_nobody_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.mailbox.LATE", 0.05)

    async def exchange() -> None:
        mailbox = Mailbox()
        await asyncio.gather(mailbox.tell("a", 2, "third"), mailbox.tell("a", 1, "second"))
        assert await mailbox.take(0.01) == ["second", "third"]
        await mailbox.tell("a", 3, "fourth")
        assert await mailbox.take(0.01) == ["fourth"]

    asyncio.run(exchange())


def test_a_failure_overtakes_what_is_held_back() -> None:
    async def exchange() -> None:
        mailbox = Mailbox()
        held = asyncio.create_task(mailbox.tell("a", 1, "second"))
        await asyncio.sleep(0)
        assert not await mailbox.failed(0.01)
        await mailbox.fail("why")
        assert await mailbox.failed(0.01)
        assert await mailbox.take(0.01) == ["why"]
        held.cancel()

    asyncio.run(exchange())
