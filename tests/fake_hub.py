"""A fake Hub on 127.0.0.1: as much of its interface as finding, fetching and committing files takes."""

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Repository:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    commits: list[str] = field(default_factory=list)  # messages

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class FakeHub(http.server.ThreadingHTTPServer):
    """The Hub with its repositories by name, and all requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, folder: Path, *, private: bool = False) -> Repository:
        """Return a new repository that holds a folder's files."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repositories[name] = Repository(files, private, ["first"])
        return self.repositories[name]

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables by which a process uses this Hub.

        Args:
            home: the folder of its downloads.
        """
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "fake-token"}

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] in (["api", "models"], ["api", "spaces"]):
            return self.about("/".join(parts[2:4]), parts[4:], with_body)
        if len(parts) > 4 and parts[2] == "resolve":
            repository = self.server.repositories.get("/".join(parts[:2]))
            content = repository and repository.files.get("/".join(parts[4:]))
            if content is not None:
                return self.send(content, with_body, repository.sha)
            return self.refuse(404, "EntryNotFound" if repository else "RepoNotFound", repository)
        self.refuse(404, "RepoNotFound")

    def about(self, name: str, rest: list[str], with_body: bool) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.refuse(404, "RepoNotFound")
        if rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in repository.files.items()
            ]
            return self.send(json.dumps(entries).encode(), with_body, repository.sha)
        siblings = [{"rfilename": path} for path in repository.files]
        content = {"id": name, "sha": repository.sha, "private": repository.private, "siblings": siblings}
        self.send(json.dumps(content).encode(), with_body, repository.sha)

    def do_POST(self):
        self.server.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            return self.create(json.loads(body))
        if parts == ["api", "validate-yaml"]:
            return self.validate(json.loads(body))
        name, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send(json.dumps({"files": modes}).encode(), True)
        self.commit(name, [json.loads(line) for line in body.splitlines()])

    def create(self, content: dict[str, Any]) -> None:
        name = f"{content.get('organization') or 'me'}/{content['name']}"
        if name in self.server.repositories:
            return self.refuse(409, "RepoExists", self.server.repositories[name], name)
        self.server.repositories[name] = Repository(private=content.get("visibility") == "private")
        self.send(json.dumps({"url": f"{self.server.endpoint}/{name}"}).encode(), True)

    def validate(self, content: dict[str, Any]) -> None:
        errors = []
        try:
            card = yaml.safe_load(content["content"].split("---")[1])
            for entry in card.get("model-index", []):
                for result in entry["results"]:
                    assert {"task", "dataset", "metrics"} <= set(result)
                    assert all({"type", "value"} <= set(metric) for metric in result["metrics"])
        except Exception as error:
            errors.append({"message": f"{type(error).__name__}: {error}"})
        code = 400 if errors else 200
        self.send(json.dumps({"errors": errors, "warnings": []}).encode(), True, code=code)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        url = f"{self.server.endpoint}/{name}/commit/{repository.sha}"
        self.send(json.dumps({"commitUrl": url, "commitOid": repository.sha}).encode(), True)

    def refuse(self, code: int, reason: str, repository: Repository | None = None, name: str = "") -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("X-Repo-Commit", repository.sha if repository else "0" * 40)
        content = json.dumps({"error": reason, "url": f"{self.server.endpoint}/{name}"}).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send(self, content: bytes, with_body: bool, sha: str = "0" * 40, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass
