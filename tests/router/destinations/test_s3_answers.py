"""What the answers of an S3 store mean, from a server that gives any answer asked for."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from router.destinations import KINDS
from router.destinations.base import Context, Result
from tests.router.destinations.objects import made

Answering = Callable[..., Result]
PATIENT = "DOE^JOHN"


class _Store(BaseHTTPRequestHandler):
    """Has no object, and answers every PUT as the test says."""

    protocol_version = "HTTP/1.1"
    status, code, headers_given = 200, "", {}  # type: ignore[var-annotated]
    requests = 0

    def do_HEAD(self) -> None:
        self._answer(404, b"")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        error = f"<Error><Code>{self.code}</Code><Message>{PATIENT}</Message></Error>"
        self._answer(self.status, error.encode() if self.code else b"")

    def _answer(self, status: int, body: bytes) -> None:
        type(self).requests += 1
        self.send_response(status)
        for name, value in self.headers_given.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """Return a function that sends one object to a store with a certain answer."""
    monkeypatch.setenv("S3_KEY", "key")
    monkeypatch.setenv("S3_SECRET", "secret")
    handler = type("_Told", (_Store,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def send(
        status: int, code: str, headers: dict[str, str] | None = None, **settings: object
    ) -> Result:
        handler.status, handler.code, handler.requests = status, code, 0  # type: ignore[attr-defined]
        handler.headers_given = headers or {}  # type: ignore[attr-defined]
        form = KINDS["s3"].form(
            {
                "endpoint": f"http://127.0.0.1:{server.server_port}",
                "bucket": "images",
                "access_key_env": "S3_KEY",
                "secret_key_env": "S3_SECRET",
            }
            | settings
        )
        assert form.is_valid(), form.errors
        [result] = KINDS["s3"].sender(form.cleaned_data).send([made(tmp_path)], Context())
        assert PATIENT not in result.detail
        assert handler.requests == 2, "nothing is tried twice within one try"  # type: ignore[attr-defined]
        return result

    yield send
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    ("status", "code", "outcome", "lane"),
    [
        (403, "AccessDenied", "configuration", "configuration"),
        (403, "InvalidAccessKeyId", "configuration", "configuration"),
        (403, "SignatureDoesNotMatch", "configuration", "configuration"),
        (403, "RequestTimeTooSkewed", "configuration", "configuration"),
        (403, "", "configuration", "configuration"),
        (401, "", "configuration", "configuration"),
        (404, "NoSuchBucket", "configuration", "configuration"),
        (400, "InvalidStorageClass", "configuration", "configuration"),
        (400, "KMS.NotFoundException", "configuration", "configuration"),
        (400, "EntityTooLarge", "data_error", None),
        (400, "SomethingElse", "data_error", None),
        (413, "", "data_error", None),
        (400, "BadDigest", "retry", None),
        (400, "RequestTimeout", "retry", "transport"),
        (409, "OperationAborted", "retry", None),
        (409, "ConditionalRequestConflict", "retry", None),
        (429, "TooManyRequests", "retry", "transport"),
        (500, "InternalError", "retry", None),
        (502, "", "retry", "transport"),
        (503, "SlowDown", "retry", "transport"),
        (503, "ServiceUnavailable", "retry", "transport"),
        (503, "", "retry", "transport"),
        (504, "", "retry", "transport"),
        (507, "XMinioStorageFull", "retry", "transport"),
    ],
)
def test_answers(
    answering: Answering, status: int, code: str, outcome: str, lane: str | None
) -> None:
    result = answering(status, code)
    assert (result.outcome, result.lane) == (outcome, lane), result.detail
    assert result.status == int(str(status), 16)
    assert str(status) in result.detail
    assert code in result.detail


def test_another_region_is_named(answering: Answering) -> None:
    headers = {"x-amz-bucket-region": "eu-central-1", "Location": "http://127.0.0.1:9/"}
    result = answering(301, "PermanentRedirect", headers)
    assert (result.outcome, result.lane) == ("configuration", "configuration")
    assert "eu-central-1" in result.detail


def test_a_destination_may_see_it_otherwise(answering: Answering) -> None:
    outcomes = {"0503": "data_error", "040x": "few_tries"}
    assert answering(503, "SlowDown", outcomes=outcomes).outcome == "data_error"
    assert answering(403, "AccessDenied", outcomes=outcomes).outcome == "few_tries"


def test_a_code_that_is_no_code_is_not_repeated(answering: Answering) -> None:
    result = answering(400, "x y; DOE^JANE")
    assert "DOE" not in result.detail
