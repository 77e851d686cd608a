"""Writes what a native node's components read: certificates, kubeconfigs, and each component's own configuration."""

from __future__ import annotations

import json
from pathlib import Path

import trustme
import yaml

from dev.cluster.node.layout import Layout

PAUSE_IMAGE = "localhost/dspy-operator-pause:2"


def write(layout: Layout) -> None:
    """Fills the node's folder. The folder must exist."""
    _certificates(layout)
    _containerd(layout)
    _network(layout)
    _kubelet(layout)
    _proxy(layout)
    _dns(layout)


def _certificates(layout: Layout) -> None:
    authority = trustme.CA(organization_name="dspy-operator tests")
    authority.cert_pem.write_to_path(layout.folder / "ca.crt")
    server = authority.issue_cert(
        layout.node_address,
        layout.api_service_address,
        layout.bridge_address,
        "127.0.0.1",
        layout.name,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    _write_pair(server, layout.folder / "server")
    _write_pair(authority.issue_cert("service-accounts"), layout.folder / "accounts")
    identities = {
        "admin": ("admin", "system:masters"),
        "apiserver-kubelet-client": ("apiserver", "system:masters"),
        "kubelet": (f"system:node:{layout.name}", "system:nodes"),
        "controller-manager": ("system:kube-controller-manager", "system:kube-controller-manager"),
        "scheduler": ("system:kube-scheduler", "system:kube-scheduler"),
        "proxy": ("system:kube-proxy", "system:node-proxier"),
        "coredns": ("coredns", "system:masters"),
        "kube-router": ("kube-router", "system:masters"),
    }
    for file, (user, group) in identities.items():
        pair = authority.issue_cert(layout.name, common_name=user, organization_name=group)
        _write_pair(pair, layout.folder / file)
        _kubeconfig(layout, file)


def _write_pair(pair: trustme.LeafCert, path: Path) -> None:
    pair.cert_chain_pems[0].write_to_path(path.with_suffix(".crt"))
    pair.private_key_pem.write_to_path(path.with_suffix(".key"))
    path.with_suffix(".key").chmod(0o600)


def _kubeconfig(layout: Layout, identity: str) -> None:
    import base64

    def encoded(file: str) -> str:
        return base64.b64encode((layout.folder / file).read_bytes()).decode()

    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": layout.name,
        "clusters": [
            {"name": layout.name, "cluster": {"server": layout.server, "certificate-authority-data": encoded("ca.crt")}}
        ],
        "contexts": [{"name": layout.name, "context": {"cluster": layout.name, "user": identity}}],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate-data": encoded(f"{identity}.crt"),
                    "client-key-data": encoded(f"{identity}.key"),
                },
            }
        ],
    }
    path = layout.folder / f"{identity}.kubeconfig"
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)


def _containerd(layout: Layout) -> None:
    folder = layout.folder
    (folder / "containerd.toml").write_text(f"""\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
""")


def _network(layout: Layout) -> None:
    (layout.folder / "cni").mkdir(exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": layout.pod_subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(layout.folder / "ipam"),
        },
    }
    conflist = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }
    (layout.folder / "cni" / "10-pods.conflist").write_text(json.dumps(conflist, indent=2))


def _kubelet(layout: Layout) -> None:
    folder = layout.folder
    (folder / "resolv.conf").write_text(f"nameserver {layout.node_address}\n")
    content = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": str(folder / "ca.crt")},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "clusterDNS": [layout.node_address],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "podLogsDir": str(folder / "pod-logs"),
        "resolvConf": str(folder / "resolv.conf"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "maxPods": 250,
        "tlsCertFile": str(folder / "server.crt"),
        "tlsPrivateKeyFile": str(folder / "server.key"),
    }
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(content))


def _proxy(layout: Layout) -> None:
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(layout.folder / "proxy.kubeconfig")},
        "clusterCIDR": layout.pod_subnet,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "hostnameOverride": layout.name,
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }
    (layout.folder / "proxy.yaml").write_text(yaml.safe_dump(content))


def _dns(layout: Layout) -> None:
    (layout.folder / "Corefile").write_text(f"""\
.:53 {{
    bind {layout.node_address}
    errors
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.folder}/coredns.kubeconfig
    }}
}}
""")
