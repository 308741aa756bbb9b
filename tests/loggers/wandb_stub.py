"""A server on this machine that accepts W&B runs and nothing else."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_VIEWER = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
_PROJECT = {"id": "p", "name": "fvit", "entity": {"id": "e", "name": "me"}}
_BUCKET = {"id": "x", "name": "r", "displayName": "r", "config": "{}", "historyLineCount": 0, "project": _PROJECT}

ANSWERS = {"Viewer": {"viewer": _VIEWER}, "UpsertBucket": {"upsertBucket": {"inserted": True, "bucket": _BUCKET}}}
REFUSALS = {
    "ArtifactType": "none here",
    "CreateArtifact": "no artifacts here",
    "CreateRunFiles": "no files here",
}


@contextmanager
def serving(answers, status=200):
    """The URL of a server, and functions that make it die and hang (it accepts requests without answering).

    Args:
        answers: the response to a GraphQL query, by its name: data, or the text of an error; None to all others.
        status: of HTTP.
    """

    hangs = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            if hangs.is_set():
                time.sleep(300)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            name = json.loads(body)["query"].split()[1].partition("(")[0] if self.path.endswith("graphql") else None
            answer = answers.get(name) if status == 200 else "user is not logged in"
            found = {"errors": [{"message": answer}]} if isinstance(answer, str) else {"data": answer}
            reply = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *args):
            """No lines on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def die():
        server.shutdown()
        server.server_close()
        thread.join()

    try:
        yield f"http://127.0.0.1:{server.server_port}", die, hangs.set
    finally:
        if thread.is_alive():
            die()
