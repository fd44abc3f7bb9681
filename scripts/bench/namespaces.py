"""Hosts with links of limited bandwidth, on one machine: network namespaces, two of them joined by a veth pair, more by a
bridge in a namespace of its own; shaped by tbf.

The token bucket limits what leaves each end; latency is that of the machine. Needs Linux, root, and iproute2.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.errors import UsageError
from scripts.composition.startup import REPOSITORY

PORT = 29577
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
def linked_hosts(number: int) -> Iterator[list[Host]]:
    """Two or more hosts with unlimited links, removed at the end."""
    check_privileges()
    name = f"murmuration-{os.getpid()}"
    hosts = [Host(f"{name}-{i}", f"murmur{i}", f"10.77.0.{i + 1}") for i in range(number)]
    switch = f"{name}-switch"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left behind
    try:
        for namespace in [*(host.namespace for host in hosts), *([switch] if number > 2 else [])]:
            _ip("netns", "add", namespace)
        if number > 2:
            _plug_into_switch(hosts, switch)
        else:
            _join(hosts[0], hosts[1].namespace, hosts[1].interface)
        for host in hosts:
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.namespace, "link", "set", host.interface, "mtu", PACKET_BYTES, "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        yield hosts
    finally:
        for namespace in (*(host.namespace for host in hosts), switch):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
        signal.signal(signal.SIGTERM, before)


def _join(host: Host, namespace: str, interface: str) -> None:
    """Join a host and an interface of another namespace by a veth pair."""
    ends = ["netns", host.namespace, "type", "veth", "peer", "name", interface, "netns", namespace]
    _ip("link", "add", host.interface, *ends)


def _plug_into_switch(hosts: Sequence[Host], switch: str) -> None:
    _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge", "up")
    for place, host in enumerate(hosts):
        _join(host, switch, f"port{place}")
        _ip("-n", switch, "link", "set", f"port{place}", "mtu", PACKET_BYTES, "master", "bridge", "up")


def run_on(hosts: Sequence[Host], script: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a script of this folder on all hosts, one learner per host; returns the record of each.

    The script gets the names of its interface and of the JSON file that it must write, followed by ``arguments``.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{rank}.json" for rank in range(len(hosts))]
        learners = [
            subprocess.Popen(hosts[rank].command(_learner(rank, hosts, script, str(file), *arguments)))
            for rank, file in enumerate(files)
        ]
        try:
            codes = [learner.wait() for learner in learners]
        finally:
            for learner in learners:
                learner.kill()
                learner.wait()
        if any(codes):
            raise RuntimeError(f"learners ended with exit codes {codes}; their messages are above")
        return [json.loads(file.read_text()) for file in files]


def _learner(rank: int, hosts: Sequence[Host], script: str, *arguments: str) -> list[str]:
    place = {
        "RANK": rank,
        "WORLD_SIZE": len(hosts),
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": hosts[0].address,
        "MASTER_PORT": PORT,
        "GLOO_SOCKET_IFNAME": hosts[rank].interface,
        "OMP_NUM_THREADS": 1,
        "PYTHONPATH": REPOSITORY,
    }
    path = str(Path(__file__).with_name(script))
    settings = [f"{key}={value}" for key, value in place.items()]
    return ["env", *settings, sys.executable, path, hosts[rank].interface, *arguments]


def interface_bytes(interface: str) -> int:
    """Bytes that left an interface of this namespace so far, headers included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[8])
    raise RuntimeError(f"no interface {interface} in /proc/net/dev")


def limit_bandwidth(interface: str, rate: str) -> None:
    """Limit what leaves an interface of this namespace to ``rate``, as tc writes it: 1gbit, 200mbit."""
    bucket = ["tbf", "rate", rate, "burst", BURST, "latency", LATENCY]
    subprocess.run(["tc", "qdisc", "replace", "dev", interface, "root", *bucket], check=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()}")
