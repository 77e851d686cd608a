"""The resources as frozen values, and their conversion from and to the dicts of the Kubernetes API."""
