"""Management commands of one installation without the second that a start costs.

`python -m tests.commands` loads the product once and then forks for each command, which runs
`manage.py` from its first line to its last in a process of its own, with output and exit code of
its own. Nobody but `tests.product` talks to it. It ends with the process that started it.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 1 << 16
LOADING_SECONDS = 120.0

Completed = subprocess.CompletedProcess[str]


class Commands:
    """What runs the commands of one installation; it is loaded when the first is run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], *, timeout: float) -> Completed:
        """Run a command, like `subprocess.run`; several threads may at once."""
        self._load()
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            socket.socket(socket.AF_UNIX) as link,
        ):
            link.settimeout(timeout)
            link.connect(self._address)
            files = [out.fileno(), err.fileno()]
            socket.send_fds(link, [json.dumps(list(arguments)).encode()], files)
            code = _await_end(link, arguments, timeout)
            out.seek(0)
            err.seek(0)
            return Completed(["manage.py", *arguments], code, out.read(), err.read())

    def end(self) -> None:
        """End the process; the next command loads it anew."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.communicate()
                self._process = None

    def _load(self) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.commands"],
                cwd=ROOT,
                env=dict(self._environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdout is not None
            assert select.select([self._process.stdout], [], [], LOADING_SECONDS)[0]
            name = self._process.stdout.readline().decode().strip()
            assert name, "the product cannot be loaded"
            self._address = f"\0{name}"


def _await_end(link: socket.socket, arguments: Sequence[str], timeout: float) -> int:
    """Return the exit code of the command that a link leads to."""
    with link.makefile("r") as lines:
        pid = int(lines.readline())
        try:
            return int(lines.readline())
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            link.recv(LONGEST)  # its exit code: it has ended
            raise subprocess.TimeoutExpired(["manage.py", *arguments], timeout) from None


# --- the other process ----------------------------------------------------------------------------
def main() -> NoReturn:
    """Serve; what goes on after it is a child with a command of its own."""
    load()
    arguments = serve()
    leave(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Do what `manage.py` does with these arguments; return its exit code."""
    sys.argv = ["manage.py", *arguments]
    try:
        runpy.run_path("manage.py", run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - said as the interpreter says it
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End as the interpreter does, but for taking what was loaded apart: it costs more than all."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def load() -> None:
    """Import what commands import; nothing is connected to yet."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "router.settings")
    import django
    from django.core import checks
    from django.core.management import get_commands, load_command_class

    django.setup()
    checks.run_checks()
    for name, app in get_commands().items():
        if app == "router":
            load_command_class(app, name)


def serve() -> list[str]:
    """Fork for whoever connects; return, in a child, the arguments of its command."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel finds a name
        listener.listen(16)
        print(listener.getsockname()[1:].decode(), flush=True)  # noqa: T201 - for who started us
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                sys.exit()
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return answered(link)
            link.close()


def answered(link: socket.socket) -> list[str]:
    """Fork once more: one runs the command that is asked for, the other waits for its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, files, _, _ = socket.recv_fds(link, LONGEST, 2)
    pid = os.fork()
    if pid:
        link.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(BrokenPipeError):
            link.sendall(f"{code}\n".encode())
        os._exit(0)
    link.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate([nothing, *files]):
        os.dup2(file, number)
        os.close(file)
    arguments: list[str] = json.loads(text)
    return arguments


if __name__ == "__main__":
    main()
