"""`manage.py receiver` as it is run: ready line, associations, restart on one port, SIGTERM."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.certificates import authority, signed
from tests.ports import free_port
from tests.receivers import make_object
from tests.senders import RawAssociation, send_raw

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A data directory of its own with a migrated database, and a free port."""
    data = tmp_path_factory.mktemp("data")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("ROUTER_")},
        "ROUTER_DATA_DIR": str(data),
        "ROUTER_DIMSE_PORT": str(free_port()),
        "ROUTER_DIMSE_PROCESSES": "2",
        "ROUTER_DISK_SLOW": "2",
        "ROUTER_DISK_REFUSE": "1",
    }
    environment.pop("DATABASE_URL", None)
    manage(environment, "migrate", "-v0").check_returncode()
    return environment


def manage(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def receiver(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "manage.py", "receiver"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def ready_port(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("receiver ready DICOMROUTER@127.0.0.1:"):
            return int(line.rsplit(":", 1)[1])
    raise AssertionError("it did not become ready")


@pytest.mark.parametrize("run", [1, 2])
def test_serves_and_stops_on_sigterm(receiver: "subprocess.Popen[str]", run: int) -> None:
    """Twice on one port: a restart binds at once."""
    port = ready_port(receiver)
    sent = send_raw("127.0.0.1", port, [make_object(run * 10), make_object(run * 10 + 1)])
    assert [one.status for one in sent] == [0, 0]
    receiver.send_signal(signal.SIGTERM)
    assert receiver.wait(30) == 0


def test_a_port_in_use_is_said(
    receiver: "subprocess.Popen[str]", environment: dict[str, str]
) -> None:
    ready_port(receiver)
    second = manage(environment, "receiver")
    assert second.returncode == 1
    assert "The DICOM port cannot be opened" in second.stderr


def test_serves_tls_beside_it(environment: dict[str, str], tmp_path: Path) -> None:
    """The same processes, a second port; a file that is missing is said at once."""
    ca = authority(tmp_path)
    ours = signed(tmp_path, "ours", ca)
    port = free_port()
    secured = {**environment, "ROUTER_DIMSE_TLS_PORT": str(port)}
    secured |= {"ROUTER_DIMSE_TLS_CERT": str(ours.certificate), "ROUTER_DIMSE_TLS_KEY": "none.key"}
    refused = manage(secured, "receiver")
    assert refused.returncode == 1
    assert "cannot be opened" in refused.stderr
    secured |= {"ROUTER_DIMSE_TLS_KEY": str(ours.key)}
    with subprocess.Popen(
        [sys.executable, "manage.py", "receiver"],
        cwd=ROOT,
        env=secured,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("receiver ready"))
        assert f"127.0.0.1:{port} (TLS)" in line
        context = ssl.create_default_context(cafile=ca.certificate)
        thing = make_object(77)
        contexts = [(thing.sop_class_uid, [thing.transfer_syntax])]
        with RawAssociation("127.0.0.1", port, contexts=contexts, tls=context) as assoc:
            assert assoc.store(thing)[0] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
