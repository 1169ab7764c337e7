"""The server of the board: what it shows, what it changes, and whom it refuses."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import small_project
import yaml
from board_project import CHARACTER, SAID
from captioned import say
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra [watch]")
pytest.importorskip("httpx", reason="needs httpx")
from starlette.testclient import TestClient  # noqa: E402

from charloom.core.store import Store  # noqa: E402
from charloom.watch import board_routes  # noqa: E402
from charloom.watch.app import Server  # noqa: E402

ORIGIN = "http://127.0.0.1:8642"
CHANGES = ("caption", "proposal", "exclude", "tick", "check", "put?picture=fullbody-01")


class Page:
    """A page that is open: it asks as the browser would."""

    def __init__(self) -> None:
        self.server = Server(Path(), 8642, pause=0.0)
        self.client = TestClient(self.server.app(), base_url=ORIGIN)
        self.headers = {"origin": ORIGIN, "x-charloom-token": self.server.token}

    def state(self) -> dict:
        """What the page shows once the check is done."""
        for _ in range(600):
            state = self.client.get("/board/mara/state").json()
            if state.get("problem") or not (check := state["check"])["running"] and (check["done"] or check["problem"]):
                return state
            time.sleep(0.05)
        raise AssertionError(state["check"])

    def picture(self, name: str) -> dict:
        return next(one for one in self.state()["pictures"] if one["name"] == name)

    def ask(self, path: str, status: int = 200, headers: dict | None = None, **asked) -> dict:
        reply = self.client.post(f"/board/mara/{path}", json=asked, headers=self.headers | (headers or {}))
        assert reply.status_code == status, reply.text
        return reply.json() if status != 403 else {}

    def drop(self, data: bytes, status: int = 200, **asked) -> dict:
        reply = self.client.post("/board/mara/put", params=asked, content=data, headers=self.headers)
        assert reply.status_code == status, reply.text
        return reply.json()


@pytest.fixture
def page(data_set):
    return Page()


def everything(folder: Path = Path()) -> dict[str, bytes]:
    """Every file of the user's."""
    return {path.as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.parts[0] not in ("work", "results")}  # fmt: skip


def encoded(kind: str = "PNG", size: tuple[int, int] = (60, 50), **how) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind, **how)
    return out.getvalue()


def test_everything_is_there_before_anything_was_made(page):
    state = page.state()
    found = {one["name"]: one for one in state["pictures"]}
    assert list(found) == ["reference", "closeup-01", "medium-01", "fullbody-01", "more/one"]
    assert [bool(one["picture"]) for one in found.values()] == [False, True, True, False, True]
    assert (
        found["closeup-01"]["caption"].startswith("a close-up portrait photo of m4ra") and not found["medium-01"]["own"]
    )
    assert found["more/one"]["caption"] == "m4ra <b>once</b> more" and found["more/one"]["own"]
    assert "seen from behind" in found["fullbody-01"]["prompt"] and found["fullbody-01"]["takes"]
    assert state["check"]["done"] and not state["check"]["errors"]
    Path("more/One.txt").write_text("a woman\n")
    page.server.board.forget()
    found, check = page.picture("more/one")["findings"], page.state()["check"]
    assert [one["rule"] for one in found] == ["trigger-count"] and check["errors"] + check["warnings"] == 1


def test_every_kind_of_source_has_a_board(page):
    doll = {**small_project.CHARACTER, "class": "woman"}
    small_project.write_yaml(CHARACTER, doll)
    state = page.state()
    assert [one["takes"] for one in state["pictures"]] == [False] * 3 and "are drawn" in state["fixed"]
    small_project.edit(CHARACTER, images={"source": "gemini", "count": 3, "gemini": {}})
    page.server.board.forget()
    assert "come from gemini" in page.state()["fixed"] and all(one["prompt"] for one in page.state()["pictures"])
    small_project.write_yaml(CHARACTER, {"trigger": "m4ra", "images": {"source": "folder", "path": "pics"}})
    page.server.board.forget()
    state = page.state()
    assert state["adds"] and [one["name"] for one in state["pictures"]] == ["closeup-01", "medium-01"]
    small_project.write_yaml(CHARACTER, {"trigger": "m4ra", "images": {"source": "nowhere"}})
    page.server.board.forget()
    assert "images.source" in page.state()["problem"]


