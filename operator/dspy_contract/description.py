"""What a runtime pod says of the version that it serves, on the port of its probes. Pure."""

from __future__ import annotations

PATH = "/description"
DROPPED_SETTINGS = "droppedSettings"
"""Settings of DSPy that were saved with the version and are not in force."""
UNDERIVABLE = "underivable"
"""Parameters of the program whose types are not known where it serves."""
