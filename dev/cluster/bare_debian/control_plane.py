"""The control plane's container images, as kubeadm names them: one layer with our one binary and with what
kube-proxy calls."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd", "coredns")
TOOLS = ("usr/sbin/xtables-nft-multi", "usr/sbin/conntrack", "bin/sleep", "bin/sh", "bin/kmod")
TABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
EXTENSIONS = f"{LIBRARIES}/xtables"
FOLDERS = ("etc", "tmp", "run", "var", "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin")
SEARCH_PATH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_images(root: Path, references: Sequence[str], target: Path) -> None:
    """Writes an archive such as `docker save` makes to `target`, with one image for each reference."""
    layer = _layer(root)
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    with tarfile.open(target, "w") as archive:
        _put(archive, "layer.tar", layer)
        manifest = []
        for reference in references:
            component = reference.rpartition("/")[2].partition(":")[0]
            command = ["/bin/sleep", "infinity"] if component == "pause" else [f"/usr/local/bin/{component}"]
            image = {
                "architecture": "amd64",
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {"Entrypoint": command, "Env": [SEARCH_PATH]},
                "rootfs": {"type": "layers", "diff_ids": [digest]},
            }
            configuration = json.dumps(image).encode()
            name = f"{hashlib.sha256(configuration).hexdigest()}.json"
            _put(archive, name, configuration)
            manifest.append({"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]})
        _put(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(root: Path) -> bytes:
    extensions = sorted((root / EXTENSIONS).iterdir())
    files = {tool: tool for tool in TOOLS} | {library: library for library in _libraries(root, extensions)}
    files |= {f"{EXTENSIONS}/{file.name}": f"{EXTENSIONS}/{file.name}" for file in extensions}
    files["usr/local/bin/node"] = "usr/local/bin/node"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for folder in (*FOLDERS, LIBRARIES, EXTENSIONS):
            _entry(archive, folder, tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755)
        for name in ("bin", "sbin", "lib", "lib64"):
            _entry(archive, name, tarfile.SYMTYPE, to=f"usr/{name}")
        for name in sorted(files):
            archive.add((root / name).resolve(), re.sub(r"^(bin|sbin|lib|lib64)/", r"usr/\1/", name), recursive=False)
        for name in TABLES:
            _entry(archive, f"usr/sbin/{name}", tarfile.SYMTYPE, to="xtables-nft-multi")
        for name in COMPONENTS:
            _entry(archive, f"usr/local/bin/{name}", tarfile.SYMTYPE, to="node")
    return content.getvalue()


def _libraries(root: Path, extensions: Sequence[Path]) -> set[str]:
    """The shared libraries that the tools and iptables' extensions load, relative to the root."""
    paths = [*(f"/{tool}" for tool in TOOLS), *(f"/{EXTENSIONS}/{file.name}" for file in extensions)]
    told = subprocess.run(["chroot", str(root), "ldd", *paths], check=True, capture_output=True, text=True).stdout
    return {path.lstrip("/") for path in re.findall(r"(/\S+\.so\S*) \(0x", told)}


def _entry(archive: tarfile.TarFile, name: str, kind: bytes, mode: int = 0o755, to: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, to
    archive.addfile(info)


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