def test_the_page_carries_the_token_and_forbids_everything_foreign(page):
    reply = page.client.get("/c/mara/board")
    assert page.server.token in reply.text and "default-src 'none'" in reply.headers["content-security-policy"]
    assert page.client.get("/c/nobody/board").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example:8642"}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": ""},
     {"x-charloom-token": ""}, {"x-charloom-token": "guess"}, {"sec-fetch-site": "cross-site"}],
)  # fmt: skip
def test_an_attack_changes_nothing(page, headers):
    seen, before = page.picture("medium-01")["seen"], everything()
    asked = {"picture": "medium-01", "text": "x", "seen": seen, "out": True, "on": True, "take": True, "proposal": ""}
    for path in CHANGES:
        page.ask(path, 403, headers, **asked)
        assert page.client.get(f"/board/mara/{path}", headers=page.headers).status_code == 405
    assert everything() == before and not Path("results/mara/prompts-done.json").exists()


def test_a_foreign_host_sees_nothing(page):
    for path in ("/c/mara/board", "/board/mara/state", "/board/mara/events", "/board/mara/history?picture=medium-01",
                 "/board/mara/picture?picture=medium-01"):  # fmt: skip
        assert page.client.get(path, headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("name", ["../medium-01", "zzz/medium-01", "/etc/passwd", "more/../more/one", "pics/medium-01",
                                  "medium-01\0", "", "config", "more/One", "..", "reference/x"])  # fmt: skip
def test_what_is_no_picture_of_the_character_is_neither_shown_nor_changed(page, name):
    before = everything()
    for path in ("picture", "history"):
        assert page.client.get(f"/board/mara/{path}", params={"picture": name}).status_code == 404
    page.ask("caption", 409, picture=name, text="x", seen="")
    page.ask("exclude", 409, picture=name, out=True)
    page.ask("tick", 409, picture=name, on=True)
    page.drop(encoded(), 400, picture=name)
    assert everything() == before


@pytest.mark.parametrize(
    "asked", [{}, {"picture": 7, "text": "x", "seen": ""}, {"picture": "medium-01", "text": ["x"]}]
)
def test_a_request_that_cannot_be_read_is_one_line(page, asked):
    assert page.ask("caption", 400, **asked)["text"] == "the request cannot be read"
    reply = page.client.post("/board/mara/caption", content=b"x" * 70_000, headers=page.headers)
    assert reply.status_code == 413
    reply = page.client.post("/board/mara/caption", content=b"[" * 60_000, headers=page.headers)
    assert reply.status_code == 400 and reply.json()["text"] == "the request cannot be read"
    assert page.client.post("/board/nobody/caption", json=asked, headers=page.headers).status_code in (400, 409)


def test_half_a_character_is_refused_before_anything_is_written(page):
    before, seen = everything(), page.picture("medium-01")["seen"]
    asked = b'{"picture": "medium-01", "text": "m4ra \\ud800", "seen": "%s"}' % seen.encode()
    reply = page.client.post("/board/mara/caption", content=asked, headers=page.headers)
    assert reply.status_code == 409 and "half a character (U+D800)" in reply.json()["text"]
    assert everything() == before


def test_a_caption_becomes_the_users_own_with_its_history(page):
    before = page.picture("medium-01")
    page.ask("caption", picture="medium-01", text=" m4ra\nin a  car", seen=before["seen"])
    assert Path("config/captions/mara/medium-01.txt").read_text() == "m4ra in a car\n"
    after = page.picture("medium-01")
    assert after["caption"] == "m4ra in a car" and after["own"]
    page.ask("caption", picture="medium-01", text="m4ra in a bus", seen=after["seen"])
    history = page.client.get("/board/mara/history?picture=medium-01").json()
    assert [(one["text"], one["by"]) for one in history] == [("m4ra in a car", "you")]
    assert (
        "without words"
        in page.ask("caption", 409, picture="medium-01", text=" \n", seen=page.picture("medium-01")["seen"])["text"]
    )
    one = page.picture("more/one")
    page.ask("caption", picture="more/one", text="m4ra twice", seen=one["seen"])
    assert Path("more/One.txt").read_text() == "m4ra twice\n"


@pytest.mark.parametrize("meanwhile", ["config/captions/mara/medium-01.txt", "pics/medium-01.txt", str(CHARACTER)])
def test_a_caption_that_changed_meanwhile_is_shown_and_not_lost(page, meanwhile):
    seen = page.picture("medium-01")["seen"]
    path = Path(meanwhile)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path == CHARACTER:  # the phrases that the caption is composed from
        path.write_text(path.read_text().replace("arms crossed", "as of theirs"))
    else:
        path.write_text("m4ra as of theirs\n")
    before = everything()
    answer = page.ask("caption", 409, picture="medium-01", text="m4ra, mine", seen=seen)
    assert "as of theirs" in answer["current"] and everything() == before
    page.ask("caption", picture="medium-01", text="m4ra, mine", seen=answer["seen"])
    assert page.picture("medium-01")["caption"] == "m4ra, mine"
    if path.parent.name == "mara":
        assert page.client.get("/board/mara/history?picture=medium-01").json()[0]["text"] == "m4ra as of theirs"


def test_a_proposal_is_taken_or_not_and_never_over_another_caption(page):
    say(SAID)
    first, second = page.picture("closeup-01"), page.picture("medium-01")
    assert {kind for kind, _ in first["proposal"]["diff"]} == {"same", "less", "more"}
    answer = page.ask("proposal", 409, picture="closeup-01", proposal="another", take=True, seen=first["seen"])
    assert "the proposal has changed or is gone" in answer["text"]
    page.ask("proposal", picture="closeup-01", proposal=first["proposal"]["proposal"], take=True, seen=first["seen"])
    taken = page.picture("closeup-01")
    assert taken["caption"] == first["proposal"]["proposal"] and taken["own"] and taken["proposal"] is None
    Path("pics/medium-01.txt").write_text("m4ra, theirs")
    text = second["proposal"]["proposal"]
    answer = page.ask("proposal", 409, picture="medium-01", proposal=text, take=True, seen=second["seen"])
    assert answer["current"] == "m4ra, theirs" and not Path("config/captions/mara/medium-01.txt").exists()
    Path("pics/medium-01.txt").unlink()
    page.ask("proposal", picture="medium-01", proposal=text, take=False, seen=page.picture("medium-01")["seen"])
    assert page.picture("medium-01")["caption"] == second["caption"] and page.picture("medium-01")["own"]


def test_a_picture_is_left_out_and_taken_back(page):
    before, text = everything(), CHARACTER.read_text()
    page.ask("exclude", picture="medium-01", out=True)
    page.ask("exclude", picture="more/one", out=True)
    assert yaml.safe_load(CHARACTER.read_text())["images"]["exclude"] == ["medium-01", "more/one"]
    state = page.state()
    out = {one["name"]: one for one in state["pictures"] if one["excluded"]}
    assert list(out) == ["medium-01", "more/one"] and all(
        one["picture"] and not one["findings"] for one in out.values()
    )
    assert page.client.get(out["more/one"]["picture"]).headers["content-type"] == "image/webp"
    for name in out:
        page.ask("exclude", picture=name, out=False)
    assert CHARACTER.read_text() == text and everything() == before
    for name in ("medium-01", "closeup-01"):
        page.ask("exclude", picture=name, out=True)
    assert "last picture" in page.ask("exclude", 409, picture="fullbody-01", out=True)["text"]


def test_ticks_are_kept_and_a_picture_ticks_itself(page):
    page.ask("tick", picture="fullbody-01", on=True)
    page.ask("tick", picture="reference", on=True)
    assert Page().picture("fullbody-01")["ticked"] and Page().picture("reference")["ticked"]
    page.ask("tick", picture="fullbody-01", on=False)
    assert not Page().picture("fullbody-01")["ticked"]


def test_a_dropped_picture_lands_where_its_shot_is_looked_for(page):
    missing, there = page.picture("fullbody-01"), page.picture("medium-01")
    assert missing["version"] == ""
    page.drop(encoded("JPEG"), picture="fullbody-01", version="")
    page.drop(encoded(), picture="reference", version="")
    assert Path("pics/fullbody-01.jpg").is_file() and Path("pics/reference.png").is_file()
    former = Path("pics/medium-01.png").read_bytes()
    page.drop(encoded("WEBP"), picture="medium-01", version=there["version"])
    assert Path("pics/medium-01.webp").is_file() and not Path("pics/medium-01.png").exists()
    assert [path.read_bytes() for path in Path("pics/.trash").iterdir()] == [former]
    after = page.picture("medium-01")
    assert after["picture"] != there["picture"]
    before = everything()
    assert (
        "has changed since you saw it"
        in page.drop(encoded(), 409, picture="medium-01", version=there["version"])["text"]
    )
    assert everything() == before


def script() -> bytes:
    return b"<script>alert(1)</script>"


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.html", script())
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", script(), zipped(), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4",
                                  b"GIF89a=1/*", encoded()[:60], b"MZ" + encoded()], ids=range(8))  # fmt: skip
