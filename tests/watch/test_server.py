"""The live page over HTTP, attacks included."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from cli_helpers import call, said

pytest.importorskip("starlette", reason="needs the extra [watch]")
pytest.importorskip("httpx", reason="needs httpx")
from starlette.testclient import TestClient  # noqa: E402

from charloom.core.errors import UserError
from charloom.watch import choosing, serve, stream
from charloom.watch.app import Server
from charloom.watch.editing import digest

CHARACTER = "config/characters/mara.yaml"
ORIGIN = "http://127.0.0.1:8642"


@pytest.fixture
def server(project):
    return Server(project, 8642)


@pytest.fixture
def client(server):
    return TestClient(server.app(), base_url=ORIGIN)


@pytest.fixture
def order(project, server):
    """(body, headers) of a click on "Choose this one"."""
    seen = digest((project / CHARACTER).read_bytes())
    return {"name": "mara", "step": 50, "seen": seen}, {"origin": ORIGIN, "x-charloom-token": server.token}


def test_the_page_carries_the_token_and_forbids_everything_foreign(client, server):
    reply = client.get("/c/mara")
    assert reply.status_code == 200 and server.token in reply.text
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    nonce = re.search(r"script-src 'nonce-(.+?)'", policy)[1]
    assert f'<script nonce="{nonce}">' in reply.text and nonce not in client.get("/c/mara").text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", reply.text)
    assert client.get("/c/nobody").status_code == 404


def test_two_sessions_have_two_tokens(project):
    assert Server(project, 1).token != Server(project, 1).token


def test_a_choice_is_written(client, order, project):
    reply = client.post("/choose", json=order[0], headers=order[1])
    assert reply.json()["ok"], reply.text
    assert yaml.safe_load((project / CHARACTER).read_text())["checkpoint"] == 50
    assert client.get("/state?name=mara").json()["configured"] == 50


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example:8642"}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": ""},
     {"x-charloom-token": ""}, {"x-charloom-token": "guess"}, {"sec-fetch-site": "cross-site"}],
)  # fmt: skip
def test_an_attack_changes_nothing(client, order, project, headers):
    before = (project / CHARACTER).read_bytes()
    reply = client.post("/choose", json=order[0], headers=order[1] | headers)
    assert reply.status_code == 403 and reply.text.count("\n") == 1
    assert (project / CHARACTER).read_bytes() == before


def test_a_foreign_host_reads_nothing(client, server):
    for path in ("/", "/c/mara", "/state", "/events", "/files/mara/samples/step-000050/01.png"):
        reply = client.get(path, headers={"host": "evil.example"})
        assert reply.status_code == 403 and server.token not in reply.text


@pytest.mark.parametrize(
    "changes", [{"step": 51}, {"step": "50"}, {"step": True}, {"step": None}, {"step": "auto\nx: 1"},
                {"name": "nobody"}, {"name": "../../config"}, {"seen": "0" * 64}, {"seen": None}],
)  # fmt: skip
def test_a_wrong_order_changes_nothing(client, order, project, changes):
    before = (project / CHARACTER).read_bytes()
    reply = client.post("/choose", json=order[0] | changes, headers=order[1])
    assert reply.status_code == 409 and not reply.json()["ok"]
    assert (project / CHARACTER).read_bytes() == before


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b"7", b"[" * 9_000, b'{"name": "' + b"x" * 20_000 + b'"}']
)
def test_a_request_that_is_none_is_refused(client, order, body):
    assert client.post("/choose", content=body, headers=order[1]).status_code == 400


def test_a_choice_cannot_be_asked_for_by_a_link(client, order):
    assert client.get("/choose", params=order[0], headers=order[1]).status_code == 405


def test_pictures_are_handed_out_and_nothing_else(client, project):
    reply = client.get("/files/mara/samples/step-000050/01.png")
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/png"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    for path in ("..%2f..%2fconfig/config.yaml", "%2e%2e/config/config.yaml", "mara/%2e%2e/%2e%2e/config/config.yaml",
                 "/etc/hostname", "%2fetc%2fhostname", "mara", "mara/samples/..%5c..%5cx.png"):  # fmt: skip
        assert client.get(f"/files/{path}").status_code == 404, path
    (project / "results/mara/out.txt").symlink_to(project / "config/config.yaml")
    assert client.get("/files/mara/out.txt").status_code == 404


def test_a_report_runs_in_an_origin_of_its_own(client, project):
    (project / "results/mara/report.html").write_text("<script>1</script>")
    policy = client.get("/files/mara/report.html").headers["content-security-policy"]
    assert policy.startswith("sandbox ") and "allow-same-origin" not in policy


def test_events_come_when_something_changes(project):
    server = Server(project, 8642, pause=0.01)

    class Request:
        asked = 0
        query_params = {"name": "mara"}

        async def is_disconnected(self) -> bool:
            Request.asked += 1
            if Request.asked == 3:
                (project / "results/mara/checkpoints/step-000100.safetensors").write_bytes(b"x")
            return Request.asked > 8

    async def collect() -> list[str]:
        return [text async for text in (await server.events(Request())).body_iterator]

    server.watcher.machine.now = lambda: {"gpus": [], "memory": {"used": 1, "total": 2}}
    with ThreadPoolExecutor(1) as pool:  # a browser's tests leave a running loop in this thread
        events = pool.submit(asyncio.run, collect()).result()
    there = [[one["there"] for one in json.loads(text.removeprefix("data: "))["checkpoints"]] for text in events]
    assert there[0] == [True, False] and there[-1] == [True, True] and len(events) == 2


def test_a_page_without_news_gets_a_sign_of_life(monkeypatch):
    """Writing to a page that was closed is what ends its stream."""
    monkeypatch.setattr(stream, "SILENCE", 0.0)

    class Request:
        looks = 3

        async def is_disconnected(self) -> bool:
            self.looks -= 1
            return self.looks < 0

    async def state() -> str:
        await asyncio.sleep(0.001)
        return "{}"

    async def collect() -> list[str]:
        return [text async for text in stream.changes(Request(), asyncio.Event(), state, 0.0).body_iterator]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, collect()).result() == ["data: {}\n\n", *[": still here\n\n"] * 2]


def test_the_command_prints_its_address_and_serves(project, monkeypatch):
    monkeypatch.chdir(project)
    served = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: served.extend(sockets))
    result = call("watch", "mara", "--port", "0")
    assert result.exit_code == 0 and len(served) == 1, said(result)
    assert said(result) == f"http://127.0.0.1:{served[0].getsockname()[1]}/c/mara  (stop with Ctrl+C)\n"
    served[0].close()


def test_a_taken_port_and_a_missing_package_are_one_line(project, monkeypatch):
    listener = serve.bound(None)
    listener.listen()
    with pytest.raises(UserError, match="choose another with --port"):
        serve.bound(listener.getsockname()[1])
    listener.close()
    with pytest.raises(UserError, match="port 99999999 cannot be used"):
        serve.bound(99999999)
    with pytest.raises(UserError, match="there is no config/characters/marra.yaml; .*mara"):
        serve.serve(project, "marra", None)
    monkeypatch.setattr(serve, "missing", lambda: serve.INSTALL)
    with pytest.raises(UserError, match=r"pip install 'charloom\[watch\]'"):
        serve.serve(project, None, None)


def test_a_preview_is_shown_from_the_store(ahead, client):
    newest = client.get("/state?name=mara").json()["previews"][0]
    reply = client.get(newest["pictures"][0]["file"])
    assert reply.headers["content-type"] == "image/png" and "sandbox" in reply.headers["content-security-policy"]
    for key in ("0" * 64, "..", "%2e%2e%2fmini", "config", newest["pictures"][0]["file"][-64:].upper()):
        assert client.get(f"/previews/mara/{key}").status_code == 404
    assert client.get(newest["pictures"][0]["file"].replace("mara", "nobody")).status_code == 404


def test_a_choice_while_it_trains_says_how_to_end_it(ahead, client, server):
    seen = digest((ahead / CHARACTER).read_bytes())
    headers = {"origin": ORIGIN, "x-charloom-token": server.token}
    reply = client.post("/choose", json={"name": "mara", "step": 100, "seen": seen}, headers=headers)
    assert "when training has ended (or end it now: charloom ship mara --checkpoint 100)" in reply.json()["text"]


def test_a_choice_that_was_written_is_never_answered_with_an_error(client, order, project, server, monkeypatch):
    """The character may be broken by the user's next edit before the answer is made."""

    def written_then_broken(path, step, seen, choose=choosing.choose):
        choose(path, step, seen)
        server.watcher.forget()
        path.write_text(path.read_text() + "nonsense: [")

    monkeypatch.setattr("charloom.watch.app.choosing.choose", written_then_broken)
    reply = client.post("/choose", json=order[0], headers=order[1])
    assert reply.status_code == 200 and "checkpoint: 50 written into mara.yaml" in reply.json()["text"]
