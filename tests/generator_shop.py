"""Orders of pictures from an API, with everything that was said, waited and counted; and fixtures of them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_generators import KEY, Fake, Gemini, OpenAI, png, running

from charloom.core.canonical import file_digest
from charloom.core.store import Store
from charloom.dataset import sources
from charloom.dataset.sources.orders import KIND, Order
from charloom.dataset.sources.purchases import RUN, Budget, Purchases
from charloom.dataset.sources.session import Patience, Session

SERVERS = {"gemini": Gemini, "openai": OpenAI}
LOOKS = {
    "gemini": {"model": "some-image-model", "size": "1K", "aspect_ratio": "1:1"},
    "openai": {"model": "some-image-model", "size": "1024x1024", "quality": "high", "input_fidelity": "high"},
}
HOW = {
    "gemini": {"key_from": "MY_KEY", "timeout": 20.0, "per_chat": 5, "local": False},
    "openai": {"key_from": "MY_KEY", "timeout": 20.0, "local": False},
}


class Shop:
    """A session with its store, orders of any number, and what was said and waited."""

    def __init__(self, folder: Path, source: str, fake: Fake, **how: Any) -> None:
        self.folder, self.source = folder, source
        self.store = Store(folder / "store")
        self.file = folder / "purchases.jsonl"
        self.reference = folder / "reference.png"
        self.reference.write_bytes(png(999))
        address = fake.url if source == "gemini" else f"{fake.url}/v1"
        self.how = {**HOW[source], "base_url": address, **how}
        self.budget = Budget()
        self.said: list[str] = []
        self.waited: list[float] = []

    def order(self, number: int, **more: Any) -> Order:
        settings = {"source": self.source, **LOOKS[self.source], "prompt": f"picture {number}", "recipe": 1}
        return Order(f"shot-{number:02d}", settings, reference=self.reference,
                     reference_sha256=file_digest(self.reference), **more)  # fmt: skip

    def get(self, *numbers: int, patience: Patience | None = None) -> dict[str, str]:
        def opened() -> Any:
            return sources.get(self.source).open(self.how)

        session = Session(
            self.store,
            Purchases(self.file),
            self.said.append,
            opened,
            self.budget,
            patience or Patience(),
            self.waited.append,
        )
        return session.get([self.order(number) for number in numbers])

    def has(self, number: int) -> bool:
        return self.store.has(KIND, self.order(number).key, ".png")

    def kept(self, number: int) -> bytes:
        return self.store.path(KIND, self.order(number).key, ".png").read_bytes()

    def counted(self) -> list[str]:
        return [line["what"] for line in Purchases(self.file).lines if line["what"] != "stopped"]


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes each client a tenth of a second, and no server here has one."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *arguments, **more: None)


@pytest.fixture(params=SERVERS)
def source(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def fake(source: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv(RUN, raising=False)
    with running(SERVERS[source], Fake()) as one:
        yield one


@pytest.fixture
def shop(tmp_path: Path, source: str, fake: Fake) -> Shop:
    return Shop(tmp_path, source, fake)
