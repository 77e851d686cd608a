"""A Docker engine of Debian's packages, in network, mount and PID namespaces of its own.

The packages are unpacked, not installed, and what the engine writes to fixed places stays in its mount namespace. Its
way out is slirp4netns, in user space: neither the machine's interfaces nor its iptables change. When the first process
of its namespaces ends, the kernel ends every container with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.cgroups import remove_cgroups
from dev.cluster.interface import CACHE, REPOSITORY, ClusterError

FOLDER = CACHE / "docker"
PACKAGES = ("docker.io", "tini", "slirp4netns", "libslirp0")
FILES = Path(__file__).with_name("files")
CGROUP = "dspy-docker"
READY_SECONDS = 60
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""What is started so ends when we end, however we end."""

PRIVATE = ("/run/netns", "/run/containerd", "/run/docker", "/run/runc")


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine."""

    pid: int
    """The first process of its namespaces."""

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command in the engine's network, where the addresses that it publishes are."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

    def environment(self) -> dict[str, str]:
        """What finds the engine: its client on the path, and its socket."""
        path = f"{FOLDER}/debian/usr/bin:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "DOCKER_HOST": f"unix://{FOLDER}/run/docker.sock"}

    def run(self, command: Sequence[str], stdin: int | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, and keeps what it prints."""
        inside = self.inside(command)
        return subprocess.run(inside, env=self.environment(), stdin=stdin, capture_output=True, text=True)


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """An engine, with what earlier ones built and loaded; ended at the end, with every container."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError(f"another Docker engine runs in {FOLDER}: wait until it has ended") from None
        _unpack()
        with _started() as engine:
            yield engine


@contextlib.contextmanager
def _started() -> Iterator[Engine]:
    run = FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    with (run / "dockerd.log").open("wb") as log, (run / "slirp4netns.log").open("wb") as egress:
        namespaces = ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]
        own = [sys.executable, "-m", "dev.cluster.bare_debian.engine"]
        outer = subprocess.Popen(
            [*WITH_US, "unshare", *namespaces, "--kill-child", "--", *own],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        way_out: subprocess.Popen[bytes] | None = None
        try:
            engine = Engine(_first_child(outer.pid))
            slirp = [f"{FOLDER}/debian/usr/bin/slirp4netns", "--configure", "--mtu=1400", "--disable-host-loopback"]
            libraries = {**os.environ, "LD_LIBRARY_PATH": f"{FOLDER}/debian/usr/lib/x86_64-linux-gnu"}
            command = [*WITH_US, *slirp, str(engine.pid), "tap0"]
            way_out = subprocess.Popen(command, env=libraries, stdout=egress, stderr=egress)
            _wait_for_answer(engine)
            yield engine
        finally:
            outer.send_signal(signal.SIGKILL)
            outer.wait()
            if way_out is not None:
                way_out.terminate()
                way_out.wait()
            remove_cgroups(CGROUP)


def _unpack() -> None:
    if (FOLDER / "debian/usr/sbin/dockerd").exists():
        return
    print("Unpacking a Docker engine from Debian's packages ...", flush=True)
    partial, debs = FOLDER / "debian.partial", FOLDER / "debs"
    for folder in (partial, debs):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    subprocess.run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", *PACKAGES], cwd=debs, check=True)
    for package in debs.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(partial)], check=True)
    partial.rename(FOLDER / "debian")
    shutil.rmtree(debs)


def _first_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.02)
    raise ClusterError("unshare started no process within 10 s")


def _wait_for_answer(engine: Engine) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while engine.run(["docker", "info"]).returncode != 0:
        if time.monotonic() > deadline:
            words = (FOLDER / "run/dockerd.log").read_text()[-2000:]
            raise ClusterError(f"the Docker engine did not answer within {READY_SECONDS} s:\n{words}")
        time.sleep(0.1)


def main() -> None:
    """The first process of the engine's namespaces: makes them ready, and becomes the engine."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    deadline = time.monotonic() + 10
    while subprocess.run(["ip", "link", "show", "tap0"], capture_output=True).returncode != 0:
        if time.monotonic() > deadline:
            sys.exit("the way out, tap0, did not appear within 10 s")
        time.sleep(0.02)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for place in PRIVATE:
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    unpacked = FOLDER / "debian/usr"
    os.environ["PATH"] = f"{unpacked}/sbin:{unpacked}/bin:{os.environ['PATH']}"
    options = {
        "host": f"unix://{FOLDER}/run/docker.sock",
        "data-root": f"{FOLDER}/data",
        "exec-root": f"{FOLDER}/run/exec",
        "pidfile": f"{FOLDER}/run/dockerd.pid",
        "storage-driver": "overlay2",
        "cgroup-parent": f"/{CGROUP}",
        "add-runtime": f"lent={FILES}/runc-lent",
        "default-runtime": "lent",
    }
    os.execv(f"{unpacked}/sbin/dockerd", ["dockerd", *(f"--{name}={value}" for name, value in options.items())])


if __name__ == "__main__":
    main()
