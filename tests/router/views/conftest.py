"""A seeded database for the tests of pages."""

import pytest

from router.models import Study
from tests.browser.seed import seed


@pytest.fixture
def story(roles: None) -> Study:
    """Fill the database and return the study with the longest story."""
    return seed()
