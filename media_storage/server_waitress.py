"""waitress, set up for uploads. It is the one server for production that runs on Windows."""

import socket

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.utilities import BadRequest

from media_storage import head, receive
from media_storage.settings import Settings

THREADS = 64  # they work on requests that are complete, so a slow client holds none
CONNECTIONS = 400  # Python's select() takes 512 sockets on Windows
SILENT_SECONDS = 20  # then a connection is closed, in the middle of a body too
LOOK_SECONDS = 5  # how often waitress looks for such connections
# A body that is refused is received nevertheless, up to here; beyond it, waitress itself says 413 and closes the connection.
BODY_BYTES = 32 * 1_048_576

# Of a chunked body, how much may be none of its data: sizes, extensions, trailers.
FRAMING_BYTES = 131_072


def serve(app: Flask, settings: Settings, listener: socket.socket) -> None:
    """Serves until KeyboardInterrupt; requests that are being worked on then have 5 seconds."""
    server = create_server(
        app,
        sockets=[listener],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        channel_timeout=SILENT_SECONDS,
        cleanup_interval=LOOK_SECONDS,
        max_request_header_size=head.HEAD_BYTES,
        max_request_body_size=max(BODY_BYTES, settings.max_upload_bytes + receive.MAX_OTHER_BYTES) + 1,
        log_socket_errors=False,  # clients may go away
        ident=None,
    )
    server.channel_class = _Channel
    server.run()


class _Parser(HTTPRequestParser):
    def received(self, data: bytes) -> int:
        """As waitress's, which would collect the framing of chunks for ever, and slowly."""
        consumed: int = super().received(data)
        if self.chunked and self.body_bytes_received > FRAMING_BYTES + 2 * len(self.body_rcv):
            self.error, self.completed = BadRequest(""), True
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """As waitress's, which would answer 501 to some, and quote others."""
        try:
            head.check(header_plus)
        except ValueError as exc:
            raise ParsingError(str(exc)) from exc
        super().parse_header(header_plus)
        if "COOKIE" in self.headers:
            self.headers["COOKIE"] = head.joined_cookies(header_plus)


class _Channel(HTTPChannel):
    parser_class = _Parser
