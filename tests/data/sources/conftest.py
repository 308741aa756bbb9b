"""Trees of small images, and a local web server."""

import http.server
import io
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image

GREY = {"ant": 10, "bee": 90, "cow": 170, "dog": 250}


def write(path, level, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)


def level(data):
    """The mean grey level of an encoded image."""
    return float(np.asarray(Image.open(io.BytesIO(data)), dtype=float).mean())


def found(images, classes):
    """Classes and grey levels of the images, in order."""
    return [(classes[label], round(level(images.read(index)))) for index, label in enumerate(images.labels)]


def contents(images):
    """Bytes and label of each image, in order."""
    return [(bytes(images.read(index)), int(label)) for index, label in enumerate(images.labels)]


@pytest.fixture
def tree(tmp_path):
    """Make root/SPLIT/CLASS with one image each, alternately PNG and JPEG, whose grey level identifies the class."""

    def make(train=("ant", "bee", "cow"), val=("ant", "bee", "cow"), root="tree"):
        for split, classes in (("train", train), ("val", val)):
            (tmp_path / root / split).mkdir(parents=True)
            for index, name in enumerate(classes):
                write(tmp_path / root / split / name / ("one.png" if index % 2 else "one.jpg"), GREY[name])
        return tmp_path / root

    return make


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
