"""What a worker knows of the host it runs on: who it is, and which network interface leads to the others.

Two workers are on one host when they see the same files and the same network: the same boot, host name, network
namespace and mount namespace. Containers and network namespaces of one machine therefore count as hosts of their own.
"""

import hashlib
import socket
import struct
import uuid
from pathlib import Path


def identity() -> str:
    """`name/digest`, equal for two processes exactly when they share host name, boot, network and mounts."""
    name = socket.gethostname()
    facts = [name, _boot(), _namespace("net"), _namespace("mnt")]
    return f"{name}/{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:12]}"


def interface_towards(address: str) -> str | None:
    """The network interface whose IPv4 address this host would use to reach `address`; None if it cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # a datagram socket sends nothing here: it only picks a route
            own = probe.getsockname()[0]
        except OSError:
            return None
        return next((name for _, name in socket.if_nameindex() if _address_of(name, probe) == own), None)


def loopback() -> str | None:
    """The interface that holds 127.0.0.1."""
    return interface_towards("127.0.0.1")


def _address_of(interface: str, probe: socket.socket) -> str | None:
    try:
        import fcntl  # absent on Windows, where gloo picks its interface by itself
    except ImportError:
        return None
    request = struct.pack("256s", interface.encode()[:15])
    try:
        answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
    except OSError:  # an interface without an IPv4 address
        return None
    return socket.inet_ntoa(answer[20:24])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.getnode())


def _namespace(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""
