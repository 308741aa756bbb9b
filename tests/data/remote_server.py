"""An HTTP server that holds files in memory and fails on demand."""

import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PIECES = 8


class FaultyServer(ThreadingHTTPServer):
    """Serves `contents` by path, with a page of links for each path that ends with a slash.

    Attributes:
        faults: for each path what befalls its next GETs, the last for ever: None, an HTTP status, or one of slow,
            stalled, silent, cut, reset, wrong, short.
        requests: how often each path was asked for by GET.
        seen: each request's target and headers.
    """

    daemon_threads = True

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents = contents
        self.faults: dict[str, list] = {}
        self.requests: Counter[str] = Counter()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "FaultyServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, address: object) -> None:
        """A client that gives up is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append((self.path, dict(self.headers)))
        fault = None
        if body:
            self.server.requests[path] += 1
            if planned := self.server.faults.get(path):
                fault = planned.pop(0) if len(planned) > 1 else planned[0]
        content = self._content(path)
        if content is None:
            fault = fault or 404
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if fault == "silent":
            self.server.closing.wait()
            return
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "short":
            content = content[:-1]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        self.send_header("ETag", f'"{hash(content)}"')
        self.end_headers()
        if body:
            self._send(content, fault)

    def _content(self, path: str) -> bytes | None:
        if not path.endswith("/"):
            return self.server.contents.get(path)
        below = {name.removeprefix(path) for name in self.server.contents if name.startswith(path)}
        names = {name.partition("/")[0] + ("/" if "/" in name else "") for name in below}
        links = "".join(f'<a href="{name.replace(" ", "%20")}">{name}</a>\n' for name in sorted(names))
        page = f'<a href="?C=N;O=D">Name</a> <a href="../">Up</a> <a href="./">Here</a>\n{links}'
        return page.encode() if names else None

    def _send(self, content: bytes, fault: str | None) -> None:
        if fault == "slow":
            for start in range(0, len(content), max(1, len(content) // PIECES)):
                self.wfile.write(content[start : start + max(1, len(content) // PIECES)])
                time.sleep(0.1)
            return
        if fault in ("stalled", "cut"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "stalled":
                self.server.closing.wait()
            return
        self.wfile.write(content)
