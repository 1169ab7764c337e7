"""The prompt sheet as a page."""

from __future__ import annotations

import html

from charloom.dataset.prompts import Sheet

_TIER_TITLES = {"close-up": "Close-up portraits", "medium": "Medium shots", "full-body": "Full body"}


def as_html(sheet: Sheet) -> str:
    """One self-contained page with a button to copy each prompt and a tick for the ones that are done."""
    note = "Made once, from text alone. Everything else is made from it."
    sections = [_section("Reference", note, [("reference", sheet.reference)])] if sheet.reference else []
    for tier, title in _TIER_TITLES.items():
        prompts = [(name, prompt) for its_tier, name, prompt in sheet.shots if its_tier == tier]
        if prompts:
            sections.append(_section(title, f"{len(prompts)} images, each with the reference attached.", prompts))
    return _PAGE.replace("%NAME%", html.escape(sheet.name)).replace("%SECTIONS%", "\n".join(sections))


def _section(title: str, note: str, prompts: list[tuple[str, str]]) -> str:
    cards = "\n".join(
        f'<article id="{html.escape(name)}"><header><h3>{html.escape(name)}</h3>'
        f'<button type="button">Copy</button></header><p>{html.escape(prompt)}</p></article>'
        for name, prompt in prompts
    )
    return f"<section><h2>{html.escape(title)}</h2><p class=note>{html.escape(note)}</p>\n<div>{cards}</div></section>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%NAME%: prompt sheet</title>
<style>
:root { --ink: #2b2230; --soft: #7a6f80; --paper: #faf7f3; --card: #fff; --line: #e7dfd8;
  --mark: #c2552d; --done: #3f7d54; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #efe8ef; --soft: #a79cac; --paper: #1b171e; --card: #252029; --line: #3a3340;
    --mark: #ee8a5f; --done: #7cc495; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2.5rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0; font-size: 2.2rem; letter-spacing: -.02em; }
h2 { margin: 2.6rem 0 0; font-size: 1.25rem; }
h3 { margin: 0; font: 600 .85rem ui-monospace, monospace; color: var(--mark); }
.note { margin: .1rem 0 1rem; color: var(--soft); }
section > div { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); }
article { padding: 1rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: .7rem; }
article header { display: flex; align-items: center; justify-content: space-between; }
article p { margin: .7rem 0 0; font-size: .9rem; }
button { padding: .3rem .9rem; border: 1px solid var(--mark); border-radius: 2rem; background: none; color: var(--mark);
  font: 600 .8rem system-ui, sans-serif; cursor: pointer; }
button:hover, button:focus-visible { background: var(--mark); color: var(--card); outline: none; }
article.done { border-color: var(--done); }
article.done button { border-color: var(--done); color: var(--done); }
article.done button:hover { background: var(--done); color: var(--card); }
#count { font-weight: 600; color: var(--done); }
</style>
<h1>%NAME%</h1>
<p class="note">Make the reference first. Then send each prompt together with it, in a fresh chat every five images.
Save every result under the name of its card. <span id="count"></span></p>
%SECTIONS%
<script>
const cards = [...document.querySelectorAll("article")];
function count() {
  const done = cards.filter(card => card.classList.contains("done")).length;
  document.getElementById("count").textContent = done ? `${done} of ${cards.length} copied` : "";
}
function copied(card, button) { card.classList.add("done"); button.textContent = "Copied"; count(); }
cards.forEach(card => {
  const button = card.querySelector("button"), text = card.querySelector("p");
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text.textContent); copied(card, button); }
    catch {
      getSelection().selectAllChildren(text);
      if (document.execCommand("copy")) { copied(card, button); getSelection().removeAllRanges(); }
      else button.textContent = "Press Ctrl+C";
    }
  });
});
</script>
</html>
"""
