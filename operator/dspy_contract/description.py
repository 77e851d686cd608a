"""What a runtime pod says of itself and the version that it serves, on the port of its probes. Pure."""

from __future__ import annotations

PATH = "/description"
DROPPED_SETTINGS = "droppedSettings"
"""Settings of DSPy that were saved with the version and are not in force."""
UNDERIVABLE = "underivable"
"""Parameters of the program whose types are not known where it serves."""
STANDSTILL_PATH = "/standstill"
"""Tells the last time that the program held up all requests of the pod by blocking its event loop: `seconds`,
`ageSeconds` since it was last seen, and the program's `frames`; null if there was none."""
