"""The runtime: one process that serves one revision of one DSPy program over HTTP."""
