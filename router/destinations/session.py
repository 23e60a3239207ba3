"""Requests to one HTTP server on behalf of a destination: client, credentials, bounded answers.

All connections are made by `router.webclient`, so the address guard holds. What goes wrong is one
of four errors that say how far it had come; no answer of a server is repeated in them.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from router import secrets, webclient
from router.destinations.assertions import NoKey
from router.destinations.base import Context, Settings
from router.destinations.credentials import OAUTH_ERRORS, Credentials, Grant, Token, token_of
from router.destinations.fields import seconds
from router.destinations.outcomes import Outcome
from router.destinations.verdicts import STOPPED, Verdict, judge

MOST_ANSWER_BYTES = 16 << 20

Body = Callable[[], Iterator[bytes]]
"""Begins the body anew: after a 401 it is sent once more."""


class Failed(Exception):
    """A request got no answer; `verdict` says what that means for what was to be sent."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.detail)
        self.verdict = verdict


class NotBegun(Failed):
    """Nothing of the request has left."""


class Broken(Failed):
    """It ended on the way: all, some or nothing of the request has left."""


class StoppedHere(Exception):
    """We are told to stop; raised by a body, and while an answer is awaited."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `body` ends where `MOST_ANSWER_BYTES` are read."""

    status: int
    content_type: str
    retry_after: str
    body: bytes


