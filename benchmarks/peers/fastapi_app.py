"""FastAPI with aioboto3: an `UploadFile`, then `upload_fileobj`. One client of each kind for the life of a process."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import aioboto3
import httpx
from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import RedirectResponse

TYPES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
MAX_BYTES = 10 * 1024 * 1024


@asynccontextmanager
async def clients(app: FastAPI) -> AsyncIterator[None]:
    """Connections to the backend and to the store."""
    session = aioboto3.Session(os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"], region_name="us-east-1")
    async with httpx.AsyncClient() as backend, session.client("s3", endpoint_url=os.environ["ENDPOINT"]) as store:
        app.state.backend, app.state.store = backend, store
        yield


app = FastAPI(lifespan=clients)


@app.post("/media/upload", status_code=201)
async def upload(request: Request, file: UploadFile) -> dict[str, object]:
    """Stores the file of the field `file`."""
    session = await app.state.backend.get(os.environ["BACKEND"], headers={"Cookie": request.headers.get("Cookie", "")})
    if session.status_code != 200:
        raise HTTPException(401, "Sign in first.")
    if file.content_type not in TYPES:
        raise HTTPException(415, "Send a picture.")
    if (file.size or 0) > MAX_BYTES:
        raise HTTPException(413, "Send a smaller picture.")
    key = f"uploads/{session.json()['id']}/{uuid4()}.{TYPES[file.content_type]}"
    await app.state.store.upload_fileobj(file.file, os.environ["BUCKET"], key, ExtraArgs={"ContentType": file.content_type})
    return {"key": key, "url": f"/media/{key}", "contentType": file.content_type, "size": file.size}


@app.get("/media/uploads/{user}/{name}")
async def read(user: str, name: str) -> RedirectResponse:
    """Sends the browser to the store."""
    url = f"{os.environ['ENDPOINT']}/{os.environ['BUCKET']}/uploads/{user}/{name}"
    return RedirectResponse(url, 302, {"Cache-Control": "public, max-age=86400"})
