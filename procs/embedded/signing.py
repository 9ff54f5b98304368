"""Who is asking: API key, signature and timestamp of a request, checked as Binance does.

The signature is HMAC-SHA256 over the query string and the body as sent, put together without anything between them,
less the signature parameter itself. Source: Binance USD-M futures, "General Info", endpoint security.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import parse_qsl

from procs.embedded.errors import ApiError, missing

DEFAULT_WINDOW_MS = 5_000
LARGEST_WINDOW_MS = 60_000
_AHEAD_MS = 1_000
_SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")


def parameters(query: str, body: str) -> dict[str, str]:
    """Parameters of a request from its raw query string and its form body."""
    return dict(parse_qsl(query, keep_blank_values=True)) | dict(parse_qsl(body, keep_blank_values=True))


def check_key(given: str | None, expected: str) -> None:
    """Raises ApiError where the X-MBX-APIKEY header is absent, malformed or not ours."""
    if not given or not given.isalnum():
        raise ApiError(-2014, "API-key format invalid.", 401)
    if not hmac.compare_digest(given, expected):
        raise ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)


def check_signature(query: str, body: str, secret: str, now_ms: int) -> None:
    """Raises ApiError where signature or timestamp of a signed request do not hold."""
    given = parameters(query, body)
    if not given.get("timestamp", "").isdigit():
        raise missing("timestamp")
    if not given.get("signature"):
        raise missing("signature")
    window = given.get("recvWindow", str(DEFAULT_WINDOW_MS))
    if not window.isdigit() or not 0 < int(window) <= LARGEST_WINDOW_MS:
        raise ApiError(-1131, f"recvWindow must be less than {LARGEST_WINDOW_MS}")
    payload = _SIGNATURE.sub("", query).lstrip("&") + _SIGNATURE.sub("", body).lstrip("&")
    expected = hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, given["signature"].lower()):
        raise ApiError(-1022, "Signature for this request is not valid.")
    timestamp = int(given["timestamp"])
    if timestamp >= now_ms + _AHEAD_MS:
        raise ApiError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if now_ms - timestamp > int(window):
        raise ApiError(-1021, "Timestamp for this request is outside of the recvWindow.")
