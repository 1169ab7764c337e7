"""Every way in for somebody else's bytes, and the watch that sees what was done with them.

A surface takes bytes and a folder. It may finish or raise a :class:`UserError` of one line per problem; whatever it
says must not steer a terminal. While it runs, an audit hook notes writes outside of the folder, connections, programs
that are started, and pickles.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_inputs as inputs
import small_project
import yaml
from small_project import CHARACTER

from charloom.core.errors import UserError

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LONGEST_LINE = 4000
SLOWEST = 20.0
"""Seconds of a processor for one input, at most."""

platform.processor()  # starts a program the first time, which clients of APIs do to say who they are

SURFACES: dict[str, Callable[[bytes, Path], str]] = {}


def surface(function: Callable[[bytes, Path], str]) -> Callable[[bytes, Path], str]:
    SURFACES[function.__name__.rstrip("_")] = function
    return function


class Watch:
    """What happened in this thread while it was looking."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.folder: Path | None = None
        self.local = False
        """Whether servers on this machine may be asked."""
        self.thread = threading.get_ident()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, about: tuple[Any, ...]) -> None:
        if self.folder is None or threading.get_ident() != self.thread:
            return
        if event == "open":
            path, mode, flags = (*about, None, None)[:3]
            writes = any(sign in mode for sign in "wax+") if isinstance(mode, str) else (flags or 0) & WRITING
            if writes and isinstance(path, str | bytes | os.PathLike) and not self._inside(path):
                self.seen.append(f"opened {os.fsdecode(path)} to write")
        elif event in ("os.rename", "os.link", "os.symlink", "os.mkdir", "shutil.copyfile"):
            target = about[0] if event == "os.mkdir" else about[1]
            if isinstance(target, str | bytes | os.PathLike) and not self._inside(target):
                self.seen.append(f"{event} to {os.fsdecode(target)}")
        elif event in ("socket.connect", "socket.getaddrinfo") and self.local and "'127.0.0.1'" in str(about[:2]):
            pass
        elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "pickle.find_class"):
            self.seen.append(f"{event} {about[1:]}"[:200])

    def _inside(self, path: Any) -> bool:
        found = os.path.realpath(os.fsdecode(path))
        return found.startswith(f"{self.folder}/") or found == os.devnull


def project_folder(folder: Path) -> Path:
    if not (folder / "config").exists():
        small_project.make(folder)
    return folder


@surface
def config(data: bytes, folder: Path) -> str:
    from charloom.config import project
    from charloom.dataset import prompts, sources
    from charloom.report import prompt_sheet
    from charloom.workflow import slices

    (project_folder(folder) / "config/characters/mara.yaml").write_bytes(data)
    workflow = project.load(folder, image_problems=sources.problems)
    character = workflow.characters["mara"]
    page = prompt_sheet.as_html(prompts.sheet(json.loads(slices.prompt_sheet(character))))
    if "<script>alert(1)" in page or "<img src=x" in page:
        raise AssertionError("the prompt sheet holds markup of the character file")
    return ""


@surface
def caption(data: bytes, folder: Path) -> str:
    from charloom.dataset import captions

    path = folder / "a.txt"
    path.write_bytes(data)
    text = captions.read(path)
    if "\n" in text or "\r" in text:
        raise AssertionError("a caption of several lines")
    return ""


@surface
def lora(data: bytes, folder: Path) -> str:
    from charloom.lora.files import read_adapter
    from charloom.lora.verify import verify

    path = folder / "a.safetensors"
    path.write_bytes(data)
    report = verify(path)
    json.dumps(report.record(), allow_nan=False)
    try:
        read_adapter(path)
    except UserError as error:
        return f"{report}\n{error}"
    return str(report)


@surface
def convert(data: bytes, folder: Path) -> str:
    from charloom.core.tensors import write_safetensors
    from charloom.lora import convert as converting

    path = folder / "a.safetensors"
    path.write_bytes(data)
    said = []
    for target in converting.TARGETS:
        made = converting.convert(path, target)
        write_safetensors(folder / "b.safetensors", made.tensors, made.metadata)
        said += made.notes
    return "\n".join(said)


