"""The tokens by which the operator may ask the gateways' agents: one a namespace, from one key of the operator's own.

The key is a Secret in the operator's namespace, made at the first start; a namespace's token is derived from it, so
that no token is ever read back from a cluster.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from dspy_kube.client import ConflictException, Kube, NotFoundException
from dspy_operator.kube.paths import path

KEY_SECRET = "dspy-operator-key"
KEY_BYTES = 32


async def load_key(kube: Kube, namespace: str) -> bytes:
    """The operator's key; makes it where there is none."""
    for _ in range(2):
        try:
            found = await kube.request("GET", path("Secret", namespace, KEY_SECRET))
            return base64.b64decode(found["data"]["key"])
        except NotFoundException:
            key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
            manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEY_SECRET}, "data": {"key": key}}
            try:
                await kube.request("POST", path("Secret", namespace), None, manifest)
            except ConflictException:
                continue
    raise LookupError(f"the Secret {KEY_SECRET} in {namespace} can be neither read nor made")


def token(key: bytes, namespace: str) -> str:
    """The token of a namespace's gateway."""
    return hmac.new(key, namespace.encode(), hashlib.sha256).hexdigest()
