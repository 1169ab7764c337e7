"""Asking captioners: a server over real HTTP with its moods, and a model on this machine."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import judge_models
import pytest
from fake_chat import said, serving
from small_project import picture

from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.workflow import describing, describing_api

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / f"p{seed}.png", (90, 70), seed) for seed in range(6)]


def settings(url: str, **changes: Any) -> dict[str, Any]:
    plain = {"model": "seer", "prompt": "What is there?", "longest": 40, "key": "CHARLOOM_TEST_KEY", "recipe": 1}
    return {**plain, "base_url": url, **changes}


def made(images: list[Path], given: dict[str, Any], store: Store, log: list[str] | None = None) -> dict[Path, str]:
    return describing.make(images, given, store, lambda: "cpu", (log if log is not None else []).append)


def texts(images: list[Path], given: dict[str, Any], store: Store) -> dict[str, str]:
    return describing.recalled({image.stem: image for image in images}, given, store)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are counted, not waited."""
    pauses: list[float] = []
    original = describing_api.Api.__init__
    monkeypatch.setattr(
        describing_api.Api, "__init__", lambda self, given, log: original(self, given, log, pauses.append)
    )
    return pauses


def test_each_picture_is_asked_about_once(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_TEST_KEY", KEY)
    store = Store(tmp_path / "store")
    with serving(lambda number, body: (200, said(f" a woman\n number {number} "), {})) as chat:
        given = settings(chat.url)
        assert made(images[:4], given, store) == {}
        assert made(images, given, store) == {}
        assert len(chat.bodies) == 6
        assert sorted(texts(images, given, store).values()) == [f"a woman number {n}" for n in range(6)]
        # Another prompt or model is another question, another key in the environment is not.
        assert texts(images, {**given, "prompt": "And now?"}, store) == {}
        assert texts(images, {**given, "model": "other"}, store) == {}
        assert len(texts(images, {**given, "key": "OTHER"}, store)) == 6
        assert chat.headers[0]["Authorization"] == f"Bearer {KEY}"
        body = chat.bodies[0]
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("seer", 40, 0)
        assert body["messages"][0]["content"][0]["text"] == "What is there?"
        assert set(chat.pictures) == {(90, 70)}
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "store").rglob("*.json"))


def test_busy_servers_are_asked_again(images: list[Path], tmp_path: Path, quick: list[float]) -> None:
    moods = [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}),
        (503, b"<html>busy</html>", {}),
        (200, None, {}),
        (200, b'{"choices": [', {}),
        (200, said([{"type": "text", "text": "a man"}]), {}),
    ]
    log: list[str] = []
    with serving(lambda number, body: moods[number]) as chat:
        given = settings(chat.url)
        assert made(images[:1], given, Store(tmp_path), log) == {}
        assert texts(images[:1], given, Store(tmp_path)) == {"p0": "a man"}
    assert quick == [7.0, 4.0, 8.0, 16.0]
    assert "p0.png: the server says 429 (slow down); asking again in 7 s" in log


