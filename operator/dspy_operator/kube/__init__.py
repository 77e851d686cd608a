"""Everything that talks to the Kubernetes API: reading a snapshot, carrying out a plan, telling events."""
