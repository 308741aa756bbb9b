"""Remote storage in tests: an HTTP server that fails on demand, and helpers."""

import hashlib
import json
import multiprocessing
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from fvit.data.storage.base import File
from fvit.data.storage.remote import RemoteStorage

SHARD = bytes(range(256)) * 512
Open = Callable[..., RemoteStorage]
fork = multiprocessing.get_context("fork")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # as loader workers do
_PIECES = 8


class FaultyServer(ThreadingHTTPServer):
    """Serves `contents` by path, and a page of links for each path that ends with a slash.

    Attributes:
        faults: for each path, what happens to its next GETs, the last one forever: None, an HTTP status, slow, stalled,
            silent, cut, reset, wrong or short.
        requests: number of GETs by path.
        seen: target and headers of each request.
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
        """Clients that give up are expected."""


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
            for start in range(0, len(content), max(1, len(content) // _PIECES)):
                self.wfile.write(content[start : start + max(1, len(content) // _PIECES)])
                time.sleep(0.1)
            return
        if fault in ("stalled", "cut"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "stalled":
                self.server.closing.wait()
            return
        self.wfile.write(content)


def manifest(index: bytes, **shards: bytes) -> bytes:
    """A manifest of these shards with one image each, for both splits."""

    def entry(name: str, content: bytes) -> dict[str, object]:
        return {"name": f"{name}.tar", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    split = {
        "images": len(shards),
        "per_class": [len(shards)],
        "shards": [entry(name, content) | {"images": 1} for name, content in shards.items()],
        "index": entry("index", index),
        "skipped": [],
    }
    splits = {"train": split, "val": split}
    return json.dumps(
        {"format": "fvit-shards", "version": 1, "classes": ["ant"], "settings": {}, "splits": splits}
    ).encode()


def shard(number: int, **known: str) -> File:
    return File(f"train-{number}.tar", len(SHARD) - number, **known)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def succeeds_in_a_fork(work: Callable[[], bool]) -> bool:
    process = fork.Process(target=lambda: os._exit(0 if work() else 1))
    process.start()
    process.join(20)
    alive = process.is_alive()
    process.kill()
    return not alive and process.exitcode == 0
