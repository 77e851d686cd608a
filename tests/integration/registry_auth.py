"""What an MLflow server asks its callers for when it is told to use this module: the one token that there is, or a
user and a password."""

from __future__ import annotations

import os

from flask import Response, request
from mlflow.server.auth import authenticate_request_basic_auth
from werkzeug.datastructures import Authorization


def authenticate() -> Authorization | Response:
    """MLflow's `authorization_function`."""
    if request.headers.get("Authorization") == f"Bearer {os.environ['TEST_REGISTRY_TOKEN']}":
        return Authorization("basic", {"username": "admin", "password": ""})
    answer: Authorization | Response = authenticate_request_basic_auth()
    return answer
