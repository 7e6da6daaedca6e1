"""``python -m media_storage``."""

from media_storage.cli import main

main()
