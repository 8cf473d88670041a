"""
OpenStack Swift with its s3api, on the loopback: an S3 server that is not ours and is strict.

Four plain child processes of this Python: account, container and object server, and the proxy
that speaks S3. No root, no memcached, no /etc/swift; the data folder needs user xattrs, as ext4
and tmpfs have them.
"""

import getpass
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
START_TIMEOUT_S = 30

_RUN = """
import sys
from swift.common import utils
utils.SWIFT_CONF_FILE = sys.argv[1]
utils.validate_hash_conf()
from swift.common.storage_policy import reload_storage_policies
reload_storage_policies()
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(sys.argv[2], sys.argv[3]))
"""
_SWIFT = """
[swift-hash]
swift_hash_path_suffix = vidgen
[storage-policy:0]
name = one
default = yes
"""
_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
user = {user}
workers = 0
fallocate_reserve = 0
log_level = ERROR
"""
_BACKEND = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for arg in sys.argv[2:]:
    kind, port = arg.split(":")
    ring = RingBuilder(4, 1, 1)
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                  "device": "one", "weight": 1.0})
    ring.rebalance(seed=1)
    ring.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""


def is_installed() -> bool:
    """Whether Swift can run here: its erasure coding has wheels for Linux only."""
    return sys.platform == "linux" and find_spec("swift") is not None


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Give the endpoint of a running Swift; its four processes are gone afterwards."""
    kinds = ("account", "container", "object", "proxy")
    ports = dict(zip(kinds, _free_ports(len(kinds)), strict=True))
    (folder / "devices" / "one").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT)
    for kind, port in ports.items():
        text = _COMMON.format(port=port, folder=folder, user=getpass.getuser())
        text += _PROXY if kind == "proxy" else _BACKEND.format(kind=kind)
        (folder / f"{kind}.conf").write_text(text)
    rings = [f"{kind}:{ports[kind]}" for kind in kinds[:3]]
    subprocess.run([sys.executable, "-W", "ignore", "-c", _RINGS, str(folder), *rings], check=True)
    with ExitStack() as stack:
        children = [stack.enter_context(_child(folder, kind)) for kind in kinds]
        _wait_until_ready(folder, children, list(ports.values()))
        yield f"http://127.0.0.1:{ports['proxy']}"


@contextmanager
def _child(folder: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / f"{kind}.log"
    conf = folder / f"{kind}.conf"
    app = f"{kind}-server"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        _RUN,
        str(folder / "swift.conf"),
        str(conf),
        app,
    ]
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file, cwd=folder)
        try:
            yield child
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()


def _wait_until_ready(
    folder: Path, children: list[subprocess.Popen[bytes]], ports: list[int]
) -> None:
    """Look at all four until they answer; a server that is starting tells nobody."""
    ends_at = time.monotonic() + START_TIMEOUT_S
    for child, port in zip(children, ports, strict=True):
        while not _listens(port):
            if child.poll() is not None or time.monotonic() > ends_at:
                logs = "\n".join(log.read_text() for log in folder.glob("*.log"))
                raise RuntimeError(f"Swift did not start:\n{logs[-4000:]}")
            time.sleep(0.05)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
