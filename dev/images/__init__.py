"""The local images."""
