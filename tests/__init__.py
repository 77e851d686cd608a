"""Tests and the tools they share: the cluster, the images, the stand-in LM provider, the demo."""
