"""Runs the service on one of Windows' servers, with the settings of the environment: ``python tests/serve_on.py waitress``."""

import os
import sys

from media_storage import ops, server, settings

SERVERS = {"werkzeug": server.serve_threaded, "waitress": server.serve_on_waitress}

if __name__ == "__main__":
    found = settings.load(os.environ)
    ops.configure_logging(found.log_format, found.log_level)
    SERVERS[sys.argv[1]](found)
