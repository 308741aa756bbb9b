"""A local web server."""

import http.server
import threading
from functools import partial

import pytest


class Server:
    """Serves a folder and notes the requested paths; clear `stall` to withhold answers."""

    def __init__(self, folder):
        self.folder, self.requests = folder, []
        self.stall = threading.Event()
        self.stall.set()
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                server.stall.wait(10)
                super().do_GET()

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def downloads(self, name):
        """How often torchvision downloaded the file, with two requests each, the first to resolve redirects."""
        return self.requests.count(f"/{name}") / 2


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stall.set()
    server.http.shutdown()
    server.http.server_close()
    thread.join()
