# ruff: noqa: F811 (fixtures that are imported)
"""Pictures from APIs: the requests, the answers, and how unusable answers are handled."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from fake_generators import FALSE_REFUSAL, KEY, Asked, Fake, Gemini, OpenAI, encoded, of_prompt, png, running
from generator_shop import SERVERS, Shop, fake, no_certificates, shop, source  # noqa: F401 (fixtures)
from PIL import Image

from charloom.core.errors import UserError
from charloom.dataset import sources
from charloom.dataset.sources import web
from charloom.dataset.sources.orders import KIND, Order
from charloom.dataset.sources.purchases import RUN, Purchases
from charloom.dataset.sources.session import Patience, Session


def test_the_prompt_goes_out_with_the_reference_and_the_picture_is_kept_as_it_came(shop: Shop, fake: Fake) -> None:
    assert shop.get(1) == {}
    (asked,) = fake.asked
    assert asked.prompt == "picture 1" and asked.pictures == [png(999)]
    assert shop.kept(1) == of_prompt("picture 1", 0)
    assert "some-image-model" in (asked.path if shop.source == "gemini" else asked.body["model"])
    if shop.source == "gemini":
        assert asked.headers["x-goog-api-key"] == KEY
        shape = asked.body["generationConfig"]["imageConfig"]
        assert (shape["aspectRatio"], shape["imageSize"]) == ("1:1", "1K")
    else:
        assert asked.path == "/v1/images/edits" and asked.headers["authorization"] == f"Bearer {KEY}"
        assert (asked.body["size"], asked.body["quality"], asked.body["input_fidelity"]) == (
            "1024x1024",
            "high",
            "high",
        )


def test_a_reference_is_drawn_from_words_alone(shop: Shop, fake: Fake) -> None:
    one = shop.order(1)
    order = Order("reference", one.settings)
    session = Session(shop.store, Purchases(None), shop.said.append, lambda: sources.get(shop.source).open(shop.how))
    assert session.get([order]) == {}
    (asked,) = fake.asked
    assert asked.pictures == [] and asked.prompt == "picture 1"
    if shop.source == "openai":
        assert asked.path == "/v1/images/generations" and "input_fidelity" not in asked.body


def test_nothing_is_bought_twice(shop: Shop, fake: Fake) -> None:
    shop.get(1, 2)
    before = shop.kept(1)
    assert shop.get(1, 2, 3) == {}
    assert [one.prompt for one in fake.asked] == ["picture 1", "picture 2", "picture 3"]
    assert shop.kept(1) == before and shop.counted() == ["bought"] * 3


def test_each_picture_is_kept_the_moment_it_comes(shop: Shop, fake: Fake) -> None:
    """A kill at any moment loses nothing: when the second request arrives, the first picture is stored and counted."""
    seen = []

    def draw(prompt: str, attempt: int) -> bytes:
        seen.append(([n for n in (1, 2, 3) if shop.has(n)], len(shop.counted())))
        return of_prompt(prompt, attempt)

    fake.draw = draw
    shop.get(1, 2, 3)
    assert seen == [([], 0), ([1], 1), ([1, 2], 2)]


TROUBLE: dict[str, Any] = {
    "429": 429,
    "500": 500,
    "503": 503,
    "stalls": "stalls",
    "drips": "drips",
    "cut": "cut",
}


@pytest.mark.parametrize("mood", TROUBLE)
def test_what_fails_for_a_while_is_asked_for_again(shop: Shop, fake: Fake, mood: str) -> None:
    fake.moods = [TROUBLE[mood], TROUBLE[mood]]
    shop.how["timeout"] = 0.3 if mood in ("stalls", "drips") else 20.0
    # On a busy machine good answers may come too late as well.
    assert shop.get(1, patience=Patience(wrong=99)) == {}
    assert len(fake.asked) >= 3 and shop.kept(1) == of_prompt("picture 1", len(fake.asked) - 1)
    assert 1.0 <= shop.waited[0] <= 2.0 <= shop.waited[1] <= 4.0
    assert mood != "drips" or shop.said[0].startswith("shot-01: no complete answer within 0.3 s; again in ")
    # An answer that was lost on its way may have been charged for; one that was never given was not.
    lost = len(fake.asked) - 1 if mood in ("stalls", "drips", "cut") else 0
    assert shop.counted() == ["lost"] * lost + ["bought"]


def test_a_server_may_ask_for_more_patience(shop: Shop, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SERVERS[shop.source], "retry_after", "37")
    fake.moods = [429]
    shop.get(1)
    assert shop.waited == [37.0]


def test_a_storm_of_429_ends_the_run_and_keeps_what_came(shop: Shop, fake: Fake) -> None:
    fake.moods = ["well", *[429] * 20]
    with pytest.raises(UserError, match=r"^shot-02: no picture after 7 tries \(the server answers 429\); run again"):
        shop.get(1, 2, 3)
    assert shop.has(1) and not shop.has(2) and len(fake.asked) == 8
    assert all(a <= 60 for a in shop.waited) and shop.waited[-1] > shop.waited[0]
    fake.moods = []
    assert shop.get(1, 2, 3) == {} and len(fake.asked) == 10


def test_answers_that_get_lost_are_not_paid_for_again_and_again(shop: Shop, fake: Fake) -> None:
    fake.moods = ["cut"] * 20
    with pytest.raises(UserError, match="no picture after 3 tries"):
        shop.get(1)
    assert shop.counted() == ["lost"] * 3


def test_a_refused_prompt_is_repeated_in_a_fresh_chat(shop: Shop, fake: Fake) -> None:
    fake.moods = ["well", "well", "refused", "well"]
    assert shop.get(1, 2, 3, 4) == {}
    assert [one.prompt for one in fake.asked] == [f"picture {n}" for n in (1, 2, 3, 3, 4)]
    if shop.source == "gemini":
        assert [one.turns for one in fake.asked] == [1, 2, 3, 1, 2]
        assert any(FALSE_REFUSAL[:60] in line for line in shop.said)
    # A refusal costs nothing, and waiting would not help.
    assert shop.counted() == ["bought", "bought", "refused", "bought", "bought"] and shop.waited == []


def test_what_is_always_refused_is_given_up_and_the_others_come(shop: Shop, fake: Fake) -> None:
    fake.moods = ["refused"] * 4
    failed = shop.get(1, 2)
    assert list(failed) == ["shot-01"] and failed["shot-01"].startswith("is refused (")
    assert not shop.has(1) and shop.has(2) and len(fake.asked) == 5


def test_what_was_given_up_is_not_asked_for_by_every_job_of_a_run(
    shop: Shop, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, "run 1")
    fake.moods = ["refused"] * 4
    first = shop.get(1)
    assert shop.get(1) == first and len(fake.asked) == 4
    monkeypatch.setenv(RUN, "run 2")
    assert shop.get(1) == {} and len(fake.asked) == 5


def test_jobs_that_waited_do_not_wait_again_for_a_server_in_trouble(
    shop: Shop, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, "run 1")
    fake.moods = [429] * 20
    for _ in range(3):
        with pytest.raises(UserError, match="no picture after 7 tries"):
            shop.get(1)
    assert len(fake.asked) == 7
    fake.moods = []
    monkeypatch.setenv(RUN, "run 2")
    assert shop.get(1) == {}


WRONG: dict[str, tuple[Any, str]] = {
    "text": (b"<html>sorry</html>", "not a picture"),
    "truncated": (png(5)[:-400], "not a picture"),
    "half a JPEG": (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:900], "not a picture"),
    "a thumbnail": (png(5, (16, 16)), "only 16x16 pixels"),
    "blank": (encoded(Image.new("RGB", (64, 64), "white")), "the picture is blank"),
    "the reference": (png(999), "the reference itself"),
    "a page": ("page", "answer"),
    "garbage": ("garbage", "answer"),
    "nothing": ("odd", "contains no picture"),
    "another shape": ("shape", "answer"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_counted_and_asked_for_again(shop: Shop, fake: Fake, kind: str) -> None:
    mood, words = WRONG[kind]
    fake.moods = [mood]
    assert shop.get(1) == {}
    assert shop.kept(1) == of_prompt("picture 1", 1)
    assert words in shop.said[0], shop.said
    charged = [what for what in shop.counted() if what in ("bought", "lost")]
    assert len(charged) == 2


def test_wrong_answers_come_to_an_end(shop: Shop, fake: Fake) -> None:
    fake.moods = [b"nonsense"] * 3
    failed = shop.get(1, 2)
    assert "no usable picture arrived" in failed["shot-01"] and shop.has(2) and len(fake.asked) == 4


def test_another_format_becomes_a_png(shop: Shop, fake: Fake) -> None:
    picture = Image.open(io.BytesIO(png(3)))
    fake.moods = [encoded(picture, "JPEG")]
    shop.get(1)
    assert shop.kept(1).startswith(b"\x89PNG")
    with Image.open(shop.store.path(KIND, shop.order(1).key, ".png")) as kept:
        assert kept.size == (96, 96)


def test_an_answer_of_ten_gigabytes_is_cut_off(shop: Shop, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LARGEST", 2**20)
    fake.moods = ["endless"]
    started = time.monotonic()
    with pytest.raises(UserError, match="answers with more than 1 MB"):
        shop.get(1)
    assert time.monotonic() - started < 3


def test_a_packed_answer_is_not_unpacked(shop: Shop, fake: Fake) -> None:
    fake.moods = ["packed"]
    with pytest.raises(UserError, match="correct base_url"):
        shop.get(1)
    assert all(one.headers["accept-encoding"] == "identity" for one in fake.asked)


def test_a_chat_makes_five_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with running(Gemini, Fake()) as fake:
        shop = Shop(tmp_path, "gemini", fake)
        assert shop.get(*range(1, 13)) == {}
    assert [one.turns for one in fake.asked] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    # The reference is attached anew each time: the prompt speaks of "the attached picture".
    assert all(one.pictures == [png(999)] for one in fake.asked)


def test_a_thinking_model_s_drafts_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    class Thinking(Gemini):
        def with_picture(self, picture: bytes) -> Any:
            answer = super().with_picture(picture)
            draft = super().with_picture(png(77))["candidates"][0]["content"]["parts"][1]
            answer["candidates"][0]["content"]["parts"].append({**draft, "thought": True})
            return answer

    with running(Thinking, Fake()) as fake:
        shop = Shop(tmp_path, "gemini", fake)
        shop.get(1)
    assert shop.kept(1) == of_prompt("picture 1", 0)


@pytest.mark.parametrize("reason", ["IMAGE_SAFETY", "PROHIBITED_CONTENT", "NO_IMAGE", "blocked"])
def test_refusals_without_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    class Silent(Gemini):
        def refusal(self) -> tuple[int, Any]:
            if reason == "blocked":
                return 200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
            return 200, {"candidates": [{"finishReason": reason}]}

    with running(Silent, Fake(["refused"])) as fake:
        shop = Shop(tmp_path, "gemini", fake)
        assert shop.get(1) == {}
    assert shop.counted() == ["refused", "bought"]


def test_a_compatible_server_without_key_that_sends_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)

    class Local(OpenAI):
        def with_picture(self, picture: bytes) -> Any:
            return {"data": [{"url": f"{self.fake.url}/files/1.png"}]}

        def do_GET(self) -> None:
            self.fake.asked.append(Asked(self.path, "", [], self.known(), None))
            self.answer(200, png(4), Content_Type="image/png")

    with running(Local, Fake()) as fake:
        shop = Shop(tmp_path, "openai", fake, local=True)
        one = shop.order(1)
        settings = {**one.settings, "quality": "omit", "input_fidelity": "omit"}
        order = Order("shot-01", settings, 0, one.reference, one.reference_sha256)
        session = Session(shop.store, Purchases(None), shop.said.append, lambda: sources.get("openai").open(shop.how))
        assert session.get([order]) == {}
    assert shop.store.path(KIND, order.key, ".png").read_bytes() == png(4)
    edit, file = fake.asked
    assert "quality" not in edit.body and "input_fidelity" not in edit.body
    # Wherever the picture lies, the key is not sent there.
    assert file.path == "/files/1.png" and "authorization" not in file.headers


def test_no_credit_is_no_rate_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    class Broke(OpenAI):
        def error(self, status: int, words: str) -> Any:
            return {"error": {"code": "insufficient_quota", "message": "check your plan", "type": "x"}}

    with running(Broke, Fake([429])) as fake:
        shop = Shop(tmp_path, "openai", fake)
        with pytest.raises(UserError, match="no credit left"):
            shop.get(1)
    assert len(fake.asked) == 1 and shop.waited == []
