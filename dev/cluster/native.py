"""A single-node Kubernetes in namespaces of its own on this machine, for root on Debian where no Docker answers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.cgroups import make_cgroups, remove_cgroups
from dev.cluster.interface import CACHE, REPOSITORY, ClusterError
from dev.cluster.node import build, configuration
from dev.cluster.node.layout import Layout
from dev.images import builder

PACKAGES = [
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "ipset",
    "conntrack",
    "buildah",
    "debootstrap",
    "iproute2",
    "kmod",
]
READY_SECONDS = 120


class NativeCluster:
    """The native node by name; implements `interface.Cluster`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = CACHE / "clusters" / name
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Installs Debian's packages and builds the node's binary."""
        install_packages()
        build.binary()

    def create(self) -> None:
        """Installs what is missing, starts the node, and waits until it is Ready."""
        layout = self._layout() if self._running() is not None else self._begin()
        self._wait_for_containerd(layout)
        self.load([builder.pause()])
        self._wait_for_node(layout)

    def _begin(self) -> Layout:
        """Installs what is missing and starts the node's first process."""
        self.prepare()
        self.delete()
        self.folder.mkdir(parents=True)
        layout = Layout(self.name, _free_slot(), self.folder)
        configuration.write(layout)
        (self.folder / "slot").write_text(str(layout.slot))
        make_cgroups(layout.cgroup)
        self._start(layout)
        return layout

    def load(self, references: Sequence[str]) -> None:
        """Imports images that are not there yet into the node's containerd."""
        layout = self._layout()
        ctr = ["ctr", "--address", str(layout.containerd_socket), "--namespace", "k8s.io", "images"]
        present = subprocess.run([*ctr, "list", "--quiet"], check=True, capture_output=True, text=True).stdout.split()
        for reference in references:
            if reference not in present:
                print(f"Loading {reference} ...", flush=True)
                subprocess.run([*ctr, "import", str(builder.archive(reference))], check=True, stdout=subprocess.DEVNULL)

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._layout().kubeconfig

    def kubectl(self) -> list[str]:
        """The node's own kubectl, of the same version as the node."""
        return [str(build.binary()), "kubectl", "--kubeconfig", str(self.kubeconfig())]

    def delete(self) -> None:
        """Ends the node's first process, with which everything else goes, and removes its folder."""
        pid = self._running()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.wait()
            _wait(lambda: not Path(f"/proc/{pid}").exists(), 30, "the node's processes did not end")
        if (self.folder / "slot").exists():
            layout = self._layout()
            subprocess.run(["ip", "link", "delete", layout.host_interface], capture_output=True)
            remove_cgroups(layout.cgroup)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _layout(self) -> Layout:
        try:
            return Layout(self.name, int((self.folder / "slot").read_text()), self.folder)
        except FileNotFoundError:
            raise ClusterError(f"the cluster {self.name} does not exist; create it with `make cluster`") from None

    def _running(self) -> int | None:
        """The process id of the node's first process, if it is this node's and alive."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.folder / "supervisor.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            return pid if "dev.cluster.node.supervise" in command and str(self.folder) in command else None
        return None

    def _start(self, layout: Layout) -> None:
        supervisor = [
            sys.executable,
            "-m",
            "dev.cluster.node.supervise",
            layout.name,
            str(layout.slot),
            str(layout.folder),
        ]
        with (self.folder / "supervisor.log").open("wb") as log:
            self._process = process = subprocess.Popen(
                [
                    "unshare",
                    "--net",
                    "--mount",
                    "--propagation",
                    "private",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--",
                    *supervisor,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        _wait(lambda: children.read_text().strip() != "", 10, "unshare started no process")
        pid = int(children.read_text().split()[0])
        _wait(lambda: b"supervise" in Path(f"/proc/{pid}/cmdline").read_bytes(), 10, "the supervisor did not start")
        layout.pid_file.write_text(str(pid))
        _connect(layout, pid)

    def _wait_for_containerd(self, layout: Layout) -> None:
        _wait(
            lambda: (
                subprocess.run(
                    ["ctr", "--address", str(layout.containerd_socket), "version"], capture_output=True
                ).returncode
                == 0
            ),
            60,
            f"containerd did not answer; see {self.folder}/containerd.log",
        )

    def _wait_for_node(self, layout: Layout) -> None:
        query = ["get", "node", layout.name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"]

        def ready() -> bool:
            return subprocess.run([*self.kubectl(), *query], capture_output=True, text=True).stdout.strip() == "True"

        _wait(ready, READY_SECONDS, f"the node was not Ready; see the logs in {self.folder}", pause_seconds=0.3)


def install_packages() -> None:
    """Installs the Debian packages that the native node needs and that are missing; says so first."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(
            "no Docker answers here, and the native node needs root on Debian: start Docker, or run as root on Debian"
        )
    status = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *PACKAGES], capture_output=True, text=True
    ).stdout
    installed = {line.split()[0] for line in status.splitlines() if line.endswith("install ok installed")}
    if missing := [package for package in PACKAGES if package not in installed]:
        print(f"Installing Debian packages: {' '.join(missing)}", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
            check=True,
            env=quiet,
            stdout=subprocess.DEVNULL,
        )


def _free_slot() -> int:
    taken = {path.name for path in Path("/sys/class/net").iterdir()}
    for slot in range(16):
        if Layout("", slot, Path()).host_interface not in taken:
            return slot
    raise ClusterError("all sixteen native nodes are taken; remove one with `make clean`")


def _connect(layout: Layout, pid: int) -> None:
    """Joins the node's network namespace to the host by a pair of interfaces, and routes pods and services over it."""
    for command in (
        f"ip link add {layout.host_interface} type veth peer name uplink netns {pid}",
        f"ip address add {layout.host_address}/30 dev {layout.host_interface}",
        f"ip link set {layout.host_interface} up",
        f"ip route add {layout.pod_subnet} via {layout.node_address}",
        f"ip route add {layout.service_subnet} via {layout.node_address}",
    ):
        subprocess.run(command.split(), check=True)


def _wait(condition, seconds: float, otherwise: str, pause_seconds: float = 0.05) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{otherwise} within {seconds:.0f} s")
        time.sleep(pause_seconds)
