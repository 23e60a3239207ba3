"""The house stays honest: access, commands, settings, destinations, layers, size, words.

Everything is found by looking, never listed by hand; the few lists here are of what may be so.
"""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver

from router.destinations.form import DestinationForm

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("router", "ingest", "dicomweb")

PUBLIC_ADDRESSES = {"healthz", "readyz", "login/", "logout/", "theme/"}
"""The short list: the only addresses that an anonymous person may reach."""

SIGNED_IN_ADDRESSES = {"", "password/"}
"""Addresses for everybody who is signed in, whatever the role."""

LONG_MODULES = re.compile(r"(_table|_tables|/migrations/)")
"""Modules that hold a data table may be long."""

TEXT_SUFFIXES = {
    *(".py", ".md", ".txt", ".toml", ".yaml", ".yml", ".json", ".html", ".css", ".js", ".svg"),
    *(".conf", ".cfg", ".ini", ".sh", ""),
}


@cache
def tracked() -> tuple[Path, ...]:
    """Every text file of the tree that is, or is about to be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    paths = (ROOT / name for name in listed if name)
    return tuple(path for path in paths if path.is_file() and path.suffix in TEXT_SUFFIXES)


def python_files() -> list[Path]:
    """The product's own modules."""
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def name_of(path: Path) -> str:
    """The path below the project."""
    return str(path.relative_to(ROOT))


def test_there_is_something_to_look_at() -> None:
    assert len(python_files()) > 40
    assert len(tracked()) > 100


class TestAccess:
    """Deny by default: every address says who may reach it."""

    @dataclass(frozen=True)
    class Address:
        """A route with its view."""

        route: str
        view: Callable[..., object]

        def marks(self) -> set[str]:
            """Which marks of access the view carries."""
            names = ("public", "signed_in", "required_permission", "access_by_method")
            return {name for name in names if getattr(self.view, name, None)}

    @classmethod
    def addresses(cls) -> list["TestAccess.Address"]:
        """Every address, nested ones included."""

        def walk(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[cls.Address]:  # type: ignore[name-defined]
            for entry in patterns:
                route = prefix + str(entry.pattern)
                if isinstance(entry, URLResolver):
                    yield from walk(entry.url_patterns, route)
                else:
                    yield cls.Address(route, entry.callback)

        return list(walk(get_resolver().url_patterns, ""))

    def test_the_resolver_has_addresses(self) -> None:
        assert len(self.addresses()) >= 8

    def test_every_view_carries_exactly_one_mark(self) -> None:
        wrong = {a.route: a.marks() for a in self.addresses() if len(a.marks()) != 1}
        assert wrong == {}

    def test_public_views_are_on_the_short_list(self) -> None:
        public = {a.route for a in self.addresses() if "public" in a.marks()}
        assert public <= PUBLIC_ADDRESSES

    def test_views_for_everybody_signed_in_are_on_the_short_list(self) -> None:
        open_to_all = {a.route for a in self.addresses() if "signed_in" in a.marks()}
        assert open_to_all <= SIGNED_IN_ADDRESSES

    def test_permissions_are_those_of_the_matrix(self) -> None:
        from router.models import Permission

        asked = {
            str(getattr(a.view, "required_permission", ""))
            for a in self.addresses()
            if "required_permission" in a.marks()
        }
        for address in self.addresses():
            by_method = getattr(address.view, "access_by_method", {})
            asked |= {str(permission) for permission, _scope in by_method.values()}
        assert asked
        assert asked <= {str(value) for value in Permission.values}

    def test_the_middleware_that_refuses_is_installed(self) -> None:
        order = settings.MIDDLEWARE
        refuses = order.index("router.middleware.RequirePermission")
        knows_user = order.index("django.contrib.auth.middleware.AuthenticationMiddleware")
        assert refuses > knows_user


class TestCommands:
    """Every management command is tested by name."""

    @staticmethod
    def commands() -> list[str]:
        """The names of our commands."""
        folders = (ROOT / name / "management" / "commands" for name in PACKAGES)
        files = (path for folder in folders for path in folder.glob("*.py"))
        return sorted(path.stem for path in files if not path.stem.startswith("_"))

    def test_processes_and_verbs_of_the_contract_exist(self) -> None:
        wanted = {
            *("up", "web", "receiver", "worker", "apply_config", "export_config"),
            *("import_dicom", "wait_idle", "create_user", "create_token"),
            *("routing_report", "verify_ledger"),
        }
        assert wanted - set(self.commands()) == set()

    def test_each_is_named_by_a_test(self) -> None:
        here = Path(__file__)
        tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != here)
        assert [name for name in self.commands() if not re.search(rf'"{name}"', tests)] == []


