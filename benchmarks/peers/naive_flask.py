"""The upload as Flask's and minio-py's own introductions show it: `request.files`, then `put_object`."""

import os
from uuid import uuid4

import requests
from flask import Flask, Response, redirect, request
from minio import Minio

TYPES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
MAX_BYTES = 10 * 1024 * 1024
BODY_BYTES = MAX_BYTES + 65_536  # what is around the file

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES
store = Minio(
    os.environ["ENDPOINT"].removeprefix("http://"),
    os.environ["S3_ACCESS_KEY"],
    os.environ["S3_SECRET_KEY"],
    secure=False,
    region="us-east-1",
)


@app.post("/media/upload")
def upload() -> tuple[dict[str, object], int]:
    """Stores the file of the field `file`."""
    session = requests.get(os.environ["BACKEND"], headers={"Cookie": request.headers.get("Cookie", "")}, timeout=3)
    if session.status_code != 200:
        return {"detail": "Sign in first."}, 401
    file = request.files["file"]
    if file.mimetype not in TYPES:
        return {"detail": "Send a picture."}, 415
    size = file.stream.seek(0, os.SEEK_END)
    file.stream.seek(0)
    key = f"uploads/{session.json()['id']}/{uuid4()}.{TYPES[file.mimetype]}"
    store.put_object(os.environ["BUCKET"], key, file.stream, size, content_type=file.mimetype)
    return {"key": key, "url": f"/media/{key}", "contentType": file.mimetype, "size": size}, 201


@app.get("/media/<path:key>")
def read(key: str) -> Response:
    """Sends the browser to the store."""
    answer = redirect(f"{os.environ['ENDPOINT']}/{os.environ['BUCKET']}/{key}", code=302)
    answer.headers["Cache-Control"] = "public, max-age=86400"
    return answer