@surface
def import_(data: bytes, folder: Path) -> str:
    from charloom.interop.aitoolkit import read

    path = project_folder(folder) / "job.yaml"
    path.write_bytes(data)
    made = read.read(path, folder)
    text = read.character_yaml(made, path)
    yaml.safe_load(text)
    return "\n".join(made.todo)


@surface
def bundle(data: bytes, folder: Path) -> str:
    from charloom.deliver import unpack

    root = project_folder(folder)
    (root / "config/characters/mara.yaml").unlink(missing_ok=True)
    path = folder / "bundle.zip"
    path.write_bytes(data)
    made = unpack.unpack(path, root)
    return "\n".join(made.notes)


@surface
def picture(data: bytes, folder: Path) -> str:
    from charloom.core import pictures

    path = folder / "a.png"
    path.write_bytes(data)
    pictures.save_png(pictures.read(path), folder / "b.png")
    return ""


SECRET = "secret-of-somebody-else"


@surface
def link(data: bytes, folder: Path) -> str:
    """``{"link": where in the project, "to": what outside of it}``, both relative."""
    from charloom.config import inventory, masking, notices, project
    from charloom.dataset import captions, sources

    root = project_folder(folder)
    outside = folder.parent / "outside"
    for place in (outside / "deep", root / "pics", root / "set", root / "masks", root / "config/captions/mara"):
        place.mkdir(parents=True, exist_ok=True)
    for path in (outside / "key.txt", outside / "deep/a.txt", outside / "deep/key.txt"):
        path.write_text(f"m4ra, {SECRET}")
    picture = next(inputs.pictures())[1]
    for path in ("pics/a.png", "set/a.png", "masks/a.png"):
        (root / path).write_bytes(picture)
    for path in ("deep/a.png", "picture.png"):
        (outside / path).write_bytes(picture)
    about = json.loads(data)
    where = root / about["link"]
    where.unlink(missing_ok=True)
    where.symlink_to(outside / about["to"])
    mara = root / "config/characters/mara.yaml"
    mara.write_text(yaml.safe_dump({
        "trigger": "m4ra", "images": {"source": "folder", "path": "pics", **about.get("images", {})},
        "datasets": [{"name": "set", "path": "set", "default_caption": "m4ra"}],
    }))  # fmt: skip
    workflow = project.load(root, image_problems=sources.problems)
    character = workflow.characters["mara"]
    files = [character.caption_file(shot, root) for shot in character.shots]
    files += [part.caption_file(image) for part in character.datasets for image in part.files]
    read = [captions.read(path) for path in files if path]
    said = [f"{one.where}: {one.what}" for one in character.unused_files(root)] + notices.of_links(character)
    said += masking.problems(character)
    listed = [str(path) for path in inventory.tree(root / "pics")]
    if SECRET in "".join([*read, *said]):
        raise AssertionError(f"{about}: the text of somebody else's file was taken")
    if any("deep" in name or "/in/" in name for name in (*listed, *character.shot_names)):
        raise AssertionError(f"{about}: a link to a folder was followed")
    if about.get("named", True) and not said:
        raise AssertionError(f"{about}: not a word about the link")
    return "\n".join(said)


@surface
def server(data: bytes, folder: Path) -> str:
    """The answer of a server, to each client of one."""
    import hostile_servers

    said = []
    for ask in (_comfyui, _captioner, _generator):
        for kind in ("gemini", "openai") if ask is _generator else ("",):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with hostile_servers.lying(data) as liar:
                try:
                    said += ask(liar.url, folder, kind)
                except UserError as error:
                    said.append(str(error))
                sent = liar.sent
            if sent > LARGEST_ANSWER:
                raise AssertionError(f"{ask.__name__} {kind} took {sent / 2**20:.0f} MB of an answer")
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > LARGEST_GROWTH / 1024:
                raise AssertionError(f"{ask.__name__} {kind} took more memory than {LARGEST_GROWTH / 2**20:.0f} MB")
            if KEY in " ".join(said):
                raise AssertionError(f"{ask.__name__} {kind} says the key")
    return "\n".join(said)


