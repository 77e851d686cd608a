"""The first process of a native node's namespaces: starts every component, restarts one that ends, reaps orphans.

Run by `native` through unshare(1) with new PID, mount and network namespaces. When it ends, the kernel ends the rest.
"""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from dev.cluster.node import build
from dev.cluster.node.layout import Layout

RESTART_PAUSE_SECONDS = 1.0


def commands(layout: Layout, node: str) -> dict[str, list[str]]:
    """The command line of every component, in the order in which they start."""
    folder = layout.folder
    return {
        "containerd": ["containerd", "--config", f"{folder}/containerd.toml"],
        "etcd": [
            node,
            "etcd",
            f"--data-dir={folder}/etcd",
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
        ],
        "kube-apiserver": [
            node,
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            f"--advertise-address={layout.node_address}",
            f"--service-cluster-ip-range={layout.service_subnet}",
            f"--client-ca-file={folder}/ca.crt",
            f"--tls-cert-file={folder}/server.crt",
            f"--tls-private-key-file={folder}/server.key",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/accounts.key",
            f"--service-account-signing-key-file={folder}/accounts.key",
            f"--kubelet-client-certificate={folder}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={folder}/apiserver-kubelet-client.key",
            f"--kubelet-certificate-authority={folder}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        ],
        "kube-controller-manager": [
            node,
            "kube-controller-manager",
            f"--kubeconfig={folder}/controller-manager.kubeconfig",
            "--leader-elect=false",
            f"--service-account-private-key-file={folder}/accounts.key",
            f"--root-ca-file={folder}/ca.crt",
            "--use-service-account-credentials=true",
            "--node-monitor-grace-period=20s",
        ],
        "kube-scheduler": [
            node,
            "kube-scheduler",
            f"--kubeconfig={folder}/scheduler.kubeconfig",
            "--leader-elect=false",
        ],
        "kubelet": [
            node,
            "kubelet",
            f"--config={folder}/kubelet.yaml",
            f"--kubeconfig={folder}/kubelet.kubeconfig",
            f"--root-dir={folder}/kubelet",
            f"--hostname-override={layout.name}",
            f"--node-ip={layout.node_address}",
        ],
        "kube-proxy": [node, "kube-proxy", f"--config={folder}/proxy.yaml"],
        "coredns": [node, "coredns", "-conf", f"{folder}/Corefile"],
        "kube-router": [
            node,
            "kube-router",
            f"--kubeconfig={folder}/kube-router.kubeconfig",
            f"--hostname-override={layout.name}",
            f"--service-cluster-ip-range={layout.service_subnet}",
        ],
    }


def main() -> None:
    """Takes the node's name, slot and folder as arguments, and runs until it is ended."""
    layout = Layout(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _prepare(layout)
    argv = commands(layout, str(build.binary()))
    running: dict[int, str] = {}

    def start(name: str) -> None:
        with (layout.folder / f"{name}.log").open("ab") as log:
            running[subprocess.Popen(argv[name], stdout=log, stderr=log, cwd=layout.folder).pid] = name

    for name in argv:
        start(name)
        if name == "kube-apiserver":
            _wait_for_api_server(layout)
    while True:
        pid, _ = os.wait()
        if pid in running:
            time.sleep(RESTART_PAUSE_SECONDS)
            start(running.pop(pid))


def _prepare(layout: Layout) -> None:
    """Gives the namespaces their network, and hides from the host what components write to fixed places."""
    for place in ("/run/netns", "/run/containerd", "/var/log/containers", "/var/lib/cni"):
        Path(place).mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", place)
    _run("ip", "link", "set", "lo", "up")
    deadline = time.monotonic() + 10
    while subprocess.run(["ip", "link", "show", "uplink"], capture_output=True).returncode != 0:
        if time.monotonic() > deadline:
            sys.exit("the uplink interface did not appear within 10 s")
        time.sleep(0.02)
    _run("ip", "address", "add", f"{layout.node_address}/30", "dev", "uplink")
    _run("ip", "link", "set", "uplink", "up")
    _run("ip", "route", "add", "default", "via", layout.host_address)
    for setting in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        path = Path("/proc/sys") / setting
        if path.exists():
            path.write_text("1")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _wait_for_api_server(layout: Layout) -> None:
    context = ssl.create_default_context(cafile=str(layout.folder / "ca.crt"))
    context.load_cert_chain(layout.folder / "admin.crt", layout.folder / "admin.key")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{layout.server}/readyz", context=context, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("the API server was not ready within 60 s")


if __name__ == "__main__":
    main()