def test_what_one_picture_is_refused_another_gets(images: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def answer(number: int, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return {
            1: (200, {"choices": [{"message": {"content": None, "refusal": "a public figure"}}]}, {}),
            3: (400, {"error": "bad picture"}, {}),
            4: (403, {"error": {"code": "content_policy_violation", "message": "not this one"}}, {}),
        }.get(number, (200, said("somebody"), {}))

    with serving(answer) as chat:
        given = settings(chat.url)
        failed = made(images, given, store)
        assert len(failed) == 3 and len(texts(images, given, store)) == 3
        said_ = " | ".join(sorted(failed.values()))
        assert "does not describe it (a public figure)" in said_ and "refused (400, bad picture)" in said_
        chat.answer = lambda number, body: (200, said("somebody"), {})
        assert made(images, given, store) == {} and len(chat.bodies) == 9
        # Neither does one that cannot be read keep the others from being asked about.
        images[0].write_bytes(b"no picture")
        picture(images[1], (80, 80), 77)
        (why,) = made(images[:2], given, store).values()
        assert "p0.png: is not a picture that can be read" in why and len(chat.bodies) == 10


def test_what_no_picture_could_mend_stops_at_once(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLOOM_TEST_KEY", KEY)
    for status, body, headers, line in (
        (401, {"error": {"message": f"no such key: {KEY}"}}, {}, "refuses the key (401, no such key: …)"),
        (302, b"", {"Location": "http://127.0.0.1:9/"}, "points elsewhere (302"),
    ):
        with serving(lambda n, b, answer=(status, body, headers): answer) as chat:
            with pytest.raises(UserError) as error:
                made(images, settings(chat.url), Store(tmp_path / str(status)))
            assert line in str(error.value) and KEY not in str(error.value)
            assert len(chat.bodies) <= describing_api.AT_ONCE * 2


def test_a_server_that_drips_or_never_ends_is_left(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing_api, "PATIENCE", 0.2)
    monkeypatch.setattr(describing_api, "TRIES", 2)

    def silent(number: int, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        time.sleep(0.6)
        return 200, said("late"), {}

    for answer, line in (
        (silent, "no answer in time, 2 times"),
        (lambda n, b: (200, said("x" * 2**21), {}), "larger than any caption"),
    ):
        with serving(answer) as chat:
            (why,) = made(images[:1], settings(chat.url), Store(tmp_path)).values()
            assert line in why


def test_nobody_is_asked_where_the_answer_cannot_be_kept(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with serving(lambda n, b: (200, said("somebody"), {})) as chat:
        with pytest.raises(UserError, match="the disk is full; free some space"):
            made(images, settings(chat.url), Store(tmp_path / "store"))
        assert not chat.bodies


def test_a_server_elsewhere_needs_a_key(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHARLOOM_TEST_KEY", raising=False)
    with pytest.raises(UserError, match="CHARLOOM_TEST_KEY: is not set; put the key of the API"):
        made(images, settings("https://captions.example/v1"), Store(tmp_path))


def test_a_model_on_this_machine_says_the_same_each_time(images: list[Path], tmp_path: Path) -> None:
    folder = judge_models.vision_language(tmp_path / "model")
    given = {"model": str(folder), "revision": "main", "prompt": "a woman", "longest": 12, "recipe": 1}
    assert made(images[:2], given, Store(tmp_path / "one")) == {}
    assert made([images[1]], given, Store(tmp_path / "two")) == {}
    one, two = texts(images[:2], given, Store(tmp_path / "one")), texts(images[1:2], given, Store(tmp_path / "two"))
    assert one["p1"] == two["p1"] != "" and "a woman" not in one["p1"]
    # The model's contents are its identity, not its folder's name.
    folder.rename(tmp_path / "moved")
    moved = {**given, "model": str(tmp_path / "moved")}
    assert texts(images[:2], moved, Store(tmp_path / "one")) == one
    (tmp_path / "moved" / "generation_config.json").write_text('{"max_length": 9}')
    assert texts(images[:2], moved, Store(tmp_path / "one")) == {}
    images[0].write_bytes(b"no picture")
    (why,) = made(images[:1], moved, Store(tmp_path / "one")).values()
    assert "p0.png: is not a picture that can be read" in why


@pytest.mark.parametrize("answer", [b"[" * 100_000, b'{"choices": 1}', b'{"choices": [{"message": []}]}'])
def test_an_answer_of_another_shape_is_asked_for_again(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setenv("CHARLOOM_TEST_KEY", KEY)
    store = Store(tmp_path / "store")
    with serving(lambda number, body: (200, answer if number == 0 else said("a \x1b[2Jwoman"), {})) as chat:
        assert made(images[:1], settings(chat.url), store) == {}
        assert len(chat.bodies) == 2
        assert list(texts(images[:1], settings(chat.url), store).values()) == ["a [2Jwoman"]