class TestSettings:
    """The settings page and the settings module say the same."""

    VARIABLE = re.compile(r"\b(?:ROUTER_[A-Z][A-Z_]*[A-Z]|DATABASE_URL)\b")

    def read(self) -> set[str]:
        """Variables that the module names in a string of its own (not in a docstring)."""
        tree = ast.parse((ROOT / "router/settings.py").read_text())
        strings = (
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        return {text for text in strings if self.VARIABLE.fullmatch(text)}

    def documented(self) -> set[str]:
        """Variables with a row of their own."""
        page = (ROOT / "docs/settings.md").read_text()
        return set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))

    def test_every_variable_read_is_documented(self) -> None:
        assert self.read()
        assert self.read() - self.documented() == set()

    def test_every_documented_variable_is_read(self) -> None:
        assert self.documented() - self.read() == set()

    def test_only_the_settings_module_reads_the_environment(self) -> None:
        reads = re.compile(r"os\.(environ(?!\.setdefault\(\"DJANGO_SETTINGS_MODULE\")|getenv)")
        # These two hand the whole environment, or one path of ours in it, to child processes.
        passing_on = {"router/management/processes.py", "router/stopping.py"}
        passing_on |= {"router/crashpoints.py"}  # for proofs only, never in production
        # The variables of destinations, whose names are part of the configuration.
        named = {"router/secrets.py"}
        allowed = {"router/settings.py"} | passing_on | named
        readers = {name_of(p) for p in python_files() if reads.search(p.read_text())}
        assert readers - allowed == set()

    def test_documents_name_no_variable_that_does_not_exist(self) -> None:
        known = self.documented() | {"ROUTER_TEST_DATA", "ROUTER_CRASH_POINTS"}
        for path in tracked():
            if path.suffix == ".md" or path.name == "compose.yaml":
                named = self.VARIABLE.findall(path.read_text())
                names = {name.removesuffix("_FILE") for name in named}
                assert names - known == set(), name_of(path)


