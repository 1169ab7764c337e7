# ruff: noqa: F811 (fixtures that are imported)
"""Pictures from APIs: keys stay secret, budgets hold, and nothing is bought twice or forgotten."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
from fake_generators import KEY, Fake
from generator_shop import SERVERS, Shop, fake, no_certificates, shop, source  # noqa: F401 (fixtures)

from charloom.core.errors import UserError
from charloom.dataset.sources.orders import Order
from charloom.dataset.sources.purchases import Budget


def test_a_key_that_is_not_accepted_ends_the_run_at_once(shop: Shop, fake: Fake) -> None:
    fake.moods = [401]
    with pytest.raises(UserError, match="^MY_KEY: is not accepted") as caught:
        shop.get(1, 2)
    assert KEY not in str(caught.value) and len(fake.asked) == 1


def test_an_unknown_model_is_named(shop: Shop, fake: Fake) -> None:
    fake.moods = [404]
    with pytest.raises(UserError, match=f"^images.{shop.source}: there is no such model or address"):
        shop.get(1)


def test_a_server_that_is_not_there(shop: Shop, fake: Fake) -> None:
    shop.how["base_url"] = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="the server cannot be reached"):
        shop.get(1)
    assert shop.counted() == [] and len(shop.waited) == 6


def test_the_key_is_nowhere(shop: Shop, fake: Fake) -> None:
    """Servers that repeat it in their errors, in refusals and in texts do not get it into any file or line."""
    fake.moods = [500, 429, "refused", b"nonsense " + KEY.encode(), 401]
    with pytest.raises(UserError) as caught:
        shop.get(1, 2)
    everything = [str(caught.value), *shop.said]
    everything += [path.read_bytes().decode("latin-1") for path in shop.folder.rglob("*") if path.is_file()]
    assert not [text for text in everything if KEY in text]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(("value", "words"), [("", "is not set"), ("  ", "is not set"), ("sk-a\nb", "contains spaces")])
def test_a_missing_or_broken_key_is_one_line_without_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UserError, match=f"^MY_KEY: {words}") as caught:
        shop.get(1)
    assert "sk-a" not in str(caught.value)


def test_a_missing_package_is_one_line(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai" if shop.source == "gemini" else "openai", None)
    with pytest.raises(UserError, match=rf"pip install 'charloom\[{shop.source}\]'"):
        shop.get(1)


def test_a_budget_of_pictures(shop: Shop, fake: Fake) -> None:
    shop.budget = Budget(pictures=2)
    with pytest.raises(
        UserError, match=r"^images.budget: is spent \(2 pictures\) before shot-03, shot-04, shot-05 and 1 "
    ):
        shop.get(1, 2, 3, 4, 5, 6)
    assert len(fake.asked) == 2 and shop.has(1) and shop.has(2)
    shop.budget = Budget(pictures=3)
    with pytest.raises(UserError, match="before shot-04"):
        shop.get(1, 2, 3, 4)
    assert len(fake.asked) == 3


def test_a_budget_of_money(shop: Shop, fake: Fake) -> None:
    shop.budget = Budget(money=0.3, price=0.1)
    with pytest.raises(UserError, match=r"3 pictures and 0.30 of money"):
        shop.get(1, 2, 3, 4)
    assert len(fake.asked) == 3
    # A price that has risen since counts for what comes, not for what was bought.
    shop.budget = Budget(money=0.7, price=0.2)
    with pytest.raises(UserError, match=r"5 pictures and 0.70 of money"):
        shop.get(4, 5, 6)


def test_what_was_lost_counts_too(shop: Shop, fake: Fake) -> None:
    shop.budget = Budget(pictures=2)
    fake.moods = ["cut", b"nonsense"]
    with pytest.raises(UserError, match="images.budget: is spent"):
        shop.get(1)
    assert shop.counted() == ["lost", "bought"] and len(fake.asked) == 2


def test_nothing_is_asked_for_that_could_not_be_kept(shop: Shop, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(shop.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(UserError, match="store: the disk is full; free some space"):
        shop.get(1)
    assert not fake.asked


def test_nothing_is_asked_for_after_a_reference_that_is_cut_off(shop: Shop, fake: Fake) -> None:
    shop.reference.write_bytes(shop.reference.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"reference.png: .*; delete it, so that it is made again"):
        shop.get(1)
    assert not fake.asked


def test_two_processes_do_not_buy_the_same(shop: Shop, fake: Fake) -> None:
    """As the job does: under a lock, with a look at the store after it is held."""

    def one() -> None:
        with shop.store.lock("pictures-mara"):
            shop.get(1, 2)

    threads = [threading.Thread(target=one) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(fake.asked) == 2


def test_the_account_survives_a_crash_in_the_middle_of_a_line(shop: Shop, fake: Fake) -> None:
    shop.get(1)
    with open(shop.file, "a") as file:
        file.write('{"what": "bought", "key": "abc')
    shop.get(2)
    assert shop.counted() == ["bought", "bought"]
    assert json.loads(shop.file.read_text().splitlines()[-1])["picture"] == "shot-02"


def test_no_purchase_without_account(shop: Shop, fake: Fake) -> None:
    shop.file.mkdir()
    with pytest.raises(UserError, match="purchases.jsonl: "):
        shop.get(1)
    assert fake.asked == []


def test_keys_and_seeds() -> None:
    """A key depends on all that decides how a picture looks, on the attempt and the reference; not on the name."""
    plain = Order("a", {"prompt": "x", "seed": 7}, 0, None, "r")
    same = Order("b", {"prompt": "x", "seed": 7}, 0, Path("elsewhere"), "r")
    others = [
        Order("a", {"prompt": "y", "seed": 7}, 0, None, "r"),
        Order("a", {"prompt": "x", "seed": 8}, 0, None, "r"),
        Order("a", {"prompt": "x", "seed": 7}, 1, None, "r"),
        Order("a", {"prompt": "x", "seed": 7}, 0, None, "s"),
        Order("a", {"prompt": "x", "seed": 7, "twin": 1}, 0, None, "r"),
    ]
    assert plain.key == same.key and plain.seed == same.seed
    assert len({plain.key, *(one.key for one in others)}) == 6
    assert len({plain.seed, *(one.seed for one in others if one.reference_sha256 == "r")}) == 5
    assert plain.seed == others[3].seed
