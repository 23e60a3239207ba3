"""The files around the code keep their promises: verbs, pins, scripts, image, compose, nginx."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SHELL_SCRIPTS = sorted(
    path
    for path in (ROOT / "deploy").iterdir()
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
)
VERBS = ("run", "test", "check", "bench", "demo", "prove", "styles", "clean")
# Used without an import of ours: the text in the sources that makes Django or django-q2 import it.
USED_BY_NAME = {
    "argon2-cffi": "Argon2PasswordHasher",
    "psycopg": "DATABASE_URL",
    "redis": 'Q_CLUSTER["redis"]',
}


def lines(path: str) -> list[str]:
    """The lines of a file that say something."""
    text = (ROOT / path).read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def requirements(path: str) -> list[Requirement]:
    """The requirements of a file, without its includes."""
    return [Requirement(line) for line in lines(path) if not line.startswith("-r")]


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Name and installed version of ``wanted`` and all they pull in, here."""
    found: dict[str, str] = {}
    left = [(item, ("", *item.extras)) for item in wanted]
    while left:
        item, extras = left.pop()
        name = canonicalize_name(item.name)
        if name in found and not item.extras:
            continue
        found[name] = importlib.metadata.version(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                left.append((needed, ("", *needed.extras)))
    return found


def shell(
    *command: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``command``, keeping what it prints."""
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def script(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class TestPins:
    """Two installations are the same."""

    @pytest.mark.parametrize("path", ["requirements.txt", "requirements-dev.txt"])
    def test_are_exact(self, path: str) -> None:
        loose = [str(r) for r in requirements(path) if not str(r.specifier).startswith("==")]
        assert requirements(path)
        assert loose == []

    def test_constraints_hold_the_whole_closure_as_installed(self) -> None:
        pinned = {
            canonicalize_name(r.name): next(iter(r.specifier)).version
            for r in requirements("deploy/constraints.txt")
        }
        wanted = requirements("requirements.txt") + requirements("requirements-dev.txt")
        assert closure(wanted) == pinned

    def test_every_requirement_is_used(self) -> None:
        sources = "".join(
            path.read_text()
            for folder in ("router", "ingest", "dicomweb")
            for path in (ROOT / folder).rglob("*.py")
        )
        modules: dict[str, list[str]] = {}
        for module, names in importlib.metadata.packages_distributions().items():
            for name in names:
                modules.setdefault(canonicalize_name(name), []).append(module)

        def used(name: str) -> bool:
            if name in USED_BY_NAME:
                return USED_BY_NAME[name] in sources
            return any(
                re.search(rf"^\s*(?:import|from) {module}\b|\"{module}[.\"]", sources, re.MULTILINE)
                for module in modules[canonicalize_name(name)]
            )

        assert [r.name for r in requirements("requirements.txt") if not used(r.name)] == []

    def test_every_import_is_required(self) -> None:
        required = {canonicalize_name(r.name) for r in requirements("requirements.txt")}
        owners = importlib.metadata.packages_distributions()
        pattern = re.compile(r"^\s*(?:import|from) ([a-zA-Z0-9_]+)", re.MULTILINE)
        imported = {
            (module, str(path.relative_to(ROOT)))
            for folder in ("router", "ingest", "dicomweb")
            for path in (ROOT / folder).rglob("*.py")
            for module in pattern.findall(path.read_text())
            if module not in sys.stdlib_module_names and module in owners
        }
        missing = sorted(
            (module, path)
            for module, path in imported
            if required.isdisjoint(canonicalize_name(name) for name in owners[module])
        )
        assert imported
        assert missing == []

    def test_every_requirement_is_explained(self) -> None:
        explained = (ROOT / "docs/dependencies.md").read_text()
        wanted = requirements("requirements.txt") + requirements("requirements-dev.txt")
        assert [r.name for r in wanted if r.name not in explained] == []

    def test_npm_lock_names_no_registry(self) -> None:
        lock = json.loads((ROOT / "package-lock.json").read_text())
        packages = {name: entry for name, entry in lock["packages"].items() if name}
        assert packages
        assert [name for name, entry in packages.items() if "resolved" in entry] == []
        assert [name for name, entry in packages.items() if "integrity" not in entry] == []


def _hear_ctrl_c() -> None:
    """A run in the background of a shell inherits an ignored SIGINT; a terminal's does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestMake:
    """The verbs; ``make run`` passes signals on and ends with the product."""

    def test_help_is_the_default_and_names_every_verb(self) -> None:
        printed = shell("make", "-s", cwd=ROOT).stdout
        assert [verb for verb in VERBS if f"make {verb} " not in printed] == []

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """The Makefile beside a product that notes its end and takes a while for it."""
        shutil.copy(ROOT / "Makefile", tmp_path)
        script(tmp_path / "deploy/install-python", "exit 0")
        script(
            tmp_path / ".venv/bin/python",
            'end() { sleep 0.3; echo "$1" >ended; exit 0; }\n'
            "trap 'end TERM' TERM; trap 'end INT' INT\n"
            'echo "$@" >started\n'
            "while :; do sleep 0.05; done",
        )
        return tmp_path

    @pytest.fixture
    def running(self, tree: Path) -> Iterator[subprocess.Popen[bytes]]:
        """``make run`` in a process group of its own, started."""
        environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
        process = subprocess.Popen(
            ["make", "run"],
            cwd=tree,
            env=environment,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,  # noqa: PLW1509 - it sets one signal's disposition
        )
        try:
            deadline = time.monotonic() + 20
            while not (tree / "started").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def test_run_starts_the_product(self, tree: Path, running: subprocess.Popen[bytes]) -> None:
        assert (tree / "started").read_text().split() == ["manage.py", "up"]

    def test_sigterm_to_make_stops_the_product_first(
        self, tree: Path, running: subprocess.Popen[bytes]
    ) -> None:
        running.terminate()
        running.wait(20)
        assert (tree / "ended").read_text().strip() == "TERM"

    def test_ctrl_c_stops_the_product_first(
        self, tree: Path, running: subprocess.Popen[bytes]
    ) -> None:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(20)
        assert (tree / "ended").read_text().strip() == "INT"


class TestScripts:
    """What a fresh machine, CI and the image run."""

    @pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
    def test_is_posix_sh_that_stops_at_errors(self, path: Path) -> None:
        assert shell("sh", "-n", str(path), cwd=ROOT).returncode == 0
        assert os.access(path, os.X_OK)
        assert "\nset -eu\n" in path.read_text()
        assert re.search(r"\[\[|\blocal |\bfunction |<<<|pipefail", path.read_text()) is None

    def test_ci_runs_both_verbs_and_keeps_the_verdict(self, tmp_path: Path) -> None:
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
        script(tmp_path / "deploy/install-debian-packages", "exit 0")
        for verdicts in ({"check": 0, "test": 0}, {"check": 1, "test": 0}, {"check": 0, "test": 1}):
            recipes = (f"{v}:\n\t@echo {v} >>ran; exit {code}\n" for v, code in verdicts.items())
            (tmp_path / "Makefile").write_text("".join(recipes))
            (tmp_path / "ran").unlink(missing_ok=True)
            result = shell(str(tmp_path / ".ci/run"), cwd=tmp_path)
            assert (tmp_path / "ran").read_text().split() == ["check", "test"]
            assert bool(result.returncode) == any(verdicts.values())


class TestInstallPython:
    """``.venv`` is made when missing and brought up to date when a pin changes."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """The script beside pins and an environment whose python notes its calls."""
        (tmp_path / "deploy").mkdir()
        shutil.copy(ROOT / "deploy/install-python", tmp_path / "deploy")
        for name in ("requirements.txt", "requirements-dev.txt", "deploy/constraints.txt"):
            (tmp_path / name).write_text("thing==1\n")
        script(tmp_path / ".venv/bin/python", 'echo "$@" >>calls')
        return tmp_path

    def installs(self, tree: Path, *arguments: str) -> int:
        """Run the script; return how many installations it made."""
        (tree / "calls").write_text("")
        result = shell(str(tree / "deploy/install-python"), *arguments, cwd=tree)
        assert result.returncode == 0, result.stderr
        return (tree / "calls").read_text().count("pip install")

    def test_installs_once_and_again_when_a_pin_changes(self, tree: Path) -> None:
        assert [self.installs(tree), self.installs(tree)] == [1, 0]
        (tree / "deploy/constraints.txt").write_text("thing==2\n")
        assert [self.installs(tree), self.installs(tree)] == [1, 0]

    def test_installs_development_packages_when_asked(self, tree: Path) -> None:
        assert [self.installs(tree), self.installs(tree, "--dev")] == [1, 1]
        assert "-r requirements-dev.txt" in (tree / "calls").read_text()

    def test_failed_installation_is_tried_again(self, tree: Path) -> None:
        script(
            tree / ".venv/bin/python",
            'echo "$@" >>calls\ncase "$*" in *"pip install"*) exit 1 ;; esac',
        )
        assert shell(str(tree / "deploy/install-python"), cwd=tree).returncode == 1
        script(tree / ".venv/bin/python", 'echo "$@" >>calls')
        assert self.installs(tree) == 1

    def test_refuses_an_old_python_with_a_sentence(self, tree: Path) -> None:
        shutil.rmtree(tree / ".venv")
        old = script(tree / "old", 'case "$1" in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac')
        result = shell(
            str(tree / "deploy/install-python"), cwd=tree, env={**os.environ, "PYTHON": str(old)}
        )
        assert result.returncode == 1
        assert "Python 3.11 or newer is needed" in result.stderr
        assert "Python 3.9.2" in result.stderr
        assert not (tree / ".venv").exists()

    def test_makes_an_environment_that_works(self, tree: Path) -> None:
        shutil.rmtree(tree / ".venv")
        for name in ("requirements.txt", "deploy/constraints.txt"):
            (tree / name).write_text("")
        environment = {**os.environ, "PYTHON": sys.executable}
        result = shell(str(tree / "deploy/install-python"), cwd=tree, env=environment)
        assert result.returncode == 0, result.stderr
        made = shell(".venv/bin/python", "-c", "import sys; print(sys.prefix)", cwd=tree)
        assert Path(made.stdout.strip()).resolve() == (tree / ".venv").resolve()


class TestDebianPackages:
    """What is missing is installed by root, or listed: never skipped."""

    def test_every_line_has_a_use_a_package_a_proof_and_a_reason(self) -> None:
        rows = [line.split(None, 3) for line in lines("deploy/debian-packages")]
        assert {row[0] for row in rows} == {"run", "test", "prove"}
        assert [row for row in rows if len(row) != 4] == []

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """The script with a list of one package that exists nowhere, run by an ordinary user."""
        (tmp_path / "deploy").mkdir()
        shutil.copy(ROOT / "deploy/install-debian-packages", tmp_path / "deploy")
        (tmp_path / "deploy/debian-packages").write_text(
            "run here sh the shell\ntest gone no-such-program it is not there\n"
        )
        script(tmp_path / "bin/id", "echo 1000")
        return tmp_path

    def run(self, tree: Path, use: str) -> subprocess.CompletedProcess[str]:
        """Run the script for ``use``."""
        path = f"{tree / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        return shell(str(tree / "deploy/install-debian-packages"), use, cwd=tree, env=environment)

    def test_nothing_to_do_when_all_is_there(self, tree: Path) -> None:
        assert self.run(tree, "run").returncode == 0

    def test_an_ordinary_user_is_told_what_is_missing(self, tree: Path) -> None:
        result = self.run(tree, "test")
        assert result.returncode == 1
        assert "Missing packages: gone" in result.stderr
        assert "here" not in result.stderr

    def test_an_installation_without_its_program_fails(self, tree: Path) -> None:
        script(tree / "bin/id", "echo 0")
        script(tree / "bin/apt-get", 'echo "$@" >>asked')
        policy_before = Path("/usr/sbin/policy-rc.d").exists()
        if os.geteuid() != 0 and not policy_before:
            script(tree / "bin/id", "echo 1000")
        result = self.run(tree, "test")
        assert result.returncode == 1
        assert Path("/usr/sbin/policy-rc.d").exists() == policy_before

    def test_an_unknown_use_is_a_usage_error(self, tree: Path) -> None:
        assert self.run(tree, "all").returncode == 2


class TestTestRunner:
    """``deploy/test`` runs on both databases and loses no failure."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """The script beside a python that notes how pytest was called and fails on request."""
        (tmp_path / "deploy").mkdir()
        shutil.copy(ROOT / "deploy/test", tmp_path / "deploy")
        for name in ("install-debian-packages", "install-python", "install-swift"):
            script(tmp_path / "deploy" / name, "exit 0")
        script(
            tmp_path / ".venv/bin/python",
            'echo "${DATABASE_URL:-sqlite} ${ROUTER_AE_TITLE:-none} $*" >>calls\n'
            'case "${DATABASE_URL:-sqlite}" in $FAIL_ON*) exit 1 ;; esac',
        )
        return tmp_path

    def run(self, tree: Path, *, fail_on: str) -> tuple[int, list[str]]:
        """Run the script; return its exit code and pytest's calls."""
        environment = {
            **os.environ,
            "TEST_DATABASE_URL": "postgres://elsewhere/db",
            "ROUTER_AE_TITLE": "LEAKED",
            "FAIL_ON": fail_on,
        }
        result = shell(str(tree / "deploy/test"), "-k", "some", cwd=tree, env=environment)
        return result.returncode, (tree / "calls").read_text().splitlines()

    def test_runs_on_both_databases_without_the_callers_settings(self, tree: Path) -> None:
        code, calls = self.run(tree, fail_on="none")
        assert code == 0
        assert calls == [
            "sqlite none -m pytest -k some",
            "postgres://elsewhere/db none -m pytest --database-only -k some",
        ]

    @pytest.mark.parametrize("database", ["sqlite", "postgres"])
    def test_fails_when_either_run_fails_and_makes_both(self, tree: Path, database: str) -> None:
        code, calls = self.run(tree, fail_on=database)
        assert code == 1
        assert len(calls) == 2


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    pairs = (line.split(None, 1) for line in text.splitlines() if line and line[0] != "#")
    return [(instruction, rest) for instruction, rest in pairs]


class TestImage:
    """The Dockerfile runs the scripts that are tested above, on files that exist."""

    def test_copies_only_what_is_there(self) -> None:
        copies = [rest.split()[:-1] for word, rest in dockerfile() if word == "COPY"]
        sources = [source for names in copies for source in names]
        assert sources
        assert [source for source in sources if not (ROOT / source).exists()] == []

    def test_runs_scripts_that_were_copied_before(self) -> None:
        copied: set[str] = set()
        ran: list[str] = []
        for word, rest in dockerfile():
            if word == "COPY":
                copied.update(rest.split()[:-1])
            if word == "RUN":
                names = re.findall(r"deploy/[a-z-]+", rest)
                assert copied.issuperset(names)
                ran += names
        assert ran == ["deploy/install-debian-packages", "deploy/install-python"]

    def test_scripts_read_only_what_was_copied(self) -> None:
        copied = {
            source for word, rest in dockerfile() if word == "COPY" for source in rest.split()[:-1]
        }
        assert {"requirements.txt", "deploy/constraints.txt", "deploy/debian-packages"} <= copied

    def test_is_not_root_and_is_watched(self) -> None:
        instructions = dict(dockerfile())
        assert instructions["USER"] == "router"
        assert "deploy/healthcheck" in instructions["HEALTHCHECK"]
        assert instructions["ENTRYPOINT"] == '[".venv/bin/python", "manage.py"]'

    def test_leaves_secrets_and_data_out(self) -> None:
        assert {"secrets", "data", ".venv", ".git", "node_modules"} <= set(lines(".dockerignore"))

    @pytest.mark.parametrize("role", ["web", "receiver"])
    def test_healthcheck_says_that_nobody_listens(self, role: str) -> None:
        environment = {**os.environ, "ROUTER_HTTP_PORT": "1", "ROUTER_DIMSE_PORT": "1"}
        result = shell(sys.executable, "deploy/healthcheck", role, cwd=ROOT, env=environment)
        assert result.returncode == 1
        assert result.stdout.startswith(f"{role}: ConnectionRefusedError")

    def test_healthcheck_wants_a_role(self) -> None:
        result = shell(sys.executable, "deploy/healthcheck", "cook", cwd=ROOT)
        assert result.returncode == 1
        assert "one of web, receiver, worker" in result.stderr


class TestCompose:
    """The compose file describes the whole installation."""

    @pytest.fixture
    def compose(self) -> dict[str, dict[str, dict[str, object]]]:
        """The file, with anchors and merges resolved."""
        loaded: dict[str, dict[str, dict[str, object]]] = yaml.safe_load(
            (ROOT / "compose.yaml").read_text()
        )
        return loaded

    def test_has_every_part(self, compose: dict[str, dict[str, dict[str, object]]]) -> None:
        parts = {"web", "receiver", "worker", "database", "redis", "nginx"}
        assert parts <= set(compose["services"])

    @pytest.mark.parametrize("name", ["web", "receiver", "worker"])
    def test_runs_a_command_of_the_product(
        self, compose: dict[str, dict[str, dict[str, object]]], name: str
    ) -> None:
        service = compose["services"][name]
        assert service["command"] == [name]
        assert service["stop_grace_period"] == "35s"
        assert service["read_only"] is True

    def test_every_secret_volume_and_network_is_declared(
        self, compose: dict[str, dict[str, dict[str, object]]]
    ) -> None:
        for kind in ("secrets", "networks"):
            used = {
                name
                for service in compose["services"].values()
                for name in service.get(kind, [])  # type: ignore[attr-defined]
            }
            assert used == set(compose[kind])

    def test_secrets_are_given_as_files_only(
        self, compose: dict[str, dict[str, dict[str, object]]]
    ) -> None:
        environment = compose["services"]["web"]["environment"]
        assert isinstance(environment, dict)
        secret = [key for key in environment if re.search("SECRET|KEYS|DATABASE_URL|PASSW", key)]
        assert secret
        assert [key for key in secret if not key.endswith("_FILE")] == []
        assert {environment[key] for key in secret} <= {
            f"/run/secrets/{name}" for name in compose["secrets"]
        }

    def test_every_variable_is_a_documented_setting(
        self, compose: dict[str, dict[str, dict[str, object]]]
    ) -> None:
        documented = (ROOT / "docs/settings.md").read_text()
        environment = compose["services"]["web"]["environment"]
        assert isinstance(environment, dict)
        names = [str(key).removesuffix("_FILE") for key in environment]
        assert [name for name in names if f"`{name}`" not in documented] == []

    def test_make_secrets_makes_each_file_and_overwrites_none(
        self, tmp_path: Path, compose: dict[str, dict[str, dict[str, object]]]
    ) -> None:
        (tmp_path / "deploy").mkdir()
        shutil.copy(ROOT / "deploy/make-secrets", tmp_path / "deploy")
        wanted = {str(entry["file"]) for entry in compose["secrets"].values()}
        contents = []
        for _ in range(2):
            result = shell(str(tmp_path / "deploy/make-secrets"), "router.test", cwd=tmp_path)
            assert result.returncode == 0, result.stderr
            contents.append({name: (tmp_path / name).read_bytes() for name in wanted})
        assert contents[0] == contents[1]
        assert len(contents[0]["secrets/secret_key"]) >= 50
        assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    made = shell(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
        *("-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    text = (ROOT / "deploy/nginx.conf").read_text()
    text = text.replace("/run/secrets/tls_certificate", str(certificate))
    text = text.replace("/run/secrets/tls_key", str(key))
    text = text.replace("/var/run/nginx.pid", str(tmp_path / "nginx.pid"))
    (tmp_path / "nginx.conf").write_text(text)
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    nginx = shutil.which("nginx", path=path)
    assert nginx, "nginx is missing: deploy/install-debian-packages test"
    result = shell(nginx, "-t", "-c", str(tmp_path / "nginx.conf"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "path",
    [
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
        *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md"))),
    ],
)
def test_links_lead_somewhere(path: str) -> None:
    folder = (ROOT / path).parent
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / path).read_text())
    assert [link for link in links if not (folder / link).exists()] == []


def test_examples_of_the_configuration_are_yaml() -> None:
    for text in (
        (ROOT / "docs/example.yaml").read_text(),
        *re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL),
    ):
        assert yaml.safe_load(text)["version"] == 1


def test_the_suite_writes_beside_no_installation() -> None:
    from django.conf import settings

    assert str(settings.DATA_DIR) == str(Path(os.environ["ROUTER_DATA_DIR"]).resolve())
    assert ROOT not in Path(settings.DATA_DIR).parents
