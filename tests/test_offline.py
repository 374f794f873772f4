"""--fetch brings what a job needs to this machine; afterwards the job runs without a network."""

import hashlib
import http.server
import json
import sys
import threading

import pytest
from conftest import job_words, shell

COMMIT = "a" * 40
pytestmark = pytest.mark.slow


class StandIn(http.server.BaseHTTPRequestHandler):
    """The part of the Hub's interface by which files of one model are found and fetched."""

    folder = None

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:4] == ["api", "models", "team", "tiny"] and "tree" not in parts:
            siblings = [{"rfilename": path.name} for path in self.folder.iterdir()]
            return self.send(json.dumps({"id": "team/tiny", "sha": COMMIT, "siblings": siblings}).encode(), with_body)
        file = self.folder / parts[-1]
        if parts[:3] == ["team", "tiny", "resolve"] and file.is_file():
            return self.send(file.read_bytes(), with_body)
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, with_body):
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tiny_encoder, monkeypatch):
    monkeypatch.setattr(StandIn, "folder", tiny_encoder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_what_was_fetched_trains_without_a_network(hub, tmp_path):
    words = job_words("team/tiny", tmp_path / "out", "--members", "last3-42", "--folds", 0)
    command = [sys.executable, "run_classification.py", *words]
    here = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
    fetched = shell(*command, "--fetch", env={**here, "HF_HUB_OFFLINE": "0"})
    assert fetched.code == 0, fetched.err
    assert "team/tiny is here" in fetched.out
    assert "60 labelled tweets and 40 test tweets can be read" in fetched.out
    assert not (tmp_path / "out").exists()
    hub.shutdown()
    outcome = shell(*command, env={**here, "HF_HUB_OFFLINE": "1"})
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "last3-42" / "fold-0" / "DONE").exists()


def test_without_a_fetch_the_missing_encoder_is_named(hub, tmp_path):
    words = job_words("team/tiny", tmp_path / "out", "--members", "last3-42", "--folds", 0)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    outcome = shell(sys.executable, "run_classification.py", *words, env=environment)
    assert outcome.code == 2
    assert "error: --model_name_or_path team/tiny can't be loaded" in outcome.err
    assert "Traceback" not in outcome.err
