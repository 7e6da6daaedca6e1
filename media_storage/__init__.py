"""media-storage: takes authenticated picture uploads, stores them in MinIO, and redirects readers to them."""

from media_storage.app import create_app
from media_storage.version import __version__

__all__ = ["__version__", "create_app"]
