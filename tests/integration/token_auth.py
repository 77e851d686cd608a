"""What an MLflow server asks its callers for when it is told to use this module: the one token that there is."""

from __future__ import annotations

import os

from flask import Response, request
from werkzeug.datastructures import Authorization


def authenticate() -> Authorization | Response:
    """MLflow's `authorization_function`."""
    if request.headers.get("Authorization") != f"Bearer {os.environ['TEST_REGISTRY_TOKEN']}":
        return Response("who are you?", 401)
    return Authorization("basic", {"username": "admin", "password": ""})
