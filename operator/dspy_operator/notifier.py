"""Tells receivers of transitions, beside the passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import aiohttp
import tenacity
from prometheus_client import Counter

from dspy_contract.logs import Logger
from dspy_operator.api.rollout import Policy
from dspy_operator.domain.notification import Format, Notification, is_told, notification, rendered
from dspy_operator.domain.snapshot import Program
from dspy_operator.domain.transition import Event
from dspy_operator.outbox import Outbox
from dspy_operator.settings import ReceiverSettings, read_secret

ANSWER_SECONDS = 10.0
LONGEST_SECONDS = 300.0
"""How long one notification is tried; meanwhile the receiver's others wait."""

NOTIFICATIONS = Counter("dspy_operator_notifications", "Notifications, by receiver.", ["receiver", "result"])
log = Logger(__name__)


class _AgainError(Exception):
    """The receiver may take it later."""


class _RefusedError(Exception):
    """The receiver does not take it."""


class Notifier:
    """The receivers of the operator's configuration."""

    def __init__(self, receivers: Mapping[str, ReceiverSettings]) -> None:
        self._receivers = receivers
        self._outbox: Outbox[Notification] = Outbox(self._deliver)
        self._session: aiohttp.ClientSession | None = None

    def tell(self, program: Program, policy: Policy | None, events: Iterable[Event], now: float) -> None:
        """Tells whoever wants to know, soon."""
        for event in events:
            told = notification(program, policy, event, now)
            for name in self._wanted_by(policy, event.reason):
                self._put(name, told)

    async def close(self) -> None:
        """Ends it; what waits is lost."""
        self._outbox.close()
        if self._session is not None:
            await self._session.close()

    def _wanted_by(self, policy: Policy | None, reason: str) -> set[str]:
        wanted = {
            name for name, each in self._receivers.items() if each.every_program and is_told(reason, each.reasons)
        }
        for asked in policy.spec.notifications if policy else ():
            receiver = self._receivers.get(asked.receiver)
            if receiver and is_told(reason, asked.reasons, receiver.reasons):
                wanted.add(asked.receiver)
        return wanted

    def _put(self, name: str, told: Notification) -> None:
        if not self._outbox.put(name, told):
            # The program's events have it.
            NOTIFICATIONS.labels(name, "dropped").inc()
            log.warning("A receiver is too far behind: a notification is dropped", receiver=name, reason=told.reason)

    async def _deliver(self, name: str, told: Notification) -> None:
        try:
            await self._send(self._receivers[name], told)
            NOTIFICATIONS.labels(name, "sent").inc()
        except Exception as error:  # nothing that one receiver does may end its task
            NOTIFICATIONS.labels(name, "failed").inc()
            # Its words may hold the address, and that may be a secret.
            log.warning("A notification was not taken", receiver=name, reason=told.reason, error=_words(error))

    async def _send(self, receiver: ReceiverSettings, told: Notification) -> None:
        """Raises when the receiver does not take it, or refuses."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_AgainError),
            wait=tenacity.wait_random_exponential(multiplier=1, max=60),
            stop=tenacity.stop_after_delay(LONGEST_SECONDS),
            reraise=True,
        )
        headers, body = rendered(told, Format(receiver.format))
        async for attempt in retrying:
            with attempt:
                await self._post(receiver, headers, body)

    async def _post(self, receiver: ReceiverSettings, headers: Mapping[str, str], body: bytes) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        try:
            if receiver.token_file:
                headers = {**headers, "authorization": f"Bearer {read_secret(receiver.token_file)}"}
            url = read_secret(receiver.url_file) if receiver.url_file else receiver.url
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientConnectionError, TimeoutError, OSError) as error:
            raise _AgainError(type(error).__name__) from error
        if status in (408, 425, 429) or status >= 500:
            raise _AgainError(f"status {status}")
        if status >= 300:
            raise _RefusedError(f"status {status}")


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, _AgainError | _RefusedError) else type(error).__name__
