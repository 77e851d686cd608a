"""Manifests as plain dicts, built by pure functions. What a user reads with kubectl is decided here."""