class Session:
    """One client with its credentials: `with Session(settings, context) as session:`."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._credentials = Credentials(settings)
        self._made: httpx.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._made is not None:
            self._made.close()

    @property
    def _client(self) -> httpx.Client:
        """The client, made when it is first used.

        Raises:
            NotBegun: a certificate or key file is not there or holds none.
        """
        if self._made is None:
            try:
                self._made = _client(self._settings, self._context)
            except OSError as error:  # ssl.SSLError is one
                detail = f"A certificate or key file cannot be used: {error.strerror or error}."
                raise NotBegun(Verdict(Outcome.CONFIGURATION, detail, "configuration")) from error
        return self._made

    def post(self, url: str, body: Body, *, headers: Mapping[str, str], size: int) -> Answer:
        """Send a `body` of `size` bytes, which leaves as it is made.

        Raises:
            NotBegun, Broken: there is no answer. StoppedHere: we are to stop.
        """
        deadline = Deadline(self._context, size, peer=peer_of(url))
        headers = {**headers, "Content-Length": str(size)}
        with self.asked("POST", url, headers, lambda: _watched(body(), deadline)) as response:
            return _whole(response, deadline)

    def get(self, url: str, *, accept: str, method: str = "GET") -> Answer:
        """Ask for something small.

        Raises:
            NotBegun, Broken: there is no answer. StoppedHere: we are to stop.
        """
        deadline = Deadline(self._context, 0, peer=peer_of(url))
        with self.asked(method, url, {"Accept": accept}) as response:
            return _whole(response, deadline)

    @contextmanager
    def asked(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None
    ) -> Iterator[httpx.Response]:
        """Give the answer as soon as its head is there, to be read as it comes.

        Raises:
            NotBegun, Broken: there is no answer. StoppedHere: we are to stop.
        """
        with translated(peer_of(url), self._context):
            response = self._answered(method, url, headers, body)
            try:
                yield response
            finally:
                response.close()

    def _answered(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None
    ) -> httpx.Response:
        authorization = self._authorization()
        response = self._once(method, url, _with(headers, authorization), body)
        if response.status_code == 401 and self._credentials.renew(authorization):
            response.close()
            response = self._once(method, url, _with(headers, self._authorization()), body)
        return response

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None
    ) -> httpx.Response:
        content = body() if body is not None else None
        request = self._client.build_request(method, url, headers=headers, content=content)
        return self._client.send(request, stream=True)

    def _authorization(self) -> str:
        try:
            return self._credentials.header(self._fetch)
        except (secrets.Unresolved, NoKey) as error:
            detail = f"A secret of this destination cannot be had: {error}."
            raise NotBegun(Verdict(Outcome.CONFIGURATION, detail, "configuration")) from error

    def _fetch(self, grant: Grant) -> Token:
        """Ask the token service.

        Raises:
            NotBegun: it gives no token.
        """
        peer = f"The token service {peer_of(grant.url)}"
        deadline = Deadline(self._context, 0, peer=peer)
        try:
            with translated(peer, self._context):
                answer = _whole(self._asked_for_token(grant), deadline)
        except Failed as error:
            raise NotBegun(error.verdict.for_those_after()) from error
        decoded = _decoded(answer.body)
        token = token_of(decoded) if answer.status == 200 else None
        if token is None:
            raise NotBegun(_no_token(peer, answer, decoded))
        return token

    def _asked_for_token(self, grant: Grant) -> httpx.Response:
        headers = _with({"Accept": "application/json"}, grant.authorization)
        request = self._client.build_request("POST", grant.url, data=grant.fields, headers=headers)
        return self._client.send(request, stream=True)


def _no_token(peer: str, answer: Answer, decoded: Any) -> Verdict:
    verdict = judge(answer.status, peer=peer, retry_after=answer.retry_after)
    if verdict.lane == "transport" or answer.status >= 500:
        return Verdict(Outcome.NOT_SENT, verdict.detail, "transport", pause=verdict.pause)
    error = decoded.get("error") if isinstance(decoded, dict) else None
    reason = f": {error}" if error in OAUTH_ERRORS else ""
    detail = f"{peer} gives no token (HTTP {answer.status}){reason}."
    return Verdict(Outcome.CONFIGURATION, detail, "configuration")


def _with(headers: Mapping[str, str], authorization: str) -> dict[str, str]:
    always = {"Accept-Encoding": "identity", **headers}
    return {**always, "Authorization": authorization} if authorization else always


def _client(settings: Settings, context: Context) -> httpx.Client:
    connect = seconds(str(settings["connect_timeout"]))
    answer = seconds(str(settings["response_timeout"]))
    files = [settings.get("client_cert"), settings.get("client_key")]
    pair = tuple(Path(str(one)) for one in files if one)
    return webclient.client(
        timeout=webclient.Timeouts(connect=connect, write=context.stall, read=answer),
        verify=Path(str(settings["ca_file"])) if settings.get("ca_file") else True,
        certificate=(pair[0], pair[1]) if len(pair) == 2 else None,
        abort=context.abort,
        progress=context.progress,
    )


@contextmanager
def translated(peer: str, context: Context) -> Iterator[None]:
    """Turn what the client raises into the errors of this module."""
    try:
        yield
    except webclient.Forbidden as error:
        detail = f"{peer} is not connected to: {error}."
        raise NotBegun(Verdict(Outcome.CONFIGURATION, detail, "configuration")) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        _heed_stop(context, error)
        detail = f"{peer} cannot be reached: {_cause(error)}."
        raise NotBegun(Verdict(Outcome.NOT_SENT, detail, "transport")) from error
    except httpx.RequestError as error:
        _heed_stop(context, error)
        detail = f"The connection to {peer} failed: {_cause(error)}."
        raise Broken(Verdict(Outcome.RETRY, detail, "transport")) from error


def _heed_stop(context: Context, error: Exception) -> None:
    if context.abort():
        raise StoppedHere(STOPPED.detail) from error


def _cause(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection came about in time"
    if isinstance(error, httpx.TimeoutException):
        return "nothing moved for too long"
    return str(error) or "it was closed"


def peer_of(url: str) -> str:
    """Return the address without its query, as sentences name it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Deadline:
    """How long one request may take in all, however steadily it moves; asked for each piece."""

    def __init__(self, context: Context, size: int, *, peer: str) -> None:
        self._context, self._peer = context, peer
        self._end = time.monotonic() + context.deadline(size)

    def check(self) -> None:
        """Raise when it is time to end.

        Raises:
            StoppedHere: we are told to stop. Broken: it takes too long.
        """
        if self._context.abort():
            raise StoppedHere(STOPPED.detail)
        if time.monotonic() > self._end:
            detail = f"The sending to {self._peer} took longer than its deadline allows."
            raise Broken(Verdict(Outcome.RETRY, detail, "transport"))


def _watched(body: Iterator[bytes], deadline: Deadline) -> Iterator[bytes]:
    for piece in body:
        deadline.check()
        yield piece


def _whole(response: httpx.Response, deadline: Deadline) -> Answer:
    """Read an answer, and close it."""
    body = bytearray()
    try:
        for piece in response.iter_raw():
            deadline.check()
            body += piece
            if len(body) > MOST_ANSWER_BYTES:
                break
    finally:
        response.close()
    headers = response.headers
    return Answer(
        response.status_code,
        headers.get("Content-Type", ""),
        headers.get("Retry-After", ""),
        bytes(body[:MOST_ANSWER_BYTES]),
    )


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
