"""A push that cannot succeed says why and what to do; one that can sends the bundle and nothing else."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from mergeopt.errors import InputError, MergeoptError
from mergeopt.report.submit.push import push


def pushed(bundle: Path, endpoint: str, *, public: bool = False) -> str:
    return push(bundle, "me/model", public=public, api=HfApi(endpoint=endpoint, token="hf_x"))


def refused(bundle: Path, endpoint: str) -> str:
    with pytest.raises(MergeoptError) as caught:
        pushed(bundle, endpoint)
    line = str(caught.value)
    assert line.startswith("not pushed: ") and "\n" not in line
    assert f"hf upload me/model {bundle} ." in line and (bundle / "README.md").exists()
    return line


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests offline (CI does) still reaches the Hub in here."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "search").mkdir(parents=True)
    for name in ("README.md", "config.json", ".mergeopt-bundle", "search/items.jsonl"):
        (folder / name).write_text("{}")
    return folder


class Hub:
    """As much of the Hub as a push meets."""

    def __init__(self, *, status: int = 200, private: bool = True) -> None:
        self.status, self.private = status, private
        self.endpoint = ""
        self.committed: list[str] = []
        self.created: dict[str, object] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        if self.status != 200:
            return self.status, {"error": "no"}
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return 200, {"url": f"{self.endpoint}/me/model"}
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines() if line]
            self.committed = sorted(line["value"]["path"] for line in lines if line["key"] == "file")
            return 200, {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.endpoint}/me/model/commit/aaaa"}
        if path.startswith("/api/models/me/model"):
            return 200, {"id": "me/model", "private": self.private, "sha": "b" * 40, "siblings": [], "tags": []}
        return 200, {}


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, data = hub.answer(self.command, self.path.partition("?")[0], body)
            text = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_HEAD = _do

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub.endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_push_sends_the_bundle_privately(bundle: Path) -> None:
    hub = Hub()
    with serving(hub) as endpoint:
        assert pushed(bundle, endpoint) == f"{endpoint}/me/model/commit/aaaa"
    assert hub.created["visibility"] == "private"
    assert hub.committed == ["README.md", "config.json"]


def test_a_public_repository_is_not_written_to_by_accident(bundle: Path) -> None:
    hub = Hub(private=False)
    with serving(hub) as endpoint:
        with pytest.raises(InputError, match="exists and is public; add --public"):
            pushed(bundle, endpoint)
        assert not hub.committed
        pushed(bundle, endpoint, public=True)
    assert hub.created["visibility"] == "public" and hub.committed


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "does not know this token"), (403, "may not write to me"), (418, "the Hub answered 418")],
)
def test_refusals(status: int, said: str, bundle: Path) -> None:
    with serving(Hub(status=status)) as endpoint:
        assert said in refused(bundle, endpoint)


def test_an_answer_of_somebody_else(bundle: Path) -> None:
    hub = Hub()
    hub.answer = lambda *_: (200, {"welcome": "to the hotel"})  # type: ignore[method-assign]
    with serving(hub) as endpoint:
        assert f"the answer of {endpoint} makes no sense" in refused(bundle, endpoint)


def test_without_a_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "http://127.0.0.1:9 cannot be reached" in refused(bundle, "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(bundle, "http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["", "model", "a/b/c", "../x/y", "a/b--c", "me/mod el", "/model"])
def test_names_that_no_repository_has(name: str, bundle: Path) -> None:
    with pytest.raises(InputError, match="no name of a repository"):
        push(bundle, name)
