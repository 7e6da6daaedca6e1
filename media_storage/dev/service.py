"""The service as `dev` runs it: as in production where gunicorn exists, else on Werkzeug's threaded server."""

import os
import sys

from media_storage import ops, server, settings
from media_storage.metrics import CannotListen


def main() -> None:
    """Serves with the settings of the environment, which `dev` has completed."""
    found = settings.load(os.environ)
    ops.configure_logging(found.log_format, found.log_level)
    try:
        if sys.platform == "win32":
            server.serve_threaded(found)
        else:
            server.serve(found)
    except CannotListen as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
