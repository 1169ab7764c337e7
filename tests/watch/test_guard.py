"""Who may ask the server for what, and which files it hands out."""

from __future__ import annotations

from pathlib import Path

import pytest

from charloom.watch.guard import inside, refusal

OWN = {"host": "127.0.0.1:8642"}
FROM_PAGE = OWN | {"origin": "http://127.0.0.1:8642", "sec-fetch-site": "same-origin", "x-charloom-token": "secret"}


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:8642", "LOCALHOST:8642", "[::1]:8642"])
def test_the_page_is_shown_under_every_name_of_this_machine(host):
    assert refusal("GET", {"host": host}, 8642, "secret") is None


@pytest.mark.parametrize(
    "host", ["evil.example:8642", "127.0.0.1.evil.example:8642", "127.0.0.1:80", "127.0.0.1", "0.0.0.0:8642", ""]
)
def test_another_host_is_refused_even_with_the_token(host):
    """A name of the attacker's that resolves to 127.0.0.1 (DNS rebinding)."""
    for method in ("GET", "POST"):
        asked = FROM_PAGE | {"host": host, "origin": f"http://{host}"}
        assert refusal(method, asked, 8642, "secret") == "this server answers only to 127.0.0.1"
    assert refusal("GET", {}, 8642, "secret")


def test_the_page_may_change_something():
    assert refusal("POST", FROM_PAGE, 8642, "secret") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9000"},  # another server on this machine
        {"origin": "https://127.0.0.1:8642"},
        {"origin": "null"},  # a sandboxed page, such as a report
        {"origin": None},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-charloom-token": None},
        {"x-charloom-token": ""},
        {"x-charloom-token": "secret2"},
        {"x-charloom-token": "ünknown"},
    ],
)
def test_a_change_needs_the_own_origin_and_the_token(changes):
    asked = {key: value for key, value in (FROM_PAGE | changes).items() if value is not None}
    assert refusal("POST", asked, 8642, "secret")


def test_other_sites_can_link_to_the_page_but_embed_nothing():
    asked = OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert refusal("GET", asked, 8642, "secret")
    assert refusal("GET", asked | {"sec-fetch-mode": "navigate"}, 8642, "secret") is None
    assert refusal("POST", FROM_PAGE | asked | {"sec-fetch-mode": "navigate"}, 8642, "secret")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    (root / "mara").mkdir(parents=True)
    (root / "mara/a b.png").write_text("")
    (root / "mara/.hidden.png").write_text("")
    (root / "mara/script.sh").write_text("")
    (tmp_path / "secret.txt").write_text("")
    (tmp_path / "results-too").mkdir()
    (tmp_path / "results-too/x.png").write_text("")
    return root


def test_files_of_the_results_are_found(results):
    assert inside(results, "mara/a b.png") == (results / "mara/a b.png").resolve()


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "mara/../../secret.txt", "/etc/hostname", "//etc/hostname", "mara/.hidden.png", "mara/script.sh",
     "mara", "", "mara/", "mara//a b.png", "..\\secret.txt", "mara/a b.png\0.txt", "../results-too/x.png", "x" * 5000,
     "file:///etc/hostname", "mara/none.png"],
)  # fmt: skip
def test_nothing_else_is(results, path):
    assert inside(results, path) is None


def test_links_that_lead_out_are_not_followed(results, tmp_path):
    (results / "mara/link.txt").symlink_to(tmp_path / "secret.txt")
    (results / "out").symlink_to(tmp_path)
    (results / "mara/own.png").symlink_to(results / "mara/a b.png")
    assert inside(results, "mara/link.txt") is None and inside(results, "out/secret.txt") is None
    assert inside(results, "mara/own.png") is not None
