"""What a gateway pod tells whom: what changed since the caller's token, and urgent things at once."""

from __future__ import annotations

import asyncio

from dspy_gateway.news import News


def test_a_caller_hears_what_changed_since_its_token_and_a_stranger_hears_all() -> None:
    news = News()
    news.note(["a"], urgent=False)
    token = news.token
    assert news.changed(["a", "b"], token) == []
    news.note(["b"], urgent=False)
    assert news.changed(["a", "b"], token) == ["b"]
    assert news.changed(["a", "b"], "") == ["a", "b"]
    assert news.changed(["a", "b"], News().token) == ["a", "b"], "a token of another process"


async def test_only_urgent_news_of_a_named_program_end_a_wait() -> None:
    news = News()
    waiting = asyncio.create_task(news.wait(["a"], news.token, seconds=30))
    await asyncio.sleep(0)
    for uids, urgent in ((["a"], False), (["b"], True)):
        news.note(uids, urgent)
        await news.tell()
        await asyncio.sleep(0)
        assert not waiting.done()
    news.note(["a"], urgent=True)
    await news.tell()
    await asyncio.wait_for(waiting, 5)


def test_programs_that_went_are_forgotten() -> None:
    news = News()
    token = news.token
    news.note(["a", "b"], urgent=True)
    news.forget_programs({"b"})
    assert news.changed(["a", "b"], token) == ["b"]
