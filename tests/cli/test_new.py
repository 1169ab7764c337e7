"""``charloom new``: asks nothing that it can guess, says what it guessed, and checks the trigger."""

# ruff: noqa: F811 (root is a fixture)

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from cli_helpers import ROOT, call, root, said  # noqa: F401 (root is a fixture)

from charloom.config import guesses, inventory, notices, project, scaffold, triggers
from charloom.core import drives, tokens

PAPERDOLL = ROOT / "resources/bases/paperdoll"


def pictures(folder: Path, *captions: str | None) -> Path:
    folder.mkdir(parents=True)
    for index, caption in enumerate(captions):
        (folder / f"{index}.png").touch()
        if caption is not None:
            (folder / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder


def written(name: str) -> dict[str, object]:
    return yaml.safe_load(Path(f"config/characters/{name}.yaml").read_text(encoding="utf-8"))


def test_a_folder_without_words_needs_three_lines(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path_factory.mktemp("outside") / "my pictures", *[None] * 6)
    result = call("new", "mara", "--images", str(folder))
    assert result.exit_code == 0 and "6 pictures" in said(result) and "0 with a caption" in said(result)
    assert "class person: the captions do not say" in said(result) and "to do" not in said(result)
    next_steps = said(result).partition("next:")[2]
    assert "snakemake --profile profiles/gpu-16gb --cores 8 mara\n" in next_steps
    assert "prompts.html" not in next_steps  # the pictures are there
    found = written("mara")
    assert "one of woman, man, person, creature, object\n" in Path("config/characters/mara.yaml").read_text()
    assert found.pop("base") == "z-image-turbo" and found.pop("name") == "Mara" and found.pop("class") == "person"
    assert found == {"trigger": "m4ra", "images": {"source": "folder", "path": folder.as_posix()}}
    assert len(project.load(root).characters["mara"].shots) == 6
    monkeypatch.setattr(notices, "has_gpu", lambda *_: False)
    checked = said(call("lint", "mara")).splitlines()
    assert "6 pictures" in checked[0] and checked[-1].startswith("note: base z-image-turbo wants a GPU")


def test_pictures_that_are_not_read_are_named_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory.pictures, "endings", lambda: (".png", ".jpg"))  # no package reads HEIC
    folder = pictures(Path("phone"), *[None] * 6)
    for name in ("day 1/IMG_1.HEIC", "day 1/IMG_2.HEIC", "day 2/IMG_3.heic"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    how = "unsupported format; save it as PNG or JPEG, or pip install 'charloom[heif]'"
    lines = said(call("new", "mara", "--images", "phone"))
    assert "6 pictures in phone" in lines and f"  left out: phone/day 1/IMG_1.HEIC, day 1/IMG_2.HEIC: {how}\n" in lines
    assert f"  left out: phone/day 2/IMG_3.heic: {how}\n" in lines
    for path in folder.glob("*.png"):
        path.unlink()
    only = said(call("new", "mona", "--images", "phone"))
    assert f"(such as .png, .jpg or .webp) that is read, but phone/day 1/IMG_1.HEIC, day 1/IMG_2.HEIC: {how}" in only


def test_an_archive_is_to_be_unpacked(root: Path) -> None:
    for name, found in {"mara.zip": "unpack it and give", "mara.png": "give"}.items():
        Path(name).touch()
        assert f"--images {name}: is a file; {found} the folder" in said(call("new", "mara", "--images", name))
        Path("config/characters/mona.yaml").write_text(f"trigger: m0na\nimages: {{source: folder, path: {name}}}\n")
        assert f"there is no folder {name}; it is a file: {found} the folder" in said(call("lint", "mona"))


def test_what_captions_say_is_guessed_and_marked(root: Path) -> None:
    pictures(Path("pics"), *(f"p1xel, a drawing of a fox in place {index}" for index in range(6)))
    result = call("new", "reineke", "--images", "pics", "--crop")
    for line in (
        "class creature: guessed from the captions",
        "look drawn: guessed",
        "trigger p1xel: found in the captions",
    ):
        assert line in said(result), line
    found = written("reineke")
    assert (found["class"], found["noun"], found["look"], found["trigger"]) == ("creature", "fox", "drawn", "p1xel")
    assert found["crop"] == {"right": 150, "bottom": 150} and found["images"]["path"] == "pics"
    text = Path("config/characters/reineke.yaml").read_text()
    assert text.count("guessed from the captions") == 2
    one = project.load(root).characters["reineke"]
    assert one.identity_full == "{trigger}, a fox" and "drawing" in one.sample_prompts[0].text


def test_a_path_of_windows_is_that_of_its_mount(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Explorer shows it; in WSL the drive is below /mnt."""
    monkeypatch.setattr(drives, "MOUNTS", root / "mnt")
    folder = pictures(root / "mnt/d/my pictures/mara", *[None] * 6)
    assert call("new", "mara", "--images", "D:\\my pictures\\mara").exit_code == 0
    assert written("mara")["images"] == {"source": "folder", "path": folder.relative_to(root).as_posix()}
    Path("config/characters/mara.yaml").write_text(
        "trigger: m4ra\nimages: {source: folder, path: 'D:\\my pictures/mara'}"
    )
    assert len(project.read(root).characters["mara"].shots) == 6
    assert drives.mounted("E:\\mara") == "E:\\mara"  # no such drive


def test_what_is_told_is_not_guessed(root: Path) -> None:
    pictures(Path("pics"), *["a photo of a woman"] * 6)
    assert (
        call("new", "a", "--images", "pics", "--class", "man", "--look", "comic", "--trigger", "b0bby").exit_code == 0
    )
    found = written("a")
    assert (found["class"], found["look"], found["trigger"]) == ("man", "comic", "b0bby") and "noun" not in found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "nowhere"], "error: --images nowhere: there is no such folder"),
        (
            ["--images", "config/config.yaml"],
            "error: --images config/config.yaml: is a file; give the folder it lies in",
        ),
        (["--images", "config"], "error: --images config: there is no picture in it"),
        (["--images", "C:Usersmemara"], "error: --images C:Usersmemara: the shell removed its backslashes; put it in"),
        (["--class", "womn"], "error: --class womn: is unknown; did you mean woman?"),
        (["--look", "photo"], "error: --look photo: "),
        (["--like", "foxx"], "error: --like foxx: there is no config/examples/foxx.yaml; did you mean fox?"),
        (["--like", "fox", "--class", "man"], "error: --like: takes everything from the example"),
        (["--crop"], "error: --crop: goes with --images"),
        (["--trigger", "m4 ra"], "error: --trigger m4 ra: use 2 to 20 letters and digits"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(root: Path, arguments: list[str], words: str) -> None:
    result = call("new", "mara", *arguments)
    assert result.exit_code == 1 and said(result).startswith(words) and said(result).count("\n") == 1
    assert not Path("config/characters/mara.yaml").exists()


def test_a_file_that_is_there_stays(root: Path) -> None:
    pictures(Path("pics"), *[None] * 6)
    before = Path("config/characters/leyla.yaml").read_bytes()
    result = call("new", "leyla", "--images", "pics")
    assert result.exit_code == 1 and "exists already" in said(result)
    assert Path("config/characters/leyla.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["fox", "marco", "mira", "gouache"])
def test_an_example_becomes_a_character_of_ones_own(root: Path, name: str) -> None:
    result = call("new", "pixie", "--like", name)
    place = "styles" if name == "gouache" else "characters"
    to_do = f"to do: config/{place}/pixie.yaml: images.path: there is no folder resources/{place}/pixie"
    assert result.exit_code == 0 and to_do in said(result)
    found = yaml.safe_load(Path(f"config/{place}/pixie.yaml").read_text())
    assert (found["name"], found["trigger"]) == ("Pixie", "p1xie")
    assert found["images"]["path"] == f"resources/{place}/pixie"
    original = yaml.safe_load((ROOT / f"config/examples/{name}.yaml").read_text(encoding="utf-8"))
    same = ("kind", "class", "look", "noun", "appearance", "shots", "concept")
    assert [found.get(key) for key in same] == [original.get(key) for key in same]
    # The other characters are not disturbed by one whose pictures are still to come.
    assert set(project.load(root).projects) >= {"leyla", "pixie"}


@pytest.mark.parametrize("kind", ["man", "person", "creature", "object", "style"])
def test_a_class_without_pictures_gets_a_file_to_edit(root: Path, kind: str) -> None:
    result = call("new", "ada", "--class", kind, "--look", "drawn")
    assert result.exit_code == 0, said(result)
    one = project.load(root).projects["ada"]
    assert one.is_style == (kind == "style")
    assert (one.kind, one.look, one.base) == (kind, "drawn", "z-image-turbo") and one.appearance and one.concept
    assert len(one.shots) == {"creature": 24, "object": 24}.get(kind, 30)
    assert "make it and put" in said(result)


def test_no_two_characters_get_one_trigger(root: Path) -> None:
    for name in ("mara", "m-ara", "m_ara"):
        result = call("new", name)
        # Drawn by the miniature, for which a GPU's profile is none.
        assert result.exit_code == 0 and said(result).endswith(f"  snakemake --cores 2 {name}\n")
    assert len({written(name)["trigger"] for name in ("mara", "m-ara", "m_ara")}) == 3
    assert not project.read(root).broken


# triggers


def counters() -> list[tokens.Counter]:
    """Those of the tokenizers that are here: the miniature's, and the real one's where it is named."""
    real = os.environ.get("CHARLOOM_Z_IMAGE")
    return [tokens.counter({"path": str(path)}) for path in (PAPERDOLL, *([real] if real else []))]


class Words(tokens.Counter):
    """Cuts after each of a few known words, and else into single characters."""

    KNOWN = ("girl", "mara", "woman", "star", "fox")

    def __init__(self) -> None:
        super().__init__()
        self.exact = True

    def pieces(self, text: str) -> list[str]:
        blank, word = text[: len(text) - len(text.lstrip())], text.strip()
        start = next((known for known in self.KNOWN if word.lower().startswith(known)), word[:1])
        return [blank + word[: len(start)], *word[len(start) :]]


@pytest.mark.parametrize("word", ["star", "Star", "mara", "girl7", "woman1"])
def test_words_that_a_base_knows_are_no_triggers(word: str) -> None:
    assert "that the base knows already" in str(triggers.complaint(word, Words()))
    assert triggers.complaint(word, tokens.Counter()) is None  # nobody to ask


@pytest.mark.parametrize("word", ["l3yla", "m4ra", "f0xx"])
def test_leetspeak_is_several_tokens(word: str) -> None:
    for count in [Words(), *counters()]:
        assert triggers.complaint(word, count) is None and len(count.pieces(f" {word}")) >= 2


@pytest.mark.skipif("CHARLOOM_Z_IMAGE" not in os.environ, reason="the real tokenizer is not here")
def test_the_real_tokenizer_knows_words() -> None:
    real = counters()[-1]
    for word in ("mara", "fox", "star", "girl7", "photograph1"):
        assert triggers.complaint(word, real), word
    for word in ("l3yla", "m4ra", "n1ka", "p1nto", "m4rco", "m1ra7", "g0uax"):
        assert triggers.complaint(word, real) is None and len(real.pieces(f" {word}")) >= 3, word


def test_a_bad_trigger_is_said_and_a_good_one_shown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "counter", lambda source: Words())
    assert "warning: trigger girl7: begins with girl" in said(call("new", "a", "--trigger", "girl7"))
    assert "trigger st4r: 4 tokens of paperdoll (s t 4 r), none of them a known word" in said(
        call("new", "starr", "--trigger", "st4r")
    )
    assert call("new", "fox").exit_code == 0 and triggers.complaint(str(written("fox")["trigger"]), Words()) is None


@pytest.mark.parametrize("name", ["mara", "jo", "x", "k9", "bartholomew", "rhythm", "007", "zzz", "fox-2"])
def test_suggestions_are_short_hold_a_digit_and_never_run_out(name: str) -> None:
    taken: set[str] = set()
    for _ in range(20):
        word = triggers.suggest(name, Words(), taken)
        assert 4 <= len(word) <= 6 and word.isalnum() and any(letter.isdigit() for letter in word)
        assert word not in taken and triggers.complaint(word, Words()) is None
        taken.add(word)
    assert scaffold.trigger_for(name) in taken


# guesses


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["m4ra, a woman at sea", "m4ra at home", "a woman, m4ra"], "m4ra"),
        (["Mara, at sea", "Mara, at home", "Mara, in the snow"], "Mara"),
        (["a photo of a woman"] * 5, None),
        (["1girl, sitting", "1girl, standing", "1girl, lying"], None),
        (["85mm photo, m4ra", "85mm photo, m4ra smiling", "85mm photo, m4ra sad"], "m4ra"),
        (["[trigger] at sea", "[trigger] at home", "{trigger} in the snow"], None),
        (["m4ra"] * 2, None),
        ([], None),
    ],
)
def test_the_trigger_of_captions(captions: list[str], expected: str | None) -> None:
    assert guesses.trigger(captions) == expected


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["a woman at sea", "she smiles", "her hat"], ("woman", "")),
        (["a man with his dog", "a boy", "he sits"], ("man", "")),
        (["a man and a woman"] * 4, None),
        (["two foxes", "a fox", "the fox sits"], ("creature", "fox")),
        (["a creature", "the creature"], ("creature", "")),
        (["a humanoid", "others", "shemale theory"], None),
        ([], None),
    ],
)
def test_the_class_of_captions(captions: list[str], expected: tuple[str, str] | None) -> None:
    assert guesses.class_and_noun(captions) == expected


@pytest.mark.parametrize(
    ("caption", "tier", "view"),
    [
        ("a close-up portrait photo of m4ra, frontal view", "close-up", "frontal view"),
        ("a full body portrait of m4ra, walking, three-quarter view", "full-body", "three-quarter view"),
        ("m4ra, upper body, looking at viewer", "medium", "frontal view"),
        ("m4ra from behind, full length", "full-body", "seen from behind"),
        ("m4ra with neon signs behind her, a robust table", "", ""),
        ("m4ra, side profile, headshot", "close-up", "side profile"),
    ],
)
def test_what_a_caption_says_of_its_picture(caption: str, tier: str, view: str) -> None:
    assert (guesses.tier(caption), guesses.view(caption)) == (tier, view)
