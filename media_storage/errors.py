"""Every deliberate refusal: its HTTP status, its code, and a sentence that says what to do.

    Refusal
    ├── 400 BadRequest · BadMultipart · MissingFile · MultipleFiles · EmptyFile
    ├── 401 Unauthenticated
    ├── 403 OriginNotAllowed · NotOwner
    ├── 404 NotFound              405 MethodNotAllowed
    ├── 408 UploadTimeout
    ├── 413 FileTooLarge
    ├── 415 NotMultipart · UnsupportedType
    ├── 422 InvalidImage · TooManyPixels
    ├── 429 RateLimited
    ├── 500 InternalError
    ├── 502 BackendInvalid
    └── 503 BackendUnavailable · StoreUnavailable · Overloaded · ShuttingDown

Adapters raise these `from` the foreign error; ``app.py`` turns them into problem+json (RFC 9457) in one place.
What a refusal is raised *for* (``reason``) goes to the log, never to the client.
"""

from collections.abc import Sequence
from http import HTTPStatus


class Refusal(Exception):
    """An answer that is not success, and that the service chose to give.

    ``detail`` is the sentence for the client; ``extra`` are further members of the problem document;
    ``reason`` is for the log only; ``retry_after`` is in whole seconds.
    """

    status = 500
    code = "internal_error"
    retry_after: int | None = None

    def __init__(self, detail: str, *, reason: str = "", **extra: object) -> None:
        super().__init__(reason or detail)
        self.detail = detail
        self.reason = reason
        self.extra = extra

    def document(self, request_id: str) -> dict[str, object]:
        """The problem document (RFC 9457) that tells it to the client."""
        title = HTTPStatus(self.status).phrase
        common = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, "code": self.code}
        return {**common, "requestId": request_id, **self.extra}


class BadRequest(Refusal):
    """The request is malformed in a way that no other code names."""

    status, code = 400, "bad_request"


class BadMultipart(Refusal):
    """The multipart body is malformed, cut short, or has too many or too large other parts."""

    status, code = 400, "bad_multipart"


class MissingFile(Refusal):
    """The body has no file part named ``file``."""

    status, code = 400, "missing_file"


class MultipleFiles(Refusal):
    """The body has more than one file part."""

    status, code = 400, "multiple_files"

    def __init__(self) -> None:
        super().__init__("Send one file per request: this body has more than one file part.")


class EmptyFile(Refusal):
    """The file part has no bytes."""

    status, code = 400, "empty_file"

    def __init__(self) -> None:
        super().__init__("The file is empty. Choose a file with something in it.")


class Unauthenticated(Refusal):
    """There is no session, or the backend does not know it."""

    status, code = 401, "unauthenticated"

    def __init__(self) -> None:
        super().__init__("Sign in first: this request carries no session that the chat backend accepts.")


class OriginNotAllowed(Refusal):
    """The request comes from a web page that is not allowed to act for the user."""

    status, code = 403, "origin_not_allowed"

    def __init__(self) -> None:
        super().__init__(
            "This web origin may not upload or delete. Name it in ALLOWED_ORIGINS; "
            "a backend that forwards requests should not pass the Origin header on."
        )


class NotOwner(Refusal):
    """The object belongs to another user."""

    status, code = 403, "not_owner"

    def __init__(self) -> None:
        super().__init__("Only the person who uploaded this picture can take it back.")


class NotFound(Refusal):
    """The path or key is none that this service has or could have minted."""

    status, code = 404, "not_found"

    def __init__(self) -> None:
        super().__init__("There is nothing at this address. Check the link.")


class MethodNotAllowed(Refusal):
    """The path exists, but not with this method; ``Allow`` names those that it has."""

    status, code = 405, "method_not_allowed"

    def __init__(self) -> None:
        super().__init__("This address does not support that method; the Allow header lists those that it does.")


class UploadTimeout(Refusal):
    """The body came too slowly, or took too long."""

    status, code = 408, "upload_timeout"

    def __init__(self, reason: str) -> None:
        super().__init__("The picture arrived too slowly. Try again on a better connection.", reason=reason)


class FileTooLarge(Refusal):
    """The file, or the length that the request declares, is more than the limit (bytes)."""

    status, code = 413, "file_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The file is larger than {max_bytes / 1_048_576:g} MB. Send a smaller one.", maxBytes=max_bytes)


class NotMultipart(Refusal):
    """The body is not ``multipart/form-data``."""

    status, code = 415, "not_multipart"

    def __init__(self) -> None:
        super().__init__("Send the picture as multipart/form-data, in a file field named `file`.")


class UnsupportedType(Refusal):
    """The file's bytes are of none of the accepted types."""

    status, code = 415, "unsupported_type"

    def __init__(self, detected: str, allowed: Sequence[str]) -> None:
        super().__init__("Only JPEG, PNG and WebP pictures can be uploaded.", detected=detected, allowed=list(allowed))


class InvalidImage(Refusal):
    """The signature is right, but the header is not one that a browser could draw."""

    status, code = 422, "invalid_image"

    def __init__(self, reason: str) -> None:
        super().__init__("The picture is damaged or of a kind that browsers cannot draw. Save it again and retry.", reason=reason)


class TooManyPixels(Refusal):
    """The header announces more pixels than the limit."""

    status, code = 422, "too_many_pixels"

    def __init__(self, max_pixels: int) -> None:
        super().__init__(f"The picture has more than {max_pixels:,} pixels. Send a smaller one.", maxPixels=max_pixels)


class RateLimited(Refusal):
    """The user uploaded more in this minute than is allowed."""

    status, code = 429, "rate_limited"

    def __init__(self, retry_after: int) -> None:
        super().__init__("You are uploading faster than is allowed here. Wait a moment, then go on.")
        self.retry_after = retry_after


class InternalError(Refusal):
    """A defect of this service."""

    status, code = 500, "internal_error"

    def __init__(self) -> None:
        super().__init__("Something went wrong here. If it happens again, report the requestId.")


class BackendInvalid(Refusal):
    """The backend's answer to the session question makes no sense."""

    status, code = 502, "backend_invalid"

    def __init__(self, reason: str) -> None:
        super().__init__("The chat backend gave an answer that cannot be used. Its operator should look at the log.", reason=reason)


class BackendUnavailable(Refusal):
    """The backend did not answer in time, or said that it cannot."""

    status, code, retry_after = 503, "backend_unavailable", 5

    def __init__(self, reason: str) -> None:
        super().__init__("The chat backend cannot be asked right now. Try again in a moment.", reason=reason)


class StoreUnavailable(Refusal):
    """The object store did not take, keep or delete the object."""

    status, code, retry_after = 503, "store_unavailable", 5

    def __init__(self, reason: str, *, denied: bool = False) -> None:
        super().__init__("Pictures cannot be stored right now. Try again in a moment.", reason=reason)
        self.denied = denied  # the credentials may not do it


class Overloaded(Refusal):
    """As many uploads as this process may hold are under way, or the temporary space is full."""

    status, code, retry_after = 503, "overloaded", 2

    def __init__(self, reason: str) -> None:
        super().__init__("Too many pictures are being uploaded right now. Try again in a moment.", reason=reason)


class ShuttingDown(Refusal):
    """The process is ending, and the body did not arrive in time for it."""

    status, code, retry_after = 503, "shutting_down", 2

    def __init__(self) -> None:
        super().__init__("This server is being restarted. Try again in a moment.")
