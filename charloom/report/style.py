"""Looks and behaviour of the report: one style sheet and one script, both inlined into the page."""

CSS = """
:root { color-scheme: light dark;
  --ink: #2b2230; --soft: #74697a; --paper: #faf7f3; --card: #fff; --line: #e7dfd8; --wash: #f3ede6; --mark: #c2552d;
  --good: #3f7d54; --bad: #b3412f; --warn: #fbf0d9; --warn-line: #e3c888;
  --c0: #c2552d; --c1: #2f7f86; --c2: #8a5aa8; --c3: #8d8478; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #efe8ef; --soft: #a79cac; --paper: #1b171e; --card: #252029; --line: #3a3340; --wash: #2c2631;
  --mark: #ee8a5f;
  --good: #7cc495; --bad: #f08d7d; --warn: #372d1d; --warn-line: #6b5730;
  --c0: #ee8a5f; --c1: #66b8bf; --c2: #bf93dd; --c3: #9d948a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 2.5rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 2.6rem; line-height: 1.1; letter-spacing: -.025em; }
h2 { margin: 3.2rem 0 .9rem; font-size: 1.35rem; letter-spacing: -.01em; }
h3 { margin: 0 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; }
a { color: var(--mark); }
code, pre, kbd { font-family: ui-monospace, "SF Mono", Consolas, monospace; font-size: .86em; }
code { padding: .1em .35em; border-radius: .3em; background: var(--wash); overflow-wrap: anywhere; }
pre { margin: .6rem 0; white-space: pre-wrap; overflow-wrap: anywhere; padding: .9rem 1rem; border-radius: .6rem;
  background: var(--wash); overflow-x: auto;
  line-height: 1.5; }
.copy { padding: .3rem .9rem; border: 1px solid var(--mark); border-radius: 2rem; background: none; color: var(--mark);
  font: 600 .8rem system-ui, sans-serif; cursor: pointer; }
.copy:hover { background: var(--mark); color: var(--card); }
.note { color: var(--soft); font-size: .92rem; max-width: 46rem; }
.card { padding: 1.1rem 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: .8rem; }
.two { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.two > .card > :first-child { margin-top: 0; }

.hero { display: grid; gap: 1.8rem; grid-template-columns: auto 1fr; align-items: center; }
.hero > img { width: 13rem; aspect-ratio: 1; object-fit: cover; border-radius: 1rem; border: 1px solid var(--line); }
.hero .concept { color: var(--soft); max-width: 46rem; }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1.1rem 0 0; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) { .hero { grid-template-columns: 1fr; } .hero > img { width: 9rem; } h1 { font-size: 2rem;
  } }

.warnings { margin: 1.5rem 0 0; padding: .9rem 1.2rem; background: var(--warn); border: 1px solid var(--warn-line);
  border-radius: .8rem; }
.warnings ul { margin: .2rem 0 .7rem; padding-left: 1.2rem; } .warnings ul:last-child { margin-bottom: .1rem; }
.card ol { margin: .4rem 0; padding-left: 1.3rem; } .card ol li { margin: .35rem 0; }
.why { margin: 0; padding-left: 1.2rem; }
.why li:first-child { font-weight: 600; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
.verdicts td, .verdicts th, .plain td, .plain th { padding: .5rem .8rem .5rem 0; text-align: left;
  vertical-align: top;
  border-bottom: 1px solid var(--line); }
.verdicts tr:last-child td, .plain tr:last-child td { border-bottom: 0; }
.verdicts th, .plain th { color: var(--soft); font-size: .8rem; font-weight: 500; }
.verdicts td { font-variant-numeric: tabular-nums; }
.verdicts td.said { min-width: 17rem; font-size: .88rem; }
.verdicts tr.chosen td:first-child { box-shadow: inset 3px 0 var(--mark); }
.verdicts td:first-child, .verdicts th:first-child { padding-left: .8rem; font-weight: 600; white-space: nowrap; }
.plain td { font-size: .9rem; overflow-wrap: anywhere; } .plain td:first-child { color: var(--soft);
  white-space: nowrap; }
.plain td.number, .plain th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media (max-width: 40rem) { .verdicts thead { display: none; }
  .verdicts tr { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: .6rem 0;
    border-bottom: 1px solid var(--line); }
  .verdicts td { padding: 0 0 0 .8rem; border: 0; } .verdicts td.said { flex-basis: 100%; }
  .verdicts td[data-k]::before { content: attr(data-k) " "; color: var(--soft); font-size: .8rem; } }
.pill { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; border: 1px solid currentColor;
  font-size: .8rem;
  font-weight: 600; color: var(--soft); white-space: nowrap; }
.pill.good { color: var(--good); } .pill.bad { color: var(--bad); }
.said ul { margin: 0; padding: 0; list-style: none; }
.said li { padding-left: 1.2rem; text-indent: -1.2rem; }
.said li::before { content: "–"; display: inline-block; width: 1.2rem; text-indent: 0; color: var(--soft); }
.said li.good::before { content: "✓"; color: var(--good); } .said li.bad::before { content: "✗"; color: var(--bad); }

.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.chart .rule { stroke: var(--line); } .chart .mark { stroke: var(--mark); stroke-dasharray: 3 4; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
.chart .faint { fill: none; stroke: var(--c); stroke-width: 1; opacity: .35; }
.chart .dot { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0 0; color: var(--soft);
  font-size: .85rem; }
.legend span::before { content: ""; display: inline-block; width: .7rem; height: .7rem; margin-right: .4rem;
  border-radius: 50%;
  background: var(--c); }

.compare { overflow: auto; max-height: 92vh; border: 1px solid var(--line); border-radius: .8rem;
  background: var(--card); }
.compare table { border-spacing: 0; border-collapse: separate; width: auto; }
.compare th, .compare td { padding: .3rem; vertical-align: top; }
.compare thead th { position: sticky; top: 0; z-index: 2; background: var(--card); padding: .55rem .3rem;
  font-size: .9rem;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
.compare tbody th { position: sticky; left: 0; z-index: 1; width: 11rem; min-width: 11rem; padding: .5rem .9rem;
  background: var(--card); text-align: left; font-weight: 400; font-size: .82rem; line-height: 1.4;
  color: var(--soft); }
.compare thead th:first-child { left: 0; z-index: 3; }
.compare tbody th b { display: block; color: var(--mark); font-size: .9rem; }
.compare .chosen { background: var(--mark); }
.compare thead .chosen { color: var(--card); }
.compare button { display: block; padding: 0; border: 0; background: none; cursor: zoom-in; }
.compare img { display: block; width: clamp(6.5rem, (min(100vw, 80rem) - 16.5rem) / var(--n) - .6rem, 15rem);
  border-radius: .35rem; }
.compare .told { display: block; margin-top: .2rem; font-size: .75rem; color: var(--soft); }
.compare .chosen .told { color: var(--card); }
button:focus-visible, summary:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
@media (max-width: 40rem) { .compare tbody th { position: static; min-width: 8rem; width: 8rem;
  } }

.shots { display: grid; gap: 1rem .8rem; grid-template-columns: repeat(auto-fill, minmax(min(13.5rem, 44%), 1fr)); }
.shots figure { margin: 0; }
.shots button { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in; }
.shots img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .5rem; }
.shots figcaption { margin-top: .3rem; font-size: .78rem; line-height: 1.35; color: var(--soft);
  display: -webkit-box; -webkit-line-clamp: 4; -webkit-box-orient: vertical; overflow: hidden; }
.shots figcaption b { color: var(--ink); font-weight: 600; }
.tier { margin: 1.4rem 0 .6rem; font-size: 1rem; } .tier span { color: var(--soft); font-weight: 400; }

details > summary { cursor: pointer; font-weight: 600; }
.bar { display: block; height: .55rem; min-width: 2px; border-radius: .3rem; background: var(--c1); }
td.bars { width: 45%; min-width: 8rem; vertical-align: middle; }
dialog { max-width: min(96vw, 60rem); padding: 1rem; border: 1px solid var(--line); border-radius: 1rem;
  background: var(--card);
  color: var(--ink); }
dialog::backdrop { background: rgb(20 14 22 / .75); }
dialog img { display: block; margin: 0 auto; width: min(76vh, 90vw); height: auto; border-radius: .5rem; }
dialog p { max-width: min(76vh, 90vw); margin: .6rem auto 0; font-size: .9rem; white-space: pre-line; }
dialog kbd { padding: 0 .35em; border: 1px solid var(--line); border-radius: .3em; }
footer { margin-top: 4rem; color: var(--soft); font-size: .85rem; }
@media print { .compare { max-height: none; overflow: visible; } dialog { display: none; } }
"""

JS = """
const box = document.querySelector("dialog"), seen = box.querySelector("img"), words = box.querySelector(".words");
const cells = [...document.querySelectorAll("button[data-r]")];
let now = null;
function show(cell) {
  if (!cell) return;
  now = cell;
  seen.src = cell.querySelector("img").src;
  seen.alt = cell.querySelector("img").alt;
  words.textContent = cell.dataset.words;
  if (!box.open) box.showModal();
}
function at(r, c) { return cells.find(cell => cell.dataset.r == r && cell.dataset.c == c); }
cells.forEach(cell => cell.addEventListener("click", () => show(cell)));
box.addEventListener("click", event => { if (event.target === box || event.target === seen) box.close(); });
box.addEventListener("close", () => now && now.focus());
addEventListener("keydown", event => {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!box.open || !move) return;
  event.preventDefault();
  const [kind, r] = now.dataset.r.split(":");
  show(at(`${kind}:${+r + move[0]}`, +now.dataset.c + move[1]));
});
document.querySelectorAll("button.copy").forEach(button => button.addEventListener("click", async () => {
  const text = button.parentElement.querySelector("pre").textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(button.parentElement.querySelector("pre")); }
}));
"""
