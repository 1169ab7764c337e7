"""Where the trigger stands in texts of any language, and how long a text is for the encoder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import small_project
from small_project import edit

from charloom.config.project import load
from charloom.core import tokens, words
from charloom.core.errors import UserError
from charloom.dataset import lint
from charloom.report.grid import short

PAPERDOLL = small_project.ROOT / "resources/bases/paperdoll"
BESIDE = {
    "一张m4ra的照片": 1,
    "m4raの写真": 1,
    "m4ra의 사진": 1,
    "ภาพm4raยิ้ม": 1,
    "фотоm4raв": 1,
    "(m4ra), “m4ra” — m4ra!": 3,
    "M4RA": 1,
    "m4ra's": 1,
    "m4ra-like": 1,
    "m4rab am4ra 4m4ra m4ra2 m4ra_ _m4ra": 0,
    "ém4ra m4raé e\u0301m4ra m4ra\u0301 m4raｂ": 0,
    "一张照片": 0,
    "": 0,
}


@pytest.mark.parametrize("text", BESIDE)
def test_the_trigger_is_a_word_beside_what_has_no_blanks(text: str) -> None:
    assert words.count(text, "m4ra") == BESIDE[text]
    assert words.replace(text, "m4ra", "x").count("x") == BESIDE[text]
    assert words.replace(words.replace(text, "m4ra", "Q9"), "Q9", "m4ra").lower() == text.lower()
    assert words.swapped(text, ["m4ra", "woman"]) == words.replace(text, "m4ra", "woman")


def test_a_grid_leaves_the_trigger_out_in_any_language() -> None:
    assert short("a full body photo of m4ra, a woman with red hair, dancing", "m4ra") == "full body, dancing"
    assert short("photo of m4ra跳舞", "m4ra").endswith("跳舞") and "m4ra" not in short("a photo of m4ra跳舞", "m4ra")
    assert "m4rab" in short("a photo of m4rab", "m4ra")


MEANT = ["[trigger]", "{Trigger}", "<trigger>", "{{trigger}}", "TRIGGER", "{ trigger }", "[Trigger_Word]", "{triger}",
         "((trigger))", "$trigger", "[name]", "<TRIGGER WORD>"]  # fmt: skip


@pytest.mark.parametrize("meant", MEANT)
def test_what_was_meant_for_the_trigger_is_asked_about(tmp_path: Path, meant: str) -> None:
    assert words.misspelt_placeholder(f"a photo of {meant}, smiling")
    project = small_project.make(tmp_path)
    prompts = [*small_project.CHARACTER["sample_prompts"], f"a photo of {meant} smiling"]
    edit(project / "config/characters/mara.yaml", sample_prompts=prompts)
    with pytest.raises(
        UserError, match=r"sample_prompts\[3\]: .* is taken literally; did you mean \{trigger\}\?"
    ) as caught:
        load(project)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    ["a photo of {trigger}, smiling", "her finger on the trigger", "pull the trigger [sic]", "triggered", "{a|b}"],
)
def test_ordinary_words_are_not_taken_for_it(text: str) -> None:
    assert words.misspelt_placeholder(text) is None


def test_default_captions_are_asked_about_too(tmp_path: Path) -> None:
    project = small_project.make(tmp_path)
    (project / "more").mkdir()
    sets = [{"name": "more", "path": "more", "default_caption": "photo of [trigger]"}]
    edit(project / "config/characters/mara.yaml", recipe={"data": {"default_caption": "{{trigger}}"}}, datasets=sets)
    with pytest.raises(UserError) as caught:
        load(project)
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert keys == ["datasets[1].default_caption", "recipe.data.default_caption"]


def test_chinese_captions_and_prompts_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = small_project.make(tmp_path)
    monkeypatch.chdir(project)
    line = {"full": "{trigger}一位黑色卷发绿眼睛的女人", "eyes_hidden": "一位叫{trigger}的黑色卷发女人"}
    edit(Path("config/characters/mara.yaml"), identity_line=line, sample_prompts=["一张{trigger}的照片"])
    assert load().characters["mara"].sample_prompts[0].text == "一张m4ra的照片"
    item = lint.Item("a", "一张m4ra的照片", None, "a.txt", "a.png")
    settings = {"trigger": "m4ra", "minimum": 64, "flips": [False, False], "shots": []}
    assert [f for f in lint.lint([item], settings) if f.where == "a.txt"] == []


# lengths


def real_tokenizer() -> Path | None:
    folder = os.environ.get("CHARLOOM_Z_IMAGE")
    path = Path(folder) if folder else None
    return path if path and (path / "tokenizer/tokenizer.json").is_file() else None


TEXTS = [
    "a close-up portrait photo of m4ra, a woman with curly black hair, soft smile, wearing a white t-shirt",
    "一张m4ra的照片，一位有着卷曲黑发和绿色眼睛的女人，正面视图，柔和的微笑，穿着白色T恤，金色圆环耳环",
    "1girl, long_hair, looking_at_viewer, black_hair, white_shirt, sitting_on_bench, holding_umbrella",
    "фотография m4ra, женщина с кудрявыми чёрными волосами и зелёными глазами, вид спереди, мягкая улыбка",
    "m4raの写真、緑の目と巻き毛の黒髪の女性、正面、柔らかい笑顔、白いTシャツを着ている",
]


@pytest.mark.parametrize("folder", ["paperdoll", "real"])
def test_tokens_are_those_that_the_encoder_reads(folder: str) -> None:
    path = PAPERDOLL if folder == "paperdoll" else real_tokenizer()
    if path is None:
        pytest.skip("the real tokenizer is not here")
    from transformers import AutoTokenizer

    from charloom.zimage import text as encoder

    slow, count = AutoTokenizer.from_pretrained(path / "tokenizer"), tokens.counter({"path": str(path)})
    assert count.exact and count.room == tokens.MAX_TOKENS - len(encoder.token_ids(slow, ""))
    for text in TEXTS:
        assert count(text) == len(encoder.token_ids(slow, text)) - len(encoder.token_ids(slow, ""))
        if folder == "real":
            assert 0.65 < tokens.estimate(text) / count(text) < 1.35
    fits = next(n for n in range(600, 1, -1) if count("word " * n) <= count.room)
    assert count.too_long("word " * fits) is None and count.too_long("word " * (fits + 9)).startswith("has ")
    assert len(encoder.token_ids(slow, "word " * (fits + 9))) == tokens.MAX_TOKENS


def test_an_estimate_warns_and_only_a_count_stops() -> None:
    long = lint.Item("a", "m4ra " + "猫" * 900, None, "a.txt", "a.png")
    settings = {"trigger": "m4ra", "minimum": 64, "flips": [False, False], "shots": []}
    exact, about = tokens.counter({"path": str(PAPERDOLL)}), tokens.counter({"path": "nowhere"})
    for count, level in ((exact, "error"), (about, "warning")):
        found = [f for f in lint.lint([long], settings, count) if "tokens" in f.what]
        assert [f.level for f in found] == [level] and ("about" in found[0].what) is not count.exact
        assert [f.level for f in lint.prompts({"sample_prompts[1]": long.caption}, count)] == [level]
    assert lint.prompts({"sample_prompts[1]": "short"}, exact) == []


def test_a_tokenizer_that_is_broken_is_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    assert not tokens.counter({"path": str(tmp_path)}).exact


def test_a_base_of_the_hub_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    there = str(PAPERDOLL / "tokenizer/tokenizer.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name, revision: there)
    assert tokens.counter({"repo": "a/b", "revision": "c"}).exact
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name, revision: None)
    assert not tokens.counter({"repo": "a/b", "revision": "c"}).exact


def test_names_are_listed_up_to_a_number() -> None:
    assert [words.listed(["a", "b", "c"], most) for most in (1, 2, 3)] == ["a and 2 more", "a, b and 1 more", "a, b, c"]


def test_a_number_of_things() -> None:
    assert [words.several(number, "picture") for number in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
