"""`charloom publish` against a hub of its own over real HTTP: what is listed, what arrives, and what goes wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import bundles
import pytest
import small_project
import yaml
from cli_helpers import call, said
from fake_hub import TOKEN, FakeHub, running
from PIL import Image
from small_project import edit

from charloom.core import files
from charloom.core.layout import Results

REPO = "me/mara"
LICENCE = {"license": "Apache-2.0"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """A finished character with a picture for each of its two prompts."""
    from huggingface_hub import constants

    folder = small_project.make(tmp_path / "project")
    edit(folder / "config/bases/mini.yaml", **LICENCE)
    monkeypatch.chdir(folder)
    bundles.pretend(folder)
    results = Results(Path("results/mara"))
    files.write_json(results.validation, {"step": 100})
    for name in ("01", "02"):
        results.sample(100, name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (200, 20 * int(name), 0)).save(results.sample(100, name))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    return results


@pytest.fixture
def hub(made: Results, monkeypatch: pytest.MonkeyPatch):
    with running(FakeHub()) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        yield fake


def publish(*more: str) -> list[str]:
    """The lines of one call; a mistake is one of them and no traceback, and none holds the token."""
    result = call("publish", "mara", "--repo", REPO, *more)
    text = said(result)
    assert TOKEN not in text and "s3cret" not in text
    return [f"exit {result.exit_code}", *text.splitlines()]


def mistake(*more: str) -> str:
    """The one line of a failing call."""
    code, *lines = publish(*more)
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == "exit 1" and len(errors) == 1 and lines[-1] == errors[0], lines
    return errors[0]


def test_without_yes_the_files_are_listed_with_their_sizes_and_nobody_is_asked(hub: FakeHub) -> None:
    code, head, *lines = publish()
    assert code == "exit 0" and head == "me/mara, private:"
    assert [line.split()[0] for line in lines[:-1]] == [
        "README.md",
        "mara.safetensors",
        "images/01.png",
        "images/02.png",
    ]
    size = Path("results/mara/final.safetensors").stat().st_size
    assert lines[1].endswith(f"{size / 1e3:.1f} kB")
    assert "nothing was uploaded" in lines[-1] and hub.asked == []


def test_everything_arrives_in_a_private_repository_in_one_commit(hub: FakeHub, made: Results) -> None:
    code, *lines = publish("--yes")
    assert code == "exit 0" and lines[-1] == f"{hub.url}/{REPO}"
    repo = hub.repos[REPO]
    assert repo["private"] is True
    assert repo["files"]["mara.safetensors"] == made.final.read_bytes()
    assert repo["files"]["images/02.png"] == made.sample(100, "02").read_bytes()
    assert sum("/commit/" in one for one in hub.asked) == 1


def test_the_card_is_what_a_hub_reads(hub: FakeHub) -> None:
    publish("--yes")
    text = hub.repos[REPO]["files"]["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "apache-2.0" and front["instance_prompt"] == "m4ra"
    assert {"lora", "text-to-image"} <= set(front["tags"]) and front["pipeline_tag"] == "text-to-image"
    assert [one["output"]["url"] for one in front["widget"]] == ["images/01.png", "images/02.png"]
    assert front["widget"][0]["text"].startswith("a medium shot photo of m4ra")
    assert "base_model" not in front, "the base of this project is on no hub"
    assert body.startswith("\n# Mara\n") and "`m4ra` in a prompt is Mara." in body


def test_a_base_of_the_hub_is_named_with_a_snippet_for_it(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    from charloom.config import project
    from charloom.deliver import publish as publishing

    base = yaml.safe_load(Path("config/bases/mini.yaml").read_text())
    del base["path"]
    Path("config/bases/mini.yaml").write_text(yaml.safe_dump({**base, "repo": "owner/model", "revision": "1" * 40}))
    workflow = project.load(".")
    character = workflow.characters["mara"]
    text = publishing.release(character, workflow.bases["mini"], made, REPO, "CC-BY-NC-4.0").files["README.md"].decode()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("owner/model", "adapter")
    assert front["license"] == "cc-by-nc-4.0"
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "set_adapters" not in code
    files.write_json(made.strengths, {"recommended": 0.8})
    weaker = publishing.release(character, workflow.bases["mini"], made, REPO).files["README.md"].decode()
    code = weaker.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'adapter_name="mara")\npipe.set_adapters("mara", 0.8)\n' in code and "at a strength of 0.8:" in weaker
    assert '"me/mara", weight_name="mara.safetensors"' in code
    own = publishing.release(character, workflow.bases["mini"], made, REPO, "My own terms").files["README.md"].decode()
    front = yaml.safe_load(own.split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "my-own-terms")


def test_the_previews_are_those_of_the_checkpoint_that_ships(hub: FakeHub, made: Results) -> None:
    """Also where the user chose another one than the scores."""
    made.sample(50, "01").parent.mkdir(parents=True)
    Image.new("RGB", (16, 16), (0, 0, 250)).save(made.sample(50, "01"))
    files.write_json(made.verification, {"step": 50, "by": "hand"})
    publish("--yes")
    there = hub.repos[REPO]["files"]
    assert there["images/01.png"] == made.sample(50, "01").read_bytes() and "images/02.png" not in there


def test_the_card_shows_the_gallery_and_which_scenes_have_a_style(hub: FakeHub, made: Results) -> None:
    Path("ink.safetensors").touch()
    ink = {"prompt": '{trigger} at "sea"', "styles": [{"file": "ink.safetensors", "strength": 0.7}]}
    edit(Path("config/characters/mara.yaml"), gallery=["{trigger} at home", ink])
    for name in ("01", "02"):
        made.scene(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(made.scene(name))
    edit(Path("config/bases/mini.yaml"), miniature=True)
    publish("--yes")
    text = hub.repos[REPO]["files"]["README.md"].decode()
    front = yaml.safe_load(text.split("---\n")[1])
    pictures = [one["output"]["url"] for one in front["widget"]]
    assert pictures == ["images/01.png", "images/02.png", "gallery/01.png"]
    assert 'alt="m4ra at &quot;sea&quot; (with ink at 0.7)"' in text
    assert "LoraLoaderModelOnly" not in text and "charloom draw mara 'a medium shot" in text  # ComfyUI cannot load it


def test_public_is_public(hub: FakeHub) -> None:
    assert publish("--yes", "--public")[1] == "me/mara, public:"
    assert hub.repos[REPO]["private"] is False


def test_a_repository_that_exists_gets_the_new_files_and_keeps_its_others(hub: FakeHub) -> None:
    hub.repos[REPO] = {"private": True, "files": {"README.md": b"old", "notes.txt": b"mine"}}
    lines = publish("--yes")
    assert any("exists already: 1 file of it is replaced" in line for line in lines)
    assert hub.repos[REPO]["files"]["notes.txt"] == b"mine" and hub.repos[REPO]["files"]["README.md"] != b"old"
    assert "POST /api/repos/create" not in hub.asked


def test_a_public_repository_gets_nothing_that_was_to_be_private(hub: FakeHub) -> None:
    hub.repos[REPO] = {"private": False, "files": {}}
    assert "exists already and is public; add --public" in mistake("--yes")
    assert hub.repos[REPO]["files"] == {}


def test_a_wrong_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cretbutwrong")
    assert "the hub does not accept your token" in mistake("--yes")


def test_no_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "you are not logged in; run hf auth login" in mistake("--yes")


def test_somebody_elses_name(hub: FakeHub) -> None:
    result = call("publish", "mara", "--repo", "other/mara", "--yes")
    assert result.exit_code == 1 and "your token may not write to other/mara" in said(result)


def test_the_network_is_down(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert f"{url} does not answer; check the network" in mistake("--yes")


def test_an_upload_that_breaks_off_changes_no_file_and_goes_on_when_run_again(hub: FakeHub) -> None:
    hub.mood = "breaks off"
    line = mistake("--yes")
    assert "the upload broke off, and no file of the repository was changed" in line
    assert len(hub.blobs) == 1 and hub.repos[REPO]["files"] == {}
    hub.mood = "well"
    assert publish("--yes")[0] == "exit 0" and len(hub.repos[REPO]["files"]) == 4


def test_a_full_account(hub: FakeHub) -> None:
    hub.mood = "full"
    assert "your storage on the hub is full" in mistake("--yes")


@pytest.mark.parametrize("repo", ["mara", "me/../mara", "me/ma ra", "me/mara/x", "https://huggingface.co/me/mara"])
def test_what_is_no_name_of_a_repository(made: Results, repo: str) -> None:
    result = call("publish", "mara", "--repo", repo)
    assert result.exit_code == 1 and "is not the name of a repository" in said(result)


def test_what_is_not_made_yet(made: Results) -> None:
    made.final.unlink()
    assert "is not made yet; run snakemake --cores 2 results/mara/final.safetensors" in mistake()


def test_a_path_of_this_machine_stays_here(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    character = Path("config/characters/mara.yaml")
    prompts = yaml.safe_load(character.read_text())["sample_prompts"]
    edit(character, sample_prompts=[f"a photo of {{trigger}} as in {Path.home()}/x.png", *prompts[1:]])
    assert "holds the path of your" in mistake()