def test_what_is_no_picture_is_refused_before_anything_is_written(page, data):
    before = everything()
    answer = page.drop(data, 400, picture="fullbody-01", version="")
    assert answer["text"].startswith("the file ") and "\n" not in answer["text"] and "/tmp" not in answer["text"]
    assert everything() == before


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_a_picture_that_is_something_else_too_never_reaches_a_browser_as_that(page, kind):
    page.drop(encoded(kind) + script() + zipped(), picture="fullbody-01", version="", file="x.html")
    (landed,) = Path("pics").glob("fullbody-01.*")
    assert landed.suffix in (".png", ".gif", ".jpg")
    for size in ("small", "large"):
        reply = page.client.get(page.picture("fullbody-01")["picture"] + f"&size={size}")
        assert reply.headers["content-type"] == "image/webp" and reply.headers["x-content-type-options"] == "nosniff"
        assert b"script" not in reply.content and Image.open(io.BytesIO(reply.content)).format == "WEBP"
    assert page.client.get("/files/../pics/fullbody-01.png").status_code == 404


def test_too_much_is_refused_whether_it_says_so_or_not(page, monkeypatch):
    monkeypatch.setattr(board_routes, "UPLOAD", 1000)
    before = everything()
    assert "at most" in page.drop(b"x" * 1001, 413, picture="fullbody-01", version="")["text"]

    def unsaid():
        yield from (b"x" * 400 for _ in range(10))

    reply = page.client.post("/board/mara/put?picture=fullbody-01", content=unsaid(), headers=page.headers)
    assert reply.status_code == 413 and everything() == before


