"""What a runtime pod says of itself and the version that it serves, on the port of its probes. Pure."""

from __future__ import annotations

DESCRIPTION_PATH = "/description"
DROPPED_SETTINGS = "droppedSettings"
"""Settings of DSPy that were saved with the version and are not in force."""
UNDERIVABLE = "underivable"
"""Parameters of the program whose types are not known where it serves."""
STANDSTILL_PATH = "/standstill"
"""Tells the last time that the program held up all requests of the pod by blocking its event loop; null if there was
none."""
SECONDS = "seconds"
"""For how long it stood still, as far as was seen."""
AGE_SECONDS = "ageSeconds"
"""How long ago that was."""
FRAMES = "frames"
"""Where the program was: `file:line function` of its own frames."""
CACHE_PATH = "/cache"
"""DELETE has the pod forget the answers that it keeps."""
