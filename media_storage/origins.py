"""Which web pages may act for a signed-in user, and what CORS tells their browsers.

A multipart form needs no CORS preflight, so without this rule any site could upload as whoever visits it. The rule
and the headers come from one allow-list; a CORS extension would need the same list and know only half of the rule.
"""

from werkzeug.datastructures import Headers

from media_storage.errors import OriginNotAllowed

PREFLIGHT_SECONDS = 600  # how long browsers may remember a preflight

CORS = {
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Expose-Headers": "Location, X-Request-ID, Retry-After",
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST, DELETE",
    "Access-Control-Allow-Headers": "Content-Type, X-Request-ID",
    "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
}


def check(headers: Headers, allowed: frozenset[str]) -> None:
    """Raises OriginNotAllowed when a page of another site sent this; servers send neither header and may."""
    origin = headers.get("Origin")
    if origin is None:
        if headers.get("Sec-Fetch-Site") == "cross-site":
            raise OriginNotAllowed
    elif origin not in allowed:
        raise OriginNotAllowed


def cors(headers: Headers, allowed: frozenset[str]) -> dict[str, str]:
    """The response headers for a request with `headers`; `allowed` are exact origins, never a pattern."""
    origin = headers.get("Origin")
    if origin not in allowed:
        return {"Vary": "Origin"}
    return {"Vary": "Origin", "Access-Control-Allow-Origin": origin or "", **CORS}


def preflight(headers: Headers, allowed: frozenset[str]) -> dict[str, str]:
    """What a preflight is answered beside `cors`. Raises OriginNotAllowed."""
    check(headers, allowed)
    return PREFLIGHT
