"""Where a native node keeps its things and which addresses it uses. Pure data, computed from its name and its slot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """One node's folder and addresses. Slots 0 to 15 let several nodes stand side by side on one machine.

    Pods and services take addresses from 198.18.0.0/15, the range set aside for benchmarks: no real network uses it.
    """

    name: str
    slot: int
    folder: Path

    @property
    def pod_subnet(self) -> str:
        return f"198.18.{self.slot * 16}.0/21"

    @property
    def bridge_address(self) -> str:
        return f"198.18.{self.slot * 16}.1"

    @property
    def service_subnet(self) -> str:
        return f"198.19.{self.slot * 16}.0/20"

    @property
    def api_service_address(self) -> str:
        return f"198.19.{self.slot * 16}.1"

    @property
    def host_address(self) -> str:
        return f"198.18.{self.slot * 16 + 15}.253"

    @property
    def node_address(self) -> str:
        return f"198.18.{self.slot * 16 + 15}.254"

    @property
    def host_interface(self) -> str:
        return f"dspynode{self.slot}"

    @property
    def server(self) -> str:
        return f"https://{self.node_address}:6443"

    @property
    def cgroup(self) -> str:
        return f"dspy-{self.name}"

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def pid_file(self) -> Path:
        return self.folder / "supervisor.pid"
