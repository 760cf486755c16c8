"""A Hugging Face Hub of one machine: the few addresses its client asks for models, over HTTP."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import torch
import yaml

from endofm import hub
from endofm.models.timesformer import TimeSformer, TimeSformerConfig

TOKEN = "hf_secretofthetest"


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict = field(default_factory=dict)
    trees: dict = field(default_factory=dict)  # commit -> {path: bytes}
    messages: list = field(default_factory=list)

    def commit(self, files, branch="main", message=""):
        """The branch's files and these, as a new commit; its hash."""
        tree = {**self.trees.get(self.branches.get(branch), {}), **files}
        sha = hashlib.sha1(f"{len(self.trees)}{sorted(tree)}".encode()).hexdigest()
        self.trees[sha] = tree
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision):
        sha = self.branches.get(revision, revision)
        return sha if sha in self.trees else None


class SmallHub:
    def __init__(self):
        self.repositories = {}
        self.asked = []  # (method, path)
        self.sizes = {}  # file -> a size to claim
        self.cut = set()  # files sent only in part
        self.down = False

    def repository(self, name, files, **kind):
        repository = self.repositories[name] = Repository(**kind)
        repository.commit(files)
        return repository

    def downloads(self):
        """(revision, file) of every file that was sent."""
        parts = [
            path.split("/resolve/")[1]
            for how, path in self.asked
            if how == "GET" and "/resolve/" in path
        ]
        return [tuple(part.split("/", 1)) for part in parts]

    @contextmanager
    def open(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def save_model(folder, seed=0, **provenance):
    torch.manual_seed(seed)
    model = TimeSformer(
        TimeSformerConfig(width=16, depth=1, num_heads=2, patch_pixels=8, image_pixels=32)
    )
    hub.save(folder, model, model.input_spec, provenance)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_weights(one, other):
    return all(
        torch.equal(mine, other.state_dict()[name]) for name, mine in one.state_dict().items()
    )


def _handler(small):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            pass

        def do_HEAD(self):
            self.prediction(None)

        def do_GET(self):
            self.prediction(None)

        def do_POST(self):
            self.prediction(self.rfile.read(int(self.headers["Content-Length"] or 0)))

        def prediction(self, body):
            path = unquote(self.path.split("?")[0])
            small.asked.append((self.command, path))
            self.known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if small.down:
                self.refuse(503, "")
            elif "/resolve/" in path:
                self.resolve(*path.strip("/").split("/resolve/"))
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.validate(json.loads(body)["content"])
            elif path.startswith("/api/models/"):
                owner, name, *rest = path.removeprefix("/api/models/").split("/")
                self.model(f"{owner}/{name}", rest, body)
            else:
                self.refuse(404, "RepoNotFound")

        def visible(self, name):
            repository = small.repositories.get(name)
            if repository is None or (repository.private and not self.known):
                self.refuse(404 if self.known else 401, "RepoNotFound")
                return None
            return repository

        def resolve(self, name, rest):
            repository = self.visible(name)
            if repository is None:
                return
            revision, file = rest.split("/", 1)
            sha = repository.resolve(revision)
            if repository.gated and not self.known:
                self.refuse(401, "GatedRepo")
            elif sha is None:
                self.refuse(404, "RevisionNotFound")
            elif file not in repository.trees[sha]:
                self.refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
            else:
                content = repository.trees[sha][file]
                size = small.sizes.get(file, len(content))
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                sent = content[: len(content) // 2] if file in small.cut else content
                self.send(200, sent, {"X-Repo-Commit": sha, "ETag": etag}, size)

        def create(self, wanted):
            name = f"{wanted['organization'] or 'somebody'}/{wanted['name']}"
            if not self.known:
                self.refuse(401, "")
            elif name.startswith("others/"):
                self.refuse(403, "", {"X-Error-Message": "You don't own others"})
            elif name in small.repositories:
                self.tell({"url": f"{small.address}/{name}"}, 409)
            else:
                private = wanted.get("visibility") == "private" or wanted.get("private", False)
                small.repository(name, {".gitattributes": b""}, private=private)
                self.tell({"url": f"{small.address}/{name}"})

        def validate(self, card):
            try:
                front = yaml.safe_load(card.split("---")[1])
                faults = [] if isinstance(front, dict) else [{"message": "no mapping"}]
            except yaml.YAMLError as error:
                faults = [{"message": str(error).splitlines()[0]}]
            self.tell({"errors": faults, "warnings": []}, 400 if faults else 200)

        def model(self, name, rest, body):
            repository = self.visible(name)
            if repository is None:
                return
            if not rest or rest[0] == "revision":
                sha = repository.resolve(rest[1] if rest else "main")
                self.tell({"id": name, "sha": sha, "private": repository.private, "tags": []})
            elif rest[0] == "branch":
                repository.branches.setdefault(rest[1], repository.branches["main"])
                self.tell({})
            elif rest[0] == "preupload":
                files = json.loads(body)["files"]
                plan = {"uploadMode": "regular", "shouldIgnore": False}
                self.tell({"files": [{"path": file["path"], **plan} for file in files]})
            elif rest[0] == "commit":
                header, *lines = [json.loads(line) for line in body.splitlines() if line]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                }
                sha = repository.commit(files, rest[1], header["value"]["summary"])
                self.tell({"commitUrl": f"{small.address}/{name}/commit/{sha}", "commitOid": sha})

        def tell(self, content, status=200):
            self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def refuse(self, status, code, headers=None):
            self.send(status, b"", {"X-Error-Code": code, **(headers or {})})

        def send(self, status, content, headers, size=None):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content) if size is None else size))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            if size is not None and size != len(content):
                self.close_connection = True

    return Handler
