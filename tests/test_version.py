"""The version stands in two places that must agree."""

import tomllib
from pathlib import Path

from router.version import VERSION


def test_version_is_that_of_the_project_file() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()

    assert tomllib.loads(text)["project"]["version"] == VERSION
