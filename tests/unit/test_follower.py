"""Uris are followed for programs: one question each, and news only for those whom it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.errors import InvalidSpecError
from dspy_operator.registry.follower import Follower
from dspy_operator.registry.uri import Identity, ModelUri
from tests.simulation.clock import VirtualLoop, close

A, B, C = ("ns", "a"), ("ns", "b"), ("other", "c")


class FakeRegistry:
    """Answers with the number that an alias has now; remembers what it was asked, and when."""

    url = "http://registry"

    def __init__(self) -> None:
        self.champion = "1"
        self.down = False
        self.invalid = False
        self.asked: list[str] = []
        self.read_files: list[str] = []

    async def ask(self, uri: ModelUri) -> Identity | Problem:
        """The version of an alias, or the one that is named."""
        self.asked.append(str(uri))
        if self.down:
            raise RuntimeError("unforeseen")
        number = uri.version or self.champion
        return Identity(uri.name, number, f"m-{number}", "")

    async def read(self, identity: Identity) -> Version | Problem:
        """The version."""
        self.read_files.append(identity.number)
        if self.invalid:
            return Problem("ModelInvalid", "its files cannot be read")
        return version(identity.number)

    def archive(self, version: Version) -> bytes | None:
        """Not asked for."""
        raise NotImplementedError

    async def write(self, uri: str, alias: str, tags: Mapping[str, str]) -> Problem | None:
        return None

    async def close(self) -> None:
        """Nothing is open."""


def version(number: str) -> Version:
    return Version(f"models:/qa/{number}", number, f"m-{number}", f"digest-{number}", "3.12", "3.4.1")


class Followed:
    """A follower on virtual time, and who was woken."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.registry = FakeRegistry()
        self.woken: list[tuple[str, str]] = []
        self.follower = Follower({"default": self.registry}, 10.0, lambda *program: self.woken.append(program))

    def follow(self, program: tuple[str, str], uri: str, *known: Version) -> Version | Problem:
        """Follows, and lets a second pass."""

        async def follow() -> Version | Problem:
            return self.follower.follow(program, "default", uri, {each.model_id: each for each in known})

        answer = self.loop.run_until_complete(follow())
        self.loop.pass_time(1)
        return answer


@pytest.fixture
def followed() -> object:
    result = Followed()
    yield result
    result.loop.run_until_complete(result.follower.close())
    close(result.loop, [])


def test_an_alias_is_asked_for_once_for_all_programs_and_each_hears_of_a_change(followed: Followed) -> None:
    first = followed.follow(A, "models:/qa@champion")
    assert isinstance(first, Problem)
    assert first.reason == "Resolving"
    followed.follow(A, "models:/qa@champion")
    assert followed.follow(B, "models:/qa@champion") == version("1")
    followed.loop.pass_time(60)
    assert 6 <= len(followed.registry.asked) <= 8
    assert followed.woken == [A, A], "when the version was known, and its files; nothing changed since"
    followed.woken.clear()
    followed.registry.champion = "2"
    followed.loop.pass_time(12)
    assert sorted(followed.woken) == [A, B]
    followed.follow(A, "models:/qa@champion")
    assert followed.follow(B, "models:/qa@champion") == version("2")
    assert followed.registry.read_files == ["1", "2"], "once for all"


def test_a_version_is_asked_for_until_it_is_known(followed: Followed) -> None:
    followed.registry.down = True
    followed.follow(A, "models:/qa/3")
    followed.loop.pass_time(30)
    assert len(followed.registry.asked) >= 3
    followed.registry.down = False
    followed.loop.pass_time(15)
    asked = len(followed.registry.asked)
    followed.loop.pass_time(600)
    assert len(followed.registry.asked) == asked
    followed.follow(A, "models:/qa/3")
    assert followed.follow(A, "models:/qa/3") == version("3")


def test_files_that_cannot_serve_are_read_again_rarely(followed: Followed) -> None:
    followed.registry.invalid = True
    followed.follow(A, "models:/qa/3")
    followed.follow(A, "models:/qa/3")
    followed.loop.pass_time(280)
    assert followed.registry.read_files == ["3"]
    followed.registry.invalid = False
    followed.loop.pass_time(60)
    assert followed.follow(A, "models:/qa/3") == version("3")


def test_who_asks_for_something_else_or_goes_is_told_no_more(followed: Followed) -> None:
    followed.follow(A, "models:/qa@champion")
    followed.follow(C, "models:/other@champion")
    followed.follow(A, "models:/qa/1")
    followed.follower.leave(C)
    followed.registry.asked.clear()
    followed.woken.clear()
    followed.loop.pass_time(60)
    assert (followed.registry.asked, followed.woken) == ([], [])


def test_what_a_program_knows_already_is_not_read_again(followed: Followed) -> None:
    had = Version("models:/qa/1", "1", "m-1", "the digest of its revision", "3.12", "3.4.1")
    followed.follow(A, "models:/qa@champion", had)
    assert followed.follow(A, "models:/qa@champion", had) == had
    assert followed.registry.read_files == []
    followed.follow(C, "models:/qa@champion")
    assert followed.follow(C, "models:/qa@champion") == version("1"), "what one program says is believed for it only"


def test_a_uri_that_is_none_is_refused(followed: Followed) -> None:
    with pytest.raises(InvalidSpecError):
        followed.follow(A, "runs:/abc/model")
