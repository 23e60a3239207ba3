"""The sandbox against children that crash, hang, spin, eat, flood and lie: only they are hit."""

import io
import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from router import sandbox
from router.sandbox import Limits, SandboxError
from tests.product import wait_until

PATIENT = Limits(cpu=2)


def run(
    misdeed: str, data: bytes = b"", *, most: int = 1 << 20, limits: Limits = PATIENT, port: int = 1
) -> bytes:
    answer = io.BytesIO()
    job = {"misdeed": misdeed, "port": port}
    sandbox.run(
        job, io.BytesIO(data), answer, most=most, limits=limits, entry="tests.hostile_child"
    )
    return answer.getvalue()


def children() -> set[str]:
    """Processes that run such a child of ours, at any depth: each is told whose it is."""
    ours = f'"parent": {os.getpid()}}}'.encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes()
            if b"tests.hostile_child" in line and ours in line:
                found.add(path.parent.name)
    return found


def test_gives_back_what_the_child_answers() -> None:
    data = bytes(range(256)) * 3000
    assert run("echo", data) == data


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        ("crash", r"crashed \(SIGSEGV\)"),
        ("spin", "over 2 seconds of processor time"),
        ("eat", "more than 1024 MiB of memory"),
        ("flood", "more than the image can hold"),
    ],
)
def test_a_misdeed_ends_the_child_alone(misdeed: str, words: str) -> None:
    with pytest.raises(SandboxError, match=words):
        run(misdeed, bytes(1 << 20))
    assert run("echo", b"still here") == b"still here"
    assert children() == set()


@pytest.mark.parametrize("misdeed", ["hang", "ignore"])
def test_what_does_not_end_is_ended(misdeed: str) -> None:
    with pytest.raises(SandboxError, match="not done within 1 seconds"):
        run(misdeed, bytes(1 << 20), limits=Limits(wall=1.0))
    assert children() == set()


def test_what_the_child_leaves_behind_is_ended() -> None:
    """A grandchild is not ours to wait for: the kernel takes it away a moment after its kill."""
    with pytest.raises(SandboxError, match="not done within 1 seconds"):
        run("fork", bytes(1 << 20), limits=Limits(wall=1.0))
    wait_until(lambda: not children(), seconds=30, what="the end of the grandchild", every=0.01)


def test_a_child_is_found_while_it_runs() -> None:
    """What the other tests look for is there to be seen."""
    seen: list[set[str]] = []

    def stop() -> bool:
        seen.append(children())
        return bool(seen[-1])

    with pytest.raises(sandbox.Abandoned):
        sandbox.run(
            {"misdeed": "hang"},
            io.BytesIO(),
            io.BytesIO(),
            most=1,
            stop=stop,
            entry="tests.hostile_child",
        )
    assert len(seen[-1]) == 1


def test_the_childs_reason_is_kept_short_and_printable() -> None:
    with pytest.raises(SandboxError) as caught:
        run("talk")
    assert str(caught.value) == "the fault is here [31m"


def test_the_child_has_no_environment_no_network_and_no_files() -> None:
    asked = subprocess.run(["unshare", "--net", "--map-root-user", "true"], check=False)
    may_unshare = asked.returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = json.loads(run("facts", port=listener.getsockname()[1]))
    assert told == {
        "environment": sorted(sandbox._ENVIRONMENT),
        "network": not may_unshare,
        "group": True,
        "core": 0,
    }
    assert run("write") == b""


def test_a_stop_ends_the_child() -> None:
    began = time.monotonic()
    with pytest.raises(sandbox.Abandoned):
        sandbox.run(
            {"misdeed": "hang"},
            io.BytesIO(),
            io.BytesIO(),
            most=1,
            stop=lambda: time.monotonic() - began > 0.5,
            entry="tests.hostile_child",
        )
    assert children() == set()


def test_a_source_that_fails_leaves_no_child() -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        sandbox.run(
            {"misdeed": "echo"}, Broken(), io.BytesIO(), most=1, entry="tests.hostile_child"
        )
    assert children() == set()
