"""OpenStack Swift with its S3 interface on loopback: account, container, object and proxy server.

`with Swift(folder) as swift:` gives an endpoint that checks signatures and digests as a store of
the trade does. It runs in the environment of `deploy/install-swift`.
"""

import getpass
import json
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import httpx
from botocore.config import Config

from tests.ports import free_port

PYTHON = Path(__file__).resolve().parents[2] / ".swift/bin/python"
ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
STORES = ("account", "container", "object")
READY_SECONDS = 60.0

COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
workers = 0
user = {user}
log_level = WARNING
"""
STORE = """
[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck s3api tempauth slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
dns_compliant_bucket_names = false

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo
"""
SWIFT = """
[swift-hash]
swift_hash_path_suffix = tests

[storage-policy:0]
name = one
default = yes
"""
RINGS = """
import json, sys
from swift.common.ring import RingBuilder
folder, ports = sys.argv[1], json.loads(sys.argv[2])
for name, port in ports.items():
    builder = RingBuilder(2, 1, 0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1",
                     "port": port, "device": "one", "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""
SERVE = """
import sys
from swift.common import utils
folder, name = sys.argv[1:]
utils.set_swift_dir(folder)
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(f"{folder}/{name}.conf", f"{name}-server"))
"""


class Swift:
    """The four processes; they and what they store are below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        """Where the S3 interface is."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, endpoint: str = "", *, secret_key: str = SECRET_KEY) -> Any:
        """Return a plain boto3 client, to look at what was written."""
        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def __enter__(self) -> Self:
        assert PYTHON.exists(), "Swift is missing: deploy/install-swift"
        (self._folder / "devices/one").mkdir(parents=True)
        (self._folder / "swift.conf").write_text(SWIFT)
        ports = {name: free_port() for name in (*STORES, "proxy")}
        self.port = ports.pop("proxy")
        rings = [str(PYTHON), "-c", RINGS, str(self._folder), json.dumps(ports)]
        subprocess.run(rings, check=True, timeout=60)
        for name, port in ports.items():
            self._start(name, port, STORE.format(name=name))
        self._start("proxy", self.port, PROXY)
        try:
            self._await([*ports.values(), self.port])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(10)

    def _start(self, name: str, port: int, text: str) -> None:
        common = COMMON.format(port=port, folder=self._folder, user=getpass.getuser())
        (self._folder / f"{name}.conf").write_text(common + text)
        with (self._folder / f"{name}.log").open("wb") as log:
            command = [str(PYTHON), "-c", SERVE, str(self._folder), name]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _await(self, ports: list[int]) -> None:
        end = time.monotonic() + READY_SECONDS
        while not all(_listens(port) for port in ports) or not self._is_healthy():
            ended = [process for process in self._processes if process.poll() is not None]
            assert not ended, self._logs()
            assert time.monotonic() < end, self._logs()
            time.sleep(0.1)

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.endpoint}/healthcheck", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def _logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