KEY = "sk-marker-of-the-hostile-tests"
LARGEST_ANSWER, LARGEST_GROWTH = 2**28 + 2**26, 2**30


def _comfyui(url: str, folder: Path, _: str) -> list[str]:
    from charloom.deliver.server import Server

    server = Server(url)
    said = []
    for act in (
        lambda: server.queue({"1": {"class_type": "x", "inputs": {}}}),
        lambda: str(server.wait("1", 0.0)),
        lambda: str(list(server.pictures({"9": {"images": [{"filename": "../x.png", "type": "output"}]}}))[0][:0]),
        lambda: server.upload("a.png", b"x"),
    ):
        try:
            act()
        except UserError as error:
            said.append(str(error))
    return said


def _captioner(url: str, folder: Path, _: str) -> list[str]:
    from charloom.workflow.describing_api import Api

    (folder / "a.png").write_bytes(next(inputs.pictures())[1])
    os.environ["HOSTILE_KEY"] = KEY
    said: list[str] = []
    settings = {"base_url": f"{url}/v1", "model": "m", "longest": 9, "key": "HOSTILE_KEY"}
    api = Api(settings, said.append, sleep=lambda seconds: None)
    return said + [str(answer) for _, answer in api([folder / "a.png"], "what is it?")]


def _generator(url: str, folder: Path, kind: str) -> list[str]:
    import generator_shop

    from charloom.dataset import sources

    os.environ["MY_KEY"] = KEY
    kept = Path(tempfile.mkdtemp(dir=folder.parent))
    fake = generator_shop.Fake()
    fake.url = url
    shop = generator_shop.Shop(kept, kind, fake, timeout=5.0)
    assert sources.get(kind)
    try:
        made = shop.get(1, patience=generator_shop.Patience(tries=2, refusals=1, wrong=1))
    except UserError as error:
        return [*shop.said, str(error)]
    return [*shop.said, *made.values()]


def attempt(name: str, data: bytes, watch: Watch, place: Path | None = None) -> str | None:
    """One input to one surface; what is wrong with the answer, or None."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folder = Path(scratch).resolve() / "project"
        folder.mkdir()
        before = os.getcwd()
        os.chdir(folder)
        tempfile.tempdir, watch.folder, watch.seen = scratch, Path(scratch).resolve(), []
        watch.local, started = name == "server", time.process_time()
        try:
            said = SURFACES[name](data, folder)
        except UserError as error:
            said = str(error)
            if not said.strip():
                return "an error without a word"
        except Exception:
            return traceback.format_exc()
        finally:
            tempfile.tempdir = watch.folder = None
            os.chdir(before)
        if (took := time.process_time() - started) > SLOWEST:
            return f"took {took:.0f} s"
        if watch.seen:
            return "; ".join(watch.seen[:5])
        if next(Path(scratch).rglob(inputs.POISON), None):
            return "a pickle was loaded"
        for line in said.splitlines():
            if found := STEERING.search(line):
                return f"says {line[max(0, found.start() - 40) : found.start() + 40]!r}, which steers a terminal"
            if len(line) > LONGEST_LINE:
                return f"says a line of {len(line)} characters: {line[:120]!r}"
    return None


def random_input(name: str, chance: random.Random, valid: dict[str, bytes]) -> bytes:
    """A damaged valid file for a surface."""
    if name in ("config", "import") and chance.random() < 0.8:
        tree = CHARACTER if name == "config" else inputs.JOB
        try:
            return inputs.as_yaml(inputs.mutated(tree, chance, chance.randint(1, 3)))
        except (ValueError, yaml.YAMLError, RecursionError):
            pass
    return inputs.damaged(valid[name], chance)
