"""`python -m tests.soak [MINUTES]`: builds what it needs, then runs the soak in namespaces of its own."""

from __future__ import annotations

import subprocess
import sys

from dev.cluster.pretended import run_inside

if __name__ == "__main__":
    try:
        run_inside("tests.soak.run", sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
