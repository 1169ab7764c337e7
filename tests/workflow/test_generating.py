# ruff: noqa: F811 (fixtures that are imported)
"""Generated pictures: which attempt is used, what a change of the character file generates again, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_project
import yaml
from cli_helpers import call, said
from fake_generators import KEY, Fake, Gemini, encoded, png, running
from generated_project import MARA, by_shot, folder, generated, keys  # noqa: F401 (folder is a fixture)
from small_project import edit

from charloom.config import portable
from charloom.config.character import Character
from charloom.config.project import load
from charloom.core import layout
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset import lint
from charloom.dataset.sources import paperdoll
from charloom.dataset.sources.orders import KIND
from charloom.dataset.sources.purchases import Purchases
from charloom.paperdoll import attributes, draw
from charloom.workflow import generating, likeness, picture_slices

PROBE = small_project.ROOT / "resources/bases/paperdoll/probe.safetensors"


def doll(identity: dict[str, str], shot: Any, character: Character, size: int = 256) -> bytes:
    """A drawn person as a generator would give it."""
    scene = paperdoll.settings(character, shot)["scene"]
    image = draw.draw(attributes.Identity(**identity), attributes.Scene(**scene), size=size, seed=1)
    return encoded(image.convert("RGB"))


HER = small_project.CHARACTER["doll"]
SOMEBODY = {**HER, "skin": "fair", "hair_color": "blonde", "hair_style": "long straight", "eye_color": "blue"}


CHANGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "nothing": (lambda p: None, []),
    "price, budget, patience": (
        lambda p: generated(p, gemini={"price": 0.1, "timeout": 9, "per_chat": 3}, budget={"pictures": 9}), []),
    "retry and limit": (lambda p: generated(p, retry=3, identity=0.7), []),
    "the model": (lambda p: generated(p, gemini={"model": "other"}), ["closeup-01", "medium-01", "fullbody-01"]),
    "one shot": (lambda p: small_project.replace(p, MARA, "a black hoodie", "a red hoodie"), ["medium-01"]),
    "another name": (lambda p: small_project.replace(p, MARA, "name: medium-01", "name: medium-09"), []),
    "one more attempt": (lambda p: generated(p, attempts={"closeup-01": 1}), ["closeup-01"]),
    "the appearance": (
        lambda p: small_project.replace(p, MARA, "appearance: a woman", "appearance: a tall woman"),
        ["closeup-01", "medium-01", "fullbody-01"]),
    "a prompt of the previews": (lambda p: small_project.replace(p, MARA, "kitchen", "garden"), []),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_asks_anew_for_its_own_pictures(folder: Path, change: str) -> None:
    small_project.picture(folder / "reference.png", (64, 64))
    before = set(keys(generated(folder), folder / "reference.png").values())
    alter, expected = CHANGES[change]
    alter(folder)
    after = keys(load(folder).characters["mara"], folder / "reference.png")
    assert [name for name, key in after.items() if key not in before] == expected


def test_two_shots_with_the_same_words_are_two_pictures(folder: Path) -> None:
    character = yaml.safe_load((folder / MARA).read_text())
    character["shots"][1] = {**character["shots"][0], "name": "medium-01"}
    small_project.write_yaml(folder / MARA, character)
    small_project.picture(folder / "reference.png", (64, 64))
    found = keys(generated(folder), folder / "reference.png")
    assert len(set(found.values())) == 3


def test_another_reference_means_other_pictures(folder: Path) -> None:
    character = generated(folder)
    one = keys(character, small_project.picture(folder / "one.png", (64, 64)))
    other = keys(character, small_project.picture(folder / "other.png", (64, 64), seed=2))
    assert not set(one.values()) & set(other.values())


def test_no_slice_holds_a_key_or_an_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    character = generated(folder, gemini={"base_url": "http://127.0.0.1:1"})
    everything = picture_slices.how(character) + picture_slices.shots(character)
    assert KEY not in everything and "127.0.0.1" not in picture_slices.shots(character)


class Desk:
    """A batch whose pictures are dolls: ``answers`` says who comes at each attempt, by shot."""

    def __init__(self, folder: Path, character: Character, answers: dict[str, str]) -> None:
        self.character, self.answers = character, answers
        self.store = Store(folder / "work/store")
        self.reference = folder / "reference.png"
        if not self.reference.exists():
            self.reference.write_bytes(doll(HER, None, character))
        self.bought: list[str] = []
        self.said: list[str] = []

    def batch(self) -> generating.Batch:
        limit = self.character.generation.identity if self.character.generation else "none"
        return generating.Batch(
            by_shot(self.character),
            self.reference,
            self.store,
            lambda: likeness.open_checker(self.reference, limit, {"probe": str(PROBE)}, self.store),
        )

    def buy(self, orders: list[Any]) -> dict[str, str]:
        for order in orders:
            self.bought.append(f"{order.name} {order.attempt}")
            who = self.answers.get(order.name, "h" * 9)[order.attempt]
            with self.store.put(KIND, order.key, ".png") as path:
                shot = self.character.shot(order.name)
                path.write_bytes(doll(HER if who == "h" else SOMEBODY, shot, self.character))
        return {}

    def get(self) -> dict[str, generating.Settled]:
        batch = self.batch()
        batch.get(self.character.shot_names[0], self.buy, self.said.append)
        found = {name: batch.settled(name) for name in self.character.shot_names}
        return {name: one for name, one in found.items() if isinstance(one, generating.Settled)}


def test_a_stranger_is_asked_for_again(folder: Path) -> None:
    """Two wrong answers, then the right one; who is right at once is asked for once."""
    desk = Desk(folder, generated(folder, retry=3), {"closeup-01": "sshh"})
    found = desk.get()
    assert desk.bought == ["closeup-01 0", "medium-01 0", "fullbody-01 0", "closeup-01 1", "closeup-01 2"]
    assert found["closeup-01"].order.attempt == 2 and not found["closeup-01"].likeness.far
    assert "far from the reference: closeup-01; asking again" in desk.said
    # A rerun is exact: the same attempts are found, and nothing is bought.
    again = Desk(folder, desk.character, {})
    assert {name: one.order.key for name, one in again.get().items()} == {n: o.order.key for n, o in found.items()}
    assert again.bought == []


def test_without_retry_a_stranger_is_named(folder: Path) -> None:
    desk = Desk(folder, generated(folder), {"closeup-01": "s"})
    found = desk.get()
    assert len(desk.bought) == 3 and found["closeup-01"].likeness.far
    made = layout.Results(folder / "results/mara")
    for name, settled in found.items():
        generating.write(settled, desk.store, made.source(name), made.source_record(name))

    def findings(**own: Any) -> list[lint.Finding]:
        records = likeness.records(made, desk.character.shot_names)
        checked = lint.check([], {"trigger": "m4ra", "_pictures": records, "lint": own}).findings
        return [one for one in checked if one.rule in ("likeness", "allow")]

    (finding,) = findings()
    assert finding.level == "warning" and finding.where == "closeup-01" and finding.pictures == ("closeup-01",)
    assert findings(levels={"likeness": "error"})[0].level == "error"
    assert findings(allow=[{"rule": "likeness", "where": "closeup-*"}]) == []
    assert "shows somebody else than the reference, by paperdoll" in finding.what
    assert "images.attempts.closeup-01: 1" in finding.remedy
    # What the user has replaced since is no longer what was judged.
    small_project.picture(made.source("closeup-01"), (64, 64))
    assert findings() == []


def test_if_all_are_strangers_the_nearest_is_taken(folder: Path) -> None:
    desk = Desk(folder, generated(folder, retry=2, identity=1.0), {"closeup-01": "sht"})
    found = desk.get()
    assert [one for one in desk.bought if "closeup" in one] == ["closeup-01 0", "closeup-01 1", "closeup-01 2"]
    assert found["closeup-01"].order.attempt == 1


def test_more_retries_ask_only_for_strangers(folder: Path) -> None:
    Desk(folder, generated(folder), {"closeup-01": "s"}).get()
    desk = Desk(folder, generated(folder, retry=1), {"closeup-01": "sh"})
    assert desk.get()["closeup-01"].order.attempt == 1 and desk.bought == ["closeup-01 1"]


def test_a_picture_that_is_damaged_in_the_store_is_asked_for_again(folder: Path) -> None:
    desk = Desk(folder, generated(folder), {})
    settled = desk.get()["medium-01"]
    entry = desk.store.path(KIND, settled.order.key, ".png")
    entry.chmod(0o600)
    entry.write_bytes(entry.read_bytes()[:-1])
    again = Desk(folder, desk.character, {})
    assert not generating.write(settled, again.store, folder / "one.png", None)
    assert again.get()["medium-01"].order.key == settled.order.key and again.bought == ["medium-01 0"]


def test_attempts_begin_where_the_file_says(folder: Path) -> None:
    Desk(folder, generated(folder), {}).get()
    desk = Desk(folder, generated(folder, attempts={"medium-01": 2}), {})
    assert desk.get()["medium-01"].order.attempt == 2 and desk.bought == ["medium-01 2"]


def test_without_an_instrument_nothing_is_said_of_faces(folder: Path) -> None:
    character = generated(folder, retry=2)
    reference = small_project.picture(folder / "reference.png", (64, 64))
    lock = folder / "lock.json"
    lock.write_text(json.dumps({"name": "mini", "instruments": {}, "missing": {}}))
    judge = {"lock": str(lock), "identity": "auto"}
    checker = likeness.open_checker(reference, "auto", judge, Store(folder / "work/store"))
    assert "pip install 'charloom[photo]'" in checker.why and checker.measure([reference]) == [None]
    assert picture_slices.instrument(character, load(folder).bases["mini"]) == ""  # judge: none


def test_one_that_cannot_be_had_stops_only_its_own_job(folder: Path) -> None:
    desk = Desk(folder, generated(folder), {})
    batch = desk.batch()

    def buy(orders: list[Any]) -> dict[str, str]:
        desk.buy([order for order in orders if order.name != "medium-01"])
        return {"medium-01": "is refused"}

    batch.get("closeup-01", buy, desk.said.append)
    assert isinstance(batch.settled("fullbody-01"), generating.Settled)
    with pytest.raises(UserError, match="^medium-01: is refused"):
        batch.get("medium-01", buy, desk.said.append)


def test_a_further_attempt_that_is_refused_leaves_the_one_before(folder: Path) -> None:
    """A stranger is on the first picture, and the second is refused: the check goes on with the others."""
    desk = Desk(folder, generated(folder, retry=2), {"closeup-01": "s", "medium-01": "sh"})
    batch = desk.batch()

    def buy(orders: list[Any]) -> dict[str, str]:
        lost = [order for order in orders if order.name == "closeup-01" and order.attempt]
        desk.buy([order for order in orders if order not in lost])
        return {order.name: "is refused" for order in lost}

    batch.get("closeup-01", buy, desk.said.append)
    found = {name: batch.settled(name) for name in desk.character.shot_names}
    attempts = {name: one.order.attempt for name, one in found.items() if isinstance(one, generating.Settled)}
    assert attempts == {"closeup-01": 0, "medium-01": 1, "fullbody-01": 0} and found["closeup-01"].likeness.far
    assert "closeup-01: no further attempt (is refused); the nearest of those before is taken" in desk.said


def test_all_that_are_refused_are_named_together(folder: Path) -> None:
    desk = Desk(folder, generated(folder), {})

    def buy(orders: list[Any]) -> dict[str, str]:
        desk.buy([order for order in orders if order.name == "medium-01"])
        return {order.name: "is refused" for order in orders if order.name != "medium-01"}

    with pytest.raises(UserError) as caught:
        desk.batch().get("closeup-01", buy, desk.said.append)
    assert str(caught.value).splitlines() == ["closeup-01: is refused", "fullbody-01: is refused"]
    assert desk.bought == ["medium-01 0"]
    desk.batch().get("medium-01", buy, desk.said.append)
    assert desk.said[-2:] == ["left out: closeup-01: is refused", "left out: fullbody-01: is refused"]


def test_images_gets_all_others_and_names_the_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("PYTHONPATH", str(small_project.ROOT))
    small_project.add_code(folder)
    small_project.picture(folder / "her.png", (64, 64))
    with running(Gemini, Fake(["well", *["refused"] * 4])) as fake:
        own = {"price": 0.5, "size": "1K", "base_url": fake.url}
        generated(folder, gemini=own, reference="her.png", identity="none")
        command = [sys.executable, "-m", "charloom.cli.main", "images", "mara", "--", "--cores", "1"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and len(fake.asked) == 6, done.stdout + done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")][-2:]
        lost = lines[0].split(": ")[2]  # Snakemake begins with any of them, and the second answer is a refusal
        assert lines[0].startswith(f"error: mara: {lost}: is refused (") and "not all pictures of mara" in lines[1]
        made = layout.Results(folder / "results/mara")
        there = [name for name in ("closeup-01", "medium-01", "fullbody-01") if made.source(name).is_file()]
        assert len(there) == 2 and lost not in there
        # Another reference, and nothing that is there counts any more.
        assert "2 are there, 1 to get" in said(call("images", "mara", "--dry-run"))
        small_project.picture(folder / "her.png", (64, 64), seed=3)
        stale = said(call("images", "mara", "--dry-run"))
        assert "0 are there, 3 to get" in stale and "reference: her.png" in stale and "cost: 3 x 0.5 = 1.50" in stale


def test_the_job_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script of the rules: one call gets all that the budget allows, and the key is in no file and no line."""
    monkeypatch.setenv("PYTHONPATH", str(small_project.ROOT))
    small_project.picture(folder / "reference.png", (64, 64))

    def run(character: Character, shot: str) -> Any:
        arguments = (
            "--name", shot, "--reference", "reference.png", "--settings", json.dumps(by_shot(character)[shot]),
            "--siblings", picture_slices.shots(character), "--how", picture_slices.how(character),
            "--judge", "null", "--purchases", "work/purchases/mara.jsonl", "--log", f"logs/{shot}.log",
            "--output", f"out/{shot}.png", "--record", f"out/{shot}.json",
        )  # fmt: skip
        command = [sys.executable, str(small_project.ROOT / "scripts/generate_picture.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with running(Gemini, Fake(["well", "refused"])) as fake:
        own = {"price": 0.5, "size": "1K", "base_url": fake.url}
        character = generated(folder, gemini=own, budget={"money": 1.0})
        monkeypatch.delenv("GEMINI_API_KEY", raising=False)
        keyless = run(character, "closeup-01")
        assert keyless.stderr == "error: GEMINI_API_KEY: is not set; put your API key into this environment variable\n"
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        done = run(character, "closeup-01")
        spent = "images.budget: is spent (2 pictures and 1.00 of money) before fullbody-01; raise it to go on"
        assert done.returncode == 0 and f"the other pictures have to wait: {spent}" in done.stderr
        assert len(fake.asked) == 3  # one refusal costs nothing
        over = run(character, "fullbody-01")
        assert over.returncode == 1 and f"error: {spent}" in over.stderr and len(fake.asked) == 3
        done = run(generated(folder, gemini=own, budget={"money": 1.5}), "fullbody-01")
    assert done.returncode == 0 and len(fake.asked) == 4, done.stderr
    assert fake.asked[1].prompt == fake.asked[2].prompt
    record = json.loads(Path("out/fullbody-01.json").read_text())
    assert record["source"] == "gemini" and record["attempt"] == 0 and record["identity"] is None
    texts = [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in [done.stderr, *texts] if KEY in text]


def test_a_dry_run_says_number_and_cost_and_buys_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    character = generated(folder, gemini={"price": 0.04}, retry=2, budget={"pictures": 2, "money": 1.0})
    result = call("images", "mara", "--dry-run")
    assert result.exit_code == 0, said(result)
    assert said(result).splitlines() == [
        "mara: 3 pictures by gemini (gemini-3.1-flash-image-preview): 0 are there, 3 to get",
        "  reference: drawn by gemini from concept.prompt",
        "  cost: 4 x 0.04 = 0.16; with retry: 2 at most 10 pictures, 0.40",
        "  budget: is enough for 2 more; raise images.budget for the other 2",
        "  to do: put your API key into the environment variable GEMINI_API_KEY",
    ]
    assert not Path("work/purchases").exists() and not Path("results").exists()
    # With a reference and one picture bought:
    made = layout.Results(Path("results/mara"))
    made.root.mkdir(parents=True)
    small_project.picture(made.reference, (64, 64))
    order = generating.Batch(by_shot(character), made.reference, Store("work/store"), likeness.Nobody).orders(
        "medium-01"
    )[0]
    with Store("work/store").put(KIND, order.key, ".png") as path:
        path.write_bytes(png())
    Purchases(layout.WORK.purchases("mara")).note("bought", "medium-01", order.key, 0.04)
    text = said(call("images", "mara", "--dry-run"))
    assert "1 are there, 2 to get" in text and "cost: 2 x 0.04 = 0.08; with retry: 2 at most 6 pictures, 0.24" in text
    assert "spent so far: 1 pictures, 0.04" in text and "budget: is enough for 1 more" in text
    assert "reference:" not in text
    # One that was bought with other words is not the one of now; the one of now may have been bought already.
    made.reference.unlink()
    edit(folder / MARA, concept={"prompt": "photo of a tall woman"})
    assert "0 are there, 3 to get" in said(call("images", "mara", "--dry-run"))
    mara = load(folder).characters["mara"]
    own = generating.Batch(picture_slices.wanted(mara), None, Store("work/store"), likeness.Nobody)
    with Store("work/store").put(KIND, own.orders("reference")[0].key, ".png") as path:
        path.write_bytes(png())
    text = said(call("images", "mara", "--dry-run"))
    assert "3 to get" in text and "reference:" not in text and "cost: 3 x 0.04" in text


def test_a_dry_run_where_nothing_is_paid_or_generated(folder: Path) -> None:
    generated(folder, "comfyui")
    text = said(call("images", "mara", "-n"))
    assert "3 pictures by comfyui" in text and "drawn by the base mini from concept.prompt" in text
    assert "cost: none" in text
    edit(folder / MARA, images={"source": "paperdoll", "count": 3})
    result = call("images", "mara", "-n")
    assert result.exit_code == 1 and "images.source is paperdoll, which generates nothing" in said(result)


def test_a_character_for_another_machine_takes_its_pictures_along(folder: Path) -> None:
    character = generated(folder, gemini={"model": "x"}, retry=1, budget={"pictures": 1})
    written = yaml.safe_load(portable.character_file(character))
    assert written["images"] == {"source": "folder", "path": "resources/characters/mara", "count": 3}
    assert (written["crop"]["right"], written["crop"]["bottom"]) == (0, 0)
