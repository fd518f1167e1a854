"""Upload of kept merges, to a Hub of this machine that speaks the client's protocol."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi

from seme.publishing.push import check_push, push
from tests.kept_merges import keep


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: created, told what is large, given blobs and commits."""

    def log_message(self, *_):
        pass

    def answer(self, content, code=200):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self):
        self.server.blobs[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_GET(self):
        self.answer({"error": "none"}, 404)

    def do_POST(self):
        content, server = self.body(), self.server
        server.tokens.add(self.headers.get("Authorization"))
        if server.refuses:
            self.answer({"error": "you have no right to write here"}, 403)
        elif self.path == "/api/repos/create":
            server.created.append(json.loads(content))
            self.answer({"url": f"{server.url}/org/mine"})
        elif self.path.startswith("/api/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = {n: "lfs" if n.endswith(".safetensors") else "regular" for n in names}
            self.answer({"files": [
                {"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()
            ]})  # fmt: skip
        elif self.path.endswith("/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": [
                {**one, "authenticated": True,
                 "actions": {"upload": {"href": f"{server.url}/blobs/{one['oid']}", "header": {}}}}
                for one in json.loads(content)["objects"]
            ]})  # fmt: skip
        elif "/commit/" in self.path:
            server.commits.append([json.loads(line) for line in content.splitlines()])
            self.answer({"success": True, "commitOid": "c" * 40,
                         "commitUrl": f"{server.url}/org/mine/commit/{'c' * 40}"})  # fmt: skip
        else:
            self.answer({"error": self.path}, 404)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.created, server.commits, server.blobs, server.tokens = [], [], {}, set()
    server.refuses = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def kept(make_llama, tmp_path):
    for seed, name in enumerate(("base", "code")):
        make_llama(tmp_path / name, seed)
    return keep(tmp_path, {"name": None, "pivot": "base", "sources": ["code"]})


@pytest.fixture
def api(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as SEME_ONLINE=1
    return HfApi(endpoint=hub.url, token="hf_mine")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client's own
def test_every_file_is_uploaded_in_one_commit_to_a_private_repository(kept, hub, api):
    (kept / "record.json").write_text("{}")
    address = push(kept, "org/mine", api=api)
    assert address == f"{hub.url}/org/mine/commit/{'c' * 40}"
    (created,) = hub.created
    assert (created["name"], created["organization"]) == ("mine", "org")
    assert (
        created.get("private") or created["visibility"] == "private"
    )  # by the client's version
    assert hub.tokens == {"Bearer hf_mine"}
    (commit,) = hub.commits
    header, *lines = commit
    assert header["value"]["summary"] == "Merge by SeMe bench"
    files = {line["value"]["path"]: line["value"] for line in lines}
    present = {path.name for path in kept.iterdir()} - {"record.json"}
    assert files.keys() == present
    for name, value in files.items():
        content = (kept / name).read_bytes()
        if name.endswith(".safetensors"):
            assert value["oid"] == hashlib.sha256(content).hexdigest()
            assert hub.blobs[value["oid"]] == content
        else:
            assert base64.b64decode(value["content"]) == content


def test_folder_that_was_changed_is_not_uploaded(kept, hub, api):
    (kept / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"is not uploaded: it is not as in merge_manifest\.json"
    ):
        push(kept, "org/mine", api=api)
    assert (hub.created, hub.commits) == ([], [])


def test_refusal_says_where_the_merge_is_and_how_to_repeat_the_upload(kept, hub, api):
    hub.refuses = True
    told = (
        f"the Hub did not take the merge .* it is kept in {re.escape(str(kept))}; .*hf upload"
    )
    with pytest.raises(ValueError, match=told):
        push(kept, "org/mine", api=api)
    assert (kept / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("repository", "merged_dir", "message"),
    [
        ("mine", "m", "push must be ORG/NAME of a repository on the Hub, got 'mine'"),
        ("a/b/c", "m", "push must be ORG/NAME"),
        ("org/..", "m", "push must be ORG/NAME"),
        (True, "m", "push must be ORG/NAME of a repository on the Hub, got True"),
        ("org/mine", None, "push needs merged_dir=FOLDER"),
    ],
)
def test_entry_is_checked_before_the_merge(repository, merged_dir, message, monkeypatch):
    with pytest.raises(ValueError, match="runs are offline: set SEME_ONLINE=1"):
        check_push("org/mine", "m")
    monkeypatch.setenv("SEME_ONLINE", "1")
    with pytest.raises(ValueError, match=message):
        check_push(repository, merged_dir)
    check_push(None, None)
    check_push("org/mine", "m")
