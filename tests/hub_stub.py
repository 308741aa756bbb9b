"""A server on this machine that does what the Hugging Face Hub does for a model: create it, take a commit, serve it."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest

TOKEN = "hf_good"


class Hub:
    """What it was sent.

    Attributes:
        models: by name, whether it is private, its files, and the messages of its commits.
        requests: method and path of each.
    """

    def __init__(self):
        self.models, self.requests = {}, []
        self.refusal = None

    def answer(self, method, path, body, token):
        """Status, JSON or bytes, and headers."""
        self.requests.append((method, path))
        if method == "POST" and token != TOKEN:
            return 401, {"error": "Invalid username or password."}, {}
        if self.refusal:
            return self.refusal, {"error": "no"}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.models:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}, {}
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.models[name] = {"private": private, "files": {}, "messages": [], "name": name}
            return 200, {"url": f"{self.url}/{name}"}, {}
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/(preupload|commit)/main", path):
            return 200, getattr(self, f"_{found[2]}")(self.models[found[1]], body), {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/main/(.+)", path):
            content = self.models.get(found[1], {"files": {}})["files"].get(found[2])
            if content is not None:
                etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
                return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": "a" * 40}
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        return 404, {"error": f"unknown {method} {path}"}, {}

    def _preupload(self, model, body):
        paths = [one["path"] for one in json.loads(body)["files"]]
        return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}

    def _commit(self, model, body):
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "header":
                model["messages"].append(part["value"]["summary"])
            else:
                model["files"][part["value"]["path"]] = base64.b64decode(part["value"]["content"])
        return {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.url}/{model['name']}/commit/{40 * 'a'}"}


@contextmanager
def serving(folder):
    """The hub, which this process uses instead of the real one, with a cache in `folder` and no token."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            status, content, headers = hub.answer(self.command, self.path.partition("?")[0], body, token)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = _answer  # noqa: N815

        def log_message(self, *args):
            """No lines on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, pytest.MonkeyPatch.context() as patch:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        constants = huggingface_hub.constants
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_URL_HOSTS", frozenset({f"127.0.0.1:{server.server_port}"}))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        patch.setenv("HF_TOKEN", "")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield hub
        server.shutdown()
