"""Mints and recognises object keys: ``uploads/<user_id>/<uuid4>.<ext>``."""

import re
import uuid

# The first character is never a dot, so no user id can be a path step; nothing in it ever needs URL encoding.
USER_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
NAME = rf"{_UUID4}\.(?:jpg|png|webp)"

_user_id = re.compile(USER_ID, re.ASCII)
_key = re.compile(rf"uploads/({USER_ID})/{NAME}", re.ASCII)


def is_user_id(text: str) -> bool:
    """Whether `text` may stand as the user's segment of a key."""
    return _user_id.fullmatch(text) is not None


def mint(user_id: str, extension: str) -> str:
    """A new key for an object of `user_id`; `extension` is ``jpg``, ``png`` or ``webp``."""
    return f"uploads/{user_id}/{uuid.uuid4()}.{extension}"


def owner(key: str) -> str | None:
    """The user id in `key`, or None when this service could not have minted it."""
    match = _key.fullmatch(key)
    return match[1] if match else None
