"""kind's node image: Debian's packages, kind's own files for a node (from its Go module), and our one Kubernetes binary
under every name. The steps are those of kind's own Dockerfile."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from dev.cluster.bare_debian.control_plane import write_images
from dev.cluster.bare_debian.engine import FILES, Engine
from dev.cluster.interface import CACHE, ClusterError
from dev.cluster.kind_tools import kind_module
from dev.cluster.node import build
from dev.images.builder import SEARCH_PATH
from dev.images.debian import unpacked

SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "conntrack",
    "iptables",
    "ipset",
    "iproute2",
    "ethtool",
    "mount",
    "kmod",
    "procps",
    "jq",
    "containerd",
    "runc",
    "containernetworking-plugins",
)
SETUP = """
find /lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete
rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/*
rm -f /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/sockets.target.wants/*udev*
rm -f /lib/systemd/system/sockets.target.wants/*initctl* /lib/systemd/system/basic.target.wants/*
echo ReadKMsg=no >> /etc/systemd/journald.conf
ln -sf /lib/systemd/systemd /sbin/init
ln -sf /usr/bin/containerd /usr/bin/ctr /usr/bin/containerd-shim-runc-v2 /usr/local/bin/
mkdir -p /etc/kubernetes/manifests /opt/cni /kind/manifests /kind/images /etc/cni/net.d
ln -sfn /usr/lib/cni /opt/cni/bin
ctr oci spec | jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
    > /etc/containerd/cri-base.json
for name in kubelet kubeadm kubectl; do ln -sf /usr/local/bin/node /usr/bin/$name; done
"""
SERVICES = ("kubelet", "containerd", "undo-mount-hacks", "load-images", "kube-router")


def build_node_image(engine: Engine) -> str:
    """The reference of the node image in the engine; made when the engine has none for these sources."""
    reference = f"localhost/dspy-operator-kind-node:{_key()}"
    if engine.run(["docker", "image", "inspect", reference]).returncode == 0:
        return reference
    print("Making kind's node image ...", flush=True)
    root = CACHE / "kind" / "rootfs"
    unpacked(SUITE, PACKAGES, root)
    _fill(root)
    import_image(
        engine, root, reference, 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]', "ENV container=docker"
    )
    shutil.rmtree(root)
    return reference


def import_image(engine: Engine, root: Path, reference: str, *changes: str) -> None:
    """Brings a root file system into the engine as an image of one layer."""
    settings = [f"ENV PATH={SEARCH_PATH}", *changes]
    command = ["docker", "import", *(word for each in settings for word in ("--change", each)), "-", reference]
    with subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE) as archive:
        assert archive.stdout is not None
        result = engine.run(command, stdin=archive.stdout.fileno())
    if result.returncode != 0:
        raise ClusterError(f"docker import of {reference} failed: {result.stderr.strip()}")


def inside(root: Path, *command: str) -> str:
    """What a command prints that runs in the root file system. Raises ClusterError with its words."""
    prefix = ["chroot", str(root), "/usr/bin/env", "-i", f"PATH={SEARCH_PATH}"]
    result = subprocess.run([*prefix, *command], capture_output=True, text=True)
    if result.returncode != 0:
        raise ClusterError(f"{' '.join(command[:3])} failed in the node image: {result.stderr.strip()}")
    return result.stdout


def _key() -> str:
    digest = hashlib.sha256()
    for path in (*sorted(FILES.iterdir()), Path(__file__), Path(__file__).with_name("control_plane.py")):
        digest.update(path.read_bytes())
    digest.update(f"{build.binary()} {kind_module().version}".encode())
    return digest.hexdigest()[:12]


def _fill(root: Path) -> None:
    base = kind_module().folder / "images" / "base" / "files"
    shutil.copytree(base, root, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for folder in ("usr/local/bin", "kind/bin"):
        for file in (root / folder).iterdir():
            file.chmod(0o755)
    shutil.copy(build.binary(), root / "usr/local/bin/node")
    shutil.copy(FILES / "crictl", root / "usr/local/bin/crictl")
    inside(root, "sh", "-euc", SETUP)
    version = build.version()
    (root / "kind/version").write_text(version)
    shutil.copy(FILES / "10-kind.conflist", root / "etc/cni/net.d")
    for manifest in ("default-cni.yaml", "default-storage.yaml"):
        shutil.copy(FILES / manifest, root / "kind/manifests")
    for unit in ("load-images.service", "kube-router.service"):
        shutil.copy(FILES / unit, root / "etc/systemd/system")
    references = inside(root, "kubeadm", "config", "images", "list", "--kubernetes-version", version).split()
    write_images(root, references, root / "kind/images/control-plane.tar")
    pause = next(each for each in references if "/pause:" in each)
    _configure_containerd(root / "etc/containerd/config.toml", pause)
    inside(root, "systemctl", "enable", "--quiet", *(f"{service}.service" for service in SERVICES))
    inside(root, "systemctl", "mask", "--quiet", "systemd-binfmt.service")


def _configure_containerd(file: Path, pause: str) -> None:
    """Debian's containerd has no fuse-overlayfs, may not lower an oom score here, and takes our sandbox image."""
    text = re.sub(r"\[proxy_plugins\].*?(?=\[plugins)", "", file.read_text(), flags=re.DOTALL)
    text = text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    file.write_text(re.sub(r"sandbox_image = .*", f'sandbox_image = "{pause}"', text))