def test_a_bomb_is_refused(page):
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    assert "million pixels" in page.drop(out.getvalue(), 400, picture="fullbody-01", version="")["text"]


def test_thumbnails_are_small_kept_and_new_when_the_picture_is(page, monkeypatch):
    small_project.picture(Path("pics/medium-01.png"), (1600, 1200), 3)
    address = page.picture("medium-01")["picture"]
    reply = page.client.get(address)
    assert max(Image.open(io.BytesIO(reply.content)).size) == 384 and "immutable" in reply.headers["cache-control"]
    (kept,) = Path("work/store/thumbnail").rglob("*.webp")
    assert kept.read_bytes() == reply.content == page.client.get(address).content
    small_project.picture(Path("pics/medium-01.png"), (1600, 1200), 4)
    page.server.board.forget()
    address = page.picture("medium-01")["picture"]
    with monkeypatch.context() as full:
        full.setattr(Store, "put", lambda *_, **how: (_ for _ in ()).throw(OSError(28, "full")))
        assert page.client.get(address).headers["content-type"] == "image/webp"
    Path("pics/medium-01.png").write_bytes(b"broken")
    page.server.board.forget()
    reply = page.client.get(page.picture("medium-01")["picture"])
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("image/svg")
    assert reply.headers["cache-control"] == "no-store"
    assert any(one["level"] == "error" for one in page.picture("medium-01")["findings"])


def test_the_check_runs_again_when_a_caption_changes_and_when_asked(page):
    before = page.picture("medium-01")
    page.ask("caption", picture="medium-01", text="a woman without the word", seen=before["seen"])
    found = page.picture("medium-01")["findings"]
    assert any("m4ra" in one["what"] or "trigger" in one["rule"] for one in found)
    shutil.rmtree("work")
    page.ask("check")
    assert page.state()["check"]["done"]
