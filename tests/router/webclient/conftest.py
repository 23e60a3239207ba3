"""Certificates for the tests of outbound HTTP: an authority, and a pair for both ends."""

import pytest

from tests.ingest import certificates
from tests.router.webclient.far_ends import Files


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca = certificates.authority(folder)
    end = certificates.signed(folder, "end", ca)
    return Files(ca.certificate, (end.certificate, end.key))