class TestDestinationKinds:
    """A kind is whole: form, sender, verification, test, paragraph."""

    @staticmethod
    def kinds() -> dict[str, object]:
        """Every kind by name."""
        found = importlib.import_module("router.destinations").KINDS
        return dict(found) if isinstance(found, dict) else {kind.name: kind for kind in found}

    def test_the_two_kinds_of_the_first_part_exist(self) -> None:
        assert {"dicom", "folder"} <= set(self.kinds())

    def test_each_has_a_form_with_its_endpoint_fields(self) -> None:
        for name, kind in self.kinds().items():
            fields = set(kind.form.base_fields)  # type: ignore[attr-defined]
            assert fields, name
            assert set(kind.endpoint_fields) <= fields, name  # type: ignore[attr-defined]

    def test_each_sender_sends_and_verifies(self) -> None:
        for name in self.kinds():
            module = ROOT / "router" / "destinations" / name
            files = [module.with_suffix(".py")] if module.with_suffix(".py").exists() else []
            files += sorted(module.glob("*.py"))
            functions = {
                node.name
                for path in files
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            assert {"send", "verify"} <= functions, name

    def test_each_has_a_test_module_and_a_paragraph(self) -> None:
        page = (ROOT / "docs/destinations.md").read_text()
        for name, kind in self.kinds().items():
            assert list((ROOT / "tests/router/destinations").glob(f"test_{name}*.py")), name
            _, found, paragraph = page.partition(f"\n## {name}\n")
            assert found, name
            paragraph = paragraph.partition("\n## ")[0]
            shared = set(DestinationForm.base_fields)
            assert {f for f in shared if f"`{f}`" not in page} == set()
            fields = set(kind.form.base_fields) - shared  # type: ignore[attr-defined]
            assert {f for f in fields if f"`{f}`" not in paragraph} == set(), name


class TestLayers:
    """Imports run downwards only, and the contracts that say so hold."""

    def test_import_contracts_hold(self) -> None:
        result = subprocess.run(
            [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr

    def test_destinations_know_no_rows(self) -> None:
        folder = ROOT / "router/destinations"
        orm = re.compile(r"^\s*(?:from|import) django\.db", re.MULTILINE)
        assert [name_of(p) for p in folder.rglob("*.py") if orm.search(p.read_text())] == []

    def test_the_core_has_no_clock_chance_or_input(self) -> None:
        impure = re.compile(
            r"^\s*(?:from|import) (?:time|random|secrets|socket|os|subprocess|threading)\b"
            r"|\bdatetime\.now\(|\bdate\.today\(",
            re.MULTILINE,
        )
        folder = ROOT / "router/dicom"
        assert [name_of(p) for p in folder.rglob("*.py") if impure.search(p.read_text())] == []

    def test_imports_are_absolute(self) -> None:
        relative = re.compile(r"^\s*from \.", re.MULTILINE)
        assert [name_of(p) for p in python_files() if relative.search(p.read_text())] == []


class TestHouse:
    """Size, docstrings and words."""

    @pytest.mark.parametrize("path", python_files(), ids=name_of)
    def test_module_is_short_and_says_what_it_is_for(self, path: Path) -> None:
        text = path.read_text()
        if "/migrations/" in name_of(path) or not text.strip():
            return
        assert ast.get_docstring(ast.parse(text)), "a module begins with what it is responsible for"
        if not LONG_MODULES.search(name_of(path)):
            assert len(text.splitlines()) < 400

    def test_no_machine_paths_and_no_registry_hosts(self) -> None:
        # Put together here so that this file does not hold what it forbids.
        words = ["/wo" + "rk/", "/ro" + "ot/", "pypi" + ".org", "npmjs" + ".org", "find-" + "links"]
        pattern = re.compile("|".join(map(re.escape, words)))
        assert [name_of(p) for p in tracked() if pattern.search(p.read_text())] == []

    def test_no_open_end_without_a_number(self) -> None:
        pattern = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b(?!\(#?\d+\)| #\d+)")
        assert [name_of(p) for p in tracked() if pattern.search(p.read_text())] == []

    def test_no_forgotten_breakpoint_or_stub(self) -> None:
        pattern = re.compile(r"\bbreak" + r"point\(|\bset_" + r"trace\(|raise NotImplemented")
        assert [name_of(p) for p in python_files() if pattern.search(p.read_text())] == []

    def test_no_test_is_skipped(self) -> None:
        pattern = re.compile(
            r"mark\.sk" + r"ip|pytest\.sk" + r"ip|mark\.x" + r"fail|importor" + r"skip"
        )
        tests = (ROOT / "tests").rglob("*.py")
        assert [name_of(p) for p in tests if pattern.search(p.read_text())] == []

    def test_who_catches_everything_raises_again_logs_the_traceback_or_says_why(self) -> None:
        def silent(path: Path) -> Iterator[str]:
            lines = path.read_text().splitlines()
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ExceptHandler):
                    continue
                caught = ast.unparse(node.type) if node.type else "BaseException"
                if caught not in {"Exception", "BaseException"}:
                    continue
                body = ast.unparse(ast.Module(node.body, []))
                explained = re.search(r"# noqa: BLE001\W+\w", lines[node.lineno - 1])
                if not explained and not re.search(
                    r"^\s*raise\b|\.exception\(", body, re.MULTILINE
                ):
                    yield f"{name_of(path)}:{node.lineno}"

        assert [place for path in python_files() for place in silent(path)] == []

    def test_file_names_say_a_noun(self) -> None:
        empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
        assert [name_of(p) for p in python_files() if p.stem in empty] == []

    def test_templates_carry_no_inline_script_or_style(self) -> None:
        inline = re.compile(r"<script(?![^>]*\bsrc=)|<style\b|\sstyle=|\son[a-z]+=|javascript:")
        templates = sorted((ROOT / "templates").rglob("*.html"))
        assert templates
        assert [name_of(p) for p in templates if inline.search(p.read_text())] == []
