"""Leadership by a coordination.k8s.io Lease, with one replica as well: it proves that its holder leads and can write.

Clocks of several machines are never compared: a follower waits until the Lease has not changed for its duration, by its
own clock. A holder that cannot renew is no leader any more after that time, and ends its process.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, ConflictException, Kube, NotFoundException, Object

DURATION_SECONDS = 6.0
RENEW_SECONDS = 1.5
RETRY_SECONDS = 0.5
log = Logger(__name__)


class LeaseLostError(Exception):
    """Somebody else leads, or the Lease could not be renewed in time."""


class Lease:
    """One Lease and its would-be holder."""

    def __init__(self, kube: Kube, namespace: str, name: str, holder: str) -> None:
        self._kube = kube
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._name = name
        self._holder = holder
        self._renewed_at = float("-inf")
        self._seen = ("", 0.0)
        self._written: Object | None = None
        """What we wrote last: while nobody else writes, renewing takes no read."""

    def held(self, within_seconds: float = DURATION_SECONDS) -> bool:
        """True when the Lease was renewed by us within that time."""
        return asyncio.get_running_loop().time() - self._renewed_at < within_seconds

    async def acquire(self) -> None:
        """Waits until the Lease is ours."""
        while not await self._try():  # noqa: ASYNC110 the Lease is the API server's, which tells nobody
            await asyncio.sleep(RETRY_SECONDS)
        log.info("Leading", lease=self._name, holder=self._holder)

    async def keep(self) -> None:
        """Renews for ever. Raises LeaseLostError when it is lost."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            # A request may take longer than a Lease lasts: whoever cannot renew in time leads no more.
            renewed = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._renewed_at + DURATION_SECONDS):
                    renewed = await self._try()
            if not renewed and not self.held():
                raise LeaseLostError(f"the Lease {self._name} was not renewed within {DURATION_SECONDS:.0f} s")

    async def release(self) -> None:
        """Gives the Lease back, so that a successor need not wait."""
        if not self.held():
            return
        try:
            await self._write(self._written or await self._kube.request("GET", self._path), "")
        except (ApiException, *UNREACHABLE):
            log.warning("The Lease could not be given back", lease=self._name)

    async def _try(self) -> bool:
        """Takes or renews the Lease if it is free or ours."""
        asked_at = asyncio.get_running_loop().time()
        try:
            lease = self._written or await self._kube.request("GET", self._path)
        except NotFoundException:
            lease = {"metadata": {"name": self._name}}
        except (ApiException, *UNREACHABLE) as error:
            log.warning("The Lease could not be read", error=type(error).__name__)
            return False
        if not self._is_free(lease, asked_at):
            return False
        try:
            written = await self._write(lease, self._holder)
        except (ApiException, *UNREACHABLE) as error:
            self._written = None
            if not isinstance(error, ConflictException):
                log.warning("The Lease could not be written", error=type(error).__name__)
            return False
        self._written = written
        self._renewed_at = asked_at
        return True

    def _is_free(self, lease: Object, now: float) -> bool:
        """True for a Lease of ours or nobody's, and for one that has not changed for its duration."""
        holder = lease.get("spec", {}).get("holderIdentity", "")
        if holder in ("", self._holder):
            return True
        version = str(lease["metadata"].get("resourceVersion", ""))
        if version != self._seen[0]:
            self._seen = (version, now)
        return now - self._seen[1] >= DURATION_SECONDS

    async def _write(self, lease: Object, holder: str) -> Object:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": int(DURATION_SECONDS), "renewTime": now}
        metadata = {"name": self._name}
        if "resourceVersion" in lease["metadata"]:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        if "resourceVersion" in metadata:
            return await self._kube.request("PUT", self._path, None, body)
        return await self._kube.request("POST", self._collection, None, body)
