"""The mailbox between workers and launcher: what came first is heard first, whatever order Ray runs the calls in."""

import asyncio

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
