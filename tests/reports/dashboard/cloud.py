"""A local server that answers W&B's client with what it needs here, and keeps what it gets."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWNER = "me"


class Cloud(ThreadingHTTPServer):
    """`views`: what was saved, by type; `runs`: the variables of upsertBucket, by id; `rows`: histories, by id."""

    def __init__(self, accepts):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.accepts = accepts
        self.views, self.runs, self.rows = {}, {}, {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query, given):
        """A GraphQL response with the fields that the client reads."""
        if "upsertView" in query:
            if not self.accepts:
                return {"errors": [{"message": "no such project"}], "data": None}
            self.views[given["type"]] = given
            project = {"id": "1", "name": given["projectName"], "entityName": given["entityName"]}
            view = {"id": "VIEW", "project": project, "updatedAt": None}
            view |= {key: given[key] for key in ("name", "type", "displayName", "description", "spec")}
            return {"data": {"upsertView": {"view": view, "inserted": True}}}
        if "upsertBucket" in query:
            self.runs.setdefault(given["name"], given)
            project = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": given["entity"]}}
            bucket = {"id": "1", "name": given["name"], "displayName": given["displayName"], "project": project}
            bucket |= {"description": "", "config": "{}", "sweepName": None, "historyLineCount": 0}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}}
        if "models(" in query:
            return {"data": {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}}
        viewer = {"id": "1", "entity": OWNER, "username": OWNER, "name": OWNER, "email": "", "admin": False}
        viewer |= {"flags": "{}", "deletedAt": None, "apiKeys": {"edges": []}, "teams": {"edges": []}}
        return {"data": {"viewer": viewer}}


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self._send({})

    def do_PUT(self):
        self._body()
        self._send({})

    def do_POST(self):
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            self._send(self.server.answer(asked["query"], asked.get("variables") or {}))
            return
        if self.path.endswith("/file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            run = self.path.split("/")[-2]
            self.server.rows.setdefault(run, []).extend(map(json.loads, history))
        self._send({})

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def cloud(accepts=True):
    """A running `Cloud`; `accepts`: whether views can be saved."""
    server = Cloud(accepts)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
