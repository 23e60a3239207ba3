"""Outbound HTTP: time-outs, TLS, the address guard (R50), no redirects, no proxies; for boto3 too.

Every HTTP target of a destination is reached through `client` or `boto_client`. Who may be spoken
to is decided here; what is said, and what an answer means, is not.
"""

from router.webclient.boto import BotoForbidden, Keys, boto_client
from router.webclient.guard import Forbidden, check_url
from router.webclient.http import Timeouts, client

__all__ = [
    "BotoForbidden",
    "Forbidden",
    "Keys",
    "Timeouts",
    "boto_client",
    "check_url",
    "client",
]
