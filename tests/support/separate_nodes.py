"""Nodes of a cluster that share installed packages alone: each has an address, processes and a disk of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import REPOSITORY

NETWORK, BRIDGE = "10.213.7", "medcap-test"
GATEWAY = f"{NETWORK}.254"
"""This process's address on the network of the nodes."""

_ENTER = """
mount -t tmpfs tmpfs /mnt && cp -r {files} /mnt && mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm
mkdir /tmp/home && cd /tmp/home && {command}
"""


@contextmanager
def separate_network(num_nodes: int) -> Iterator[None]:
    """Make a network of namespaces `medcap-test-N` with the addresses `NETWORK`.1 and so on; skips where it cannot."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        pytest.skip("needs root, ip and unshare for nodes with networks and disks of their own")
    made = [["link", "del", BRIDGE]]
    try:
        try:
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
            for number in range(1, num_nodes + 1):
                name, cable = f"{BRIDGE}-{number}", f"medcap{number}"
                _ip("netns", "add", name)
                made.append(["netns", "del", name])
                _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
                made.append(["link", "del", cable])  # at once, as the end of a namespace does only later
                _ip("link", "set", cable, "master", BRIDGE, "up")
                _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", name, "link", "set", device, "up")
        except PermissionError as error:
            pytest.skip(f"no namespaces here: {error}")
        yield
    finally:
        for arguments in reversed(made):
            subprocess.run(["ip", *arguments], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise PermissionError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


def start_on_node(
    number: int, command: str, files: Sequence[Path], environment: dict[str, str]
) -> "subprocess.Popen[str]":
    """Run a shell command on a node, in an empty home; copies of `files` are in `/mnt`. Its end takes all with it."""
    script = _ENTER.format(files=" ".join(map(str, files)), command=command)
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/tmp/home"}
    enter = ["ip", "netns", "exec", f"{BRIDGE}-{number}", "unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child"]
    return subprocess.Popen(
        [*enter, "bash", "-euc", script],
        env=own | environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
