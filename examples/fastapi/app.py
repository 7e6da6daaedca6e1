"""A chat backend in FastAPI whose users share pictures through media-storage. In this folder: ``uvicorn app:app --port 8002``.

Copy `forward`, `Body` and `problem`; your own sign-in stands where `sign_in` and `me` are.
"""

import logging
import os
import secrets
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

import fastapi
import httpcore
import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

ACCOUNTS = {"alice": 1, "bob": 2}
PASSWORD = "picture"  # noqa: S105 - no secret: these accounts are for trying
# Of the pages that may act for whoever is signed in.
ORIGINS = os.environ.get("CHAT_ORIGINS", "http://localhost:3000 http://localhost:5173").split()
FORWARDED = {b"content-type", b"cookie", b"x-request-id"}
PASSED_BACK = ("Cache-Control", "Content-Type", "Location", "Retry-After", "X-Request-ID")

app = FastAPI()
sessions: dict[str, str] = {}
storage = httpx.AsyncClient(
    base_url=os.environ.get("MEDIA_STORAGE_URL", "http://127.0.0.1:9101"),
    trust_env=False,  # no proxy stands between the two
    timeout=httpx.Timeout(60, connect=5),  # longer than media-storage waits for its store
    # A stream cannot be sent twice, so it never goes into an old connection that may be dead.
    limits=httpx.Limits(max_connections=500, max_keepalive_connections=0),
)


@app.post("/auth/sign-in")
async def sign_in(request: Request, name: Annotated[str, fastapi.Body()], password: Annotated[str, fastapi.Body()]) -> Response:
    if name not in ACCOUNTS or password != PASSWORD:
        return problem(request, 401, "wrong_password", "That name and password do not match.")
    token = secrets.token_urlsafe()
    sessions[token] = name
    answer = await me(request, token)
    answer.set_cookie("chat_session", token, httponly=True, samesite="lax")  # behind https, secure=True too
    return answer


@app.get("/auth/me")
async def me(request: Request, chat_session: Annotated[str, fastapi.Cookie()] = "") -> Response:
    """Whose cookie this is. It never sets one: media-storage asks, and no `Set-Cookie` gets from there to the browser."""
    name = sessions.get(chat_session)
    if name is None:
        return problem(request, 401, "unauthenticated", "Nobody is signed in.")
    return JSONResponse({"id": ACCOUNTS[name], "name": name})


@app.post("/media/upload")
@app.get("/media/limits")
@app.delete("/media/{key:path}")
async def forward(request: Request) -> Response:
    """Hands a request to media-storage, the body piece by piece, and passes the answer back as it is."""
    origin = request.headers.get("Origin")  # servers and command lines send none; it is checked here, and does not go on
    if origin is not None and origin not in ORIGINS:
        return problem(request, 403, "origin_not_allowed", "Only this chat's own pages may do that.")
    headers = [(name, value) for name, value in request.headers.raw if name in FORWARDED]  # as bytes: the cookie goes on as it came
    if "Transfer-Encoding" not in request.headers:  # with it, httpx sends chunks too
        headers.append((b"Content-Length", request.headers.get("Content-Length", "0").encode()))
    path, body = httpx.URL(raw_path=request.scope["raw_path"]), Body(request)
    try:
        answer = await storage.request(request.method, path, headers=headers, content=body.pieces(), extensions={"trace": body.trace})
    except ClientDisconnect:
        return Response(status_code=400)  # which nobody reads; media-storage was cut off too, and keeps nothing
    except httpx.TransportError as error:
        logging.getLogger("uvicorn.error").warning("media-storage: %r", error)
        response = problem(request, 503, "storage_unavailable", "Pictures cannot be reached right now. Try again in a moment.")
        response.headers["Retry-After"] = "5"
        return response
    return Response(answer.content, answer.status_code, {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers})


class Body:
    """What the browser sends, until media-storage answers: httpx alone would send on until it is hung up on, and miss the refusal."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._connection: httpcore.AsyncNetworkStream | None = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx tells what it does. TLS has traffic of its own, so that there nothing can be told from the socket."""
        if event == "connection.connect_tcp.complete":
            self._connection = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._connection = None

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._request.stream():
            if self._connection and self._connection.get_extra_info("is_readable"):
                raise httpcore.WriteError  # httpx stops sending, and reads
            yield piece


def problem(request: Request, status: int, code: str, detail: str) -> Response:
    """A refusal in the form that media-storage uses too: problem+json (RFC 9457)."""
    about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    content = {**about, "detail": detail, "code": code, "requestId": request.headers.get("X-Request-ID")}
    return JSONResponse(content, status, media_type="application/problem+json")
