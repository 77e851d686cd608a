"""The Kubernetes API as the operator and the agents use it: plain dicts, requests, and watches that start again."""
