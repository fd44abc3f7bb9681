"""Two hosts with a link of limited bandwidth, on one machine: network namespaces joined by a veth pair, shaped by tbf.

The token bucket limits what leaves each end; latency is that of the machine. Needs Linux, root, and iproute2.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scripts.startup import UsageError

BURST = "1mb"  # a smaller bucket than this throttles traffic in both directions at once; it must be small to a message
PACKET_BYTES = "65000"  # stands for the segmentation and coalescing of network cards, which cores would have to do here
LATENCY = "50ms"  # longest wait in the bucket's queue before packets are dropped


@dataclass(frozen=True, slots=True)
class Host:
    """One end of the link."""

    namespace: str
    interface: str
    address: str

    def command(self, arguments: list[str]) -> list[str]:
        """The command line that runs ``arguments`` in this namespace."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


def check_privileges() -> None:
    """Raise UsageError, in one line, where namespaces cannot be made."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        raise UsageError(f"emulated links need {' and '.join(missing)}; install iproute2 (Linux only)")
    if os.geteuid() != 0:
        raise UsageError("emulated links need root, to make network namespaces; run the same command with sudo")


@contextmanager
def linked_pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts with an unlimited link, removed at the end."""
    check_privileges()
    pair = tuple(Host(f"murmuration-{os.getpid()}-{i}", f"murmur{i}", f"10.77.0.{i + 1}") for i in range(2))
    try:
        for host in pair:
            _ip("netns", "add", host.namespace)
        first, second = pair
        ends = [["netns", host.namespace] for host in pair]
        _ip("link", "add", first.interface, *ends[0], "type", "veth", "peer", "name", second.interface, *ends[1])
        for host in pair:
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.namespace, "link", "set", host.interface, "mtu", PACKET_BYTES, "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        yield first, second
    finally:
        for host in pair:
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)


def limit_bandwidth(interface: str, rate: str) -> None:
    """Limit what leaves an interface of this namespace to ``rate``, as tc writes it: 1gbit, 200mbit."""
    bucket = ["tbf", "rate", rate, "burst", BURST, "latency", LATENCY]
    subprocess.run(["tc", "qdisc", "replace", "dev", interface, "root", *bucket], check=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()}")
