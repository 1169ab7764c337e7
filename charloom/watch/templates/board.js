// The board: which cards are shown, and what can be done with them by pointer, touch and keyboard.
const home = `/board/${encodeURIComponent(name)}`;
const byName = new Map(), cards = new Map();
const finder = document.getElementById("find"), filters = document.getElementById("filters"), file = document.getElementById("file");
const help = document.getElementById("help"), general = document.getElementById("general"), more = document.getElementById("more");
let state = { pictures: [] }, filter = "all", current = null, target = null, quiet = null;

const FILTERS = [
  ["all", "All", () => true],
  ["work", "To do", hasWork],
  ["missing", "Missing", p => !p.picture && !p.excluded],
  ["findings", "Findings", p => !p.excluded && p.findings.some(one => !one.wide)],
  ["proposed", "Proposed", p => Boolean(p.proposal)],
  ["out", "Left out", p => p.excluded],
];

function tell(answer, undo) {
  if (!answer.text) return;
  said.hidden = false;
  said.className = answer.ok ? "toast good" : "toast bad";
  said.replaceChildren(h("span", {}, answer.text), undo ? h("button", { type: "button", class: "act", onclick: undo }, "Undo") : "",
    h("button", { type: "button", class: "act", "aria-label": "Close", onclick: () => { said.hidden = true; } }, "✕"));
  clearTimeout(quiet);
  if (answer.ok) quiet = setTimeout(() => { said.hidden = true; }, 8000);
}

function draw(news) {
  state = { ...state, ...news }; // while the character file cannot be read there are no new pictures: the old ones stay
  document.getElementById("title").textContent = `${news.title}: data set`;
  if (!news.pictures) {
    stateOf.textContent = "not known"; stateOf.className = "pill bad";
    return generalOf([], news.problem);
  }
  const order = new Set(news.pictures.map(p => p.name));
  for (const [key, card] of cards) if (!order.has(key) && editing?.name !== key) { card.remove(); cards.delete(key); byName.delete(key); }
  let last = null;
  for (const p of news.pictures) {
    let card = cards.get(p.name);
    const text = JSON.stringify(p);
    if (!card) {
      card = h("article", { tabindex: -1, "data-name": p.name, onfocusin: () => point(p.name, false) });
      cards.set(p.name, card);
    }
    byName.set(p.name, p);
    if (card.dataset.text !== text) {
      card.dataset.text = text;
      if (editing?.name === p.name) changedMeanwhile(p);
      else refill(card, p);
    }
    // Moved only if necessary: an element that is moved loses the focus.
    if (last ? last.nextSibling !== card : main.firstChild !== card) last ? last.after(card) : main.prepend(card);
    last = card;
  }
  const kept = news.pictures.filter(p => !p.excluded && p.role !== "reference"), out = news.pictures.filter(p => p.excluded).length;
  const { running, done, problem, errors, warnings } = news.check;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  stateOf.textContent = running ? "checking …" : problem ? "not checked" : !done ? "not checked yet" : errors || warnings
    ? [errors && count(errors, "error"), warnings && count(warnings, "warning")].filter(Boolean).join(", ") : kept.every(p => p.picture) ? "the check passes" : "passes so far";
  stateOf.className = `pill ${running ? "" : problem || errors ? "bad" : done && !warnings ? "good" : ""}`;
  generalOf(news.general, news.problem || problem);
  document.getElementById("sum").textContent = [`${kept.filter(p => p.picture).length} of ${kept.length} pictures are there`,
    out ? `${out} left out` : ""].filter(Boolean).join(", ");
  more.hidden = !news.adds;
  show();
}
function refill(card, p) {
  const inside = card.contains(document.activeElement), whole = document.activeElement === card;
  fill(card, p);
  if (inside && !whole) card.focus({ preventScroll: true });
}
function generalOf(findings, problem) {
  general.hidden = !findings.length && !problem;
  const worst = findings.some(one => one.level !== "note");
  const open = general.querySelector("details")?.open ?? findings.some(one => one.level === "error");
  general.replaceChildren(problem ? h("p", { class: "miss" }, problem) : "", findings.length ? h("details", { open: open },
    h("summary", {}, `About the whole set: ${findings.length}`, worst ? "" : " notes"),
    h("ul", { class: "findings" }, findings.map(one => h("li", { class: LEVELS[one.level] || "note" },
      one.wide ? h("button", { type: "button", class: "rule", title: "Show these pictures", onclick: () => { finder.value = one.rule; filter = "all"; show(); } },
        one.rule) : h("b", {}, one.rule), one.wide ? ` ${one.pictures} pictures: ${one.what}` : ` ${one.where}: ${one.what}`,
      one.remedy ? h("span", { class: "remedy" }, ` → ${one.remedy}`) : null)))) : "");
}

// Which cards are visible, and how many of each kind there are.
function show() {
  const there = FILTERS.map(([key, label, wanted]) => [key, label, state.pictures.filter(wanted).length]);
  filters.replaceChildren(...there.filter(([key, , number]) => key === "all" || number || key === filter).map(([key, label, number]) =>
    h("button", { type: "button", class: "chip", "aria-pressed": String(key === filter), onclick: () => { filter = key; show(); } },
      label, h("span", {}, String(number)))));
  const wanted = FILTERS.find(([key]) => key === filter)[2], words = finder.value.trim().toLowerCase();
  let shown = 0;
  for (const p of state.pictures) {
    const hit = editing?.name === p.name || (wanted(p) && (!words || `${p.name} ${p.caption} ${p.tier} ${p.findings.map(one => one.rule).join(" ")}`.toLowerCase().includes(words)));
    cards.get(p.name).hidden = !hit;
    shown += hit;
  }
  const none = document.getElementById("none");
  none.hidden = shown > 0;
  none.textContent = state.pictures.length ? "No picture matches." : state.adds ? "Drop pictures here, or add them with the button above."
    : "There is no picture yet.";
  const visible = seenNow();
  if (!visible.includes(current)) current = visible[0] ?? null;
  for (const [key, card] of cards) card.tabIndex = key === current ? 0 : -1;
}
const seenNow = () => state.pictures.map(p => p.name).filter(key => !cards.get(key).hidden);

function point(picture, focus = true) {
  if (picture == null || !cards.has(picture)) return;
  cards.get(current)?.setAttribute("tabindex", "-1");
  current = picture;
  const card = cards.get(picture);
  card.tabIndex = 0;
  if (focus) { card.focus({ preventScroll: true }); card.scrollIntoView({ block: "nearest" }); }
}
function step(by, wanted = () => true) {
  const list = seenNow(), at = list.indexOf(current);
  if (document.activeElement?.closest(".pic") == null && at >= 0 && Math.abs(by) === 1 && wanted(byName.get(current))) return point(current);
  for (let next = at + by; next >= 0 && next < list.length; next += Math.sign(by)) if (wanted(byName.get(list[next]))) return point(list[next]);
  point(current);
}
const columns = () => getComputedStyle(main).gridTemplateColumns.split(" ").length;

async function change(path, body, undo) {
  const answer = await post(`${home}/${path}`, JSON.stringify(body));
  tell(answer, answer.ok && undo);
  await refresh();
  return answer;
}
async function refresh() {
  try { draw(await (await fetch(`${home}/state`)).json()); } catch { /* the stream of events says that the server is gone */ }
}
async function leaveOut(picture, out = !byName.get(picture).excluded) {
  if (editing?.name === picture && !finish()) return;
  await change("exclude", { picture, out }, () => leaveOut(picture, !out));
}
async function settle(picture, take) {
  const p = byName.get(picture);
  if (!p.proposal || (editing?.name === picture && !finish())) return;
  const answer = await change("proposal", { picture, take, proposal: p.proposal.proposal, seen: p.seen });
  if (answer.ok) step(1, hasWork);
}
async function tick(picture, on) { await change("tick", { picture, on }); }
async function copy(picture, button) {
  const { prompt } = byName.get(picture);
  try { await navigator.clipboard.writeText(prompt); tell({ ok: true, text: `${picture}: prompt copied` }); }
  catch {
    const box = cards.get(picture).querySelector(".prompt");
    box.open = true;
    getSelection().selectAllChildren(box.querySelector("p"));
    tell({ ok: false, text: "The browser does not let the page copy; the prompt is selected, press Ctrl+C." });
  }
  button?.blur();
}

// Pictures are added by dropping or choosing files.
function choose(picture) {
  if (picture && !byName.get(picture).takes) return tell({ ok: false, text: `${picture}: ${state.fixed}` });
  target = picture;
  file.multiple = !picture;
  file.click();
}
file.addEventListener("change", () => {
  const files = [...file.files];
  file.value = "";
  if (target) put(files[0], target); else files.reduce((before, one) => before.then(() => put(one, null)), Promise.resolve());
});
async function put(one, picture) {
  const p = picture && byName.get(picture), asked = p ? { picture, version: p.version } : { file: one.name };
  const card = p && cards.get(picture);
  card?.classList.add("busy");
  tell({ ok: true, text: `${one.name} …` });
  const answer = await post(`${home}/put?${new URLSearchParams(asked)}`, one, "application/octet-stream");
  card?.classList.remove("busy");
  tell(answer.ok ? answer : { ok: false, text: `${one.name}: ${answer.text}` });
  await refresh();
}
const carriesFiles = event => [...(event.dataTransfer?.types || [])].includes("Files");
let over = null;
function light(card) { if (over !== card) { over?.classList.remove("over"); over = card; over?.classList.add("over"); } }
addEventListener("dragover", event => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  const card = event.target.closest?.(".pic.takes");
  light(card);
  document.body.classList.toggle("dropping", true);
  event.dataTransfer.dropEffect = "copy";
});
addEventListener("dragleave", event => { if (!event.relatedTarget) { light(null); document.body.classList.remove("dropping"); } });
addEventListener("drop", async event => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  const card = event.target.closest?.(".pic"), files = [...event.dataTransfer.files];
  light(null);
  if (card && files.length === 1) {
    const picture = card.dataset.name;
    return byName.get(picture).takes ? put(files[0], picture) : tell({ ok: false, text: `${picture}: ${state.fixed}` });
  }
  for (const one of files) {
    const stem = one.name.replace(/\.[^.]+$/, "");
    if (byName.get(stem)?.takes) await put(one, stem);
    else if (state.adds) await put(one, null);
    else tell({ ok: false, text: state.fixed || `${one.name}: there is no shot of that name; drop it onto one.` });
  }
});

let enlarged = null;
function enlarge(picture) {
  const p = byName.get(picture);
  if (!p?.picture) return;
  enlarged = picture;
  seen.src = p.picture; // already loaded; shown until the larger one is
  const large = h("img", { src: `${p.picture}&size=large`, onload: () => { if (box.open && enlarged === picture) seen.src = large.src; } });
  seen.alt = p.name;
  box.querySelector(".words").textContent = [p.name, p.caption].filter(Boolean).join("\n");
  if (!box.open) box.showModal();
}
box.addEventListener("close", () => { seen.removeAttribute("src"); point(enlarged); }); // the browser has moved the focus back to where it was opened
box.addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const list = seenNow().filter(key => byName.get(key).picture);
  enlarge(list[list.indexOf(enlarged) + by] ?? enlarged);
});

help.querySelector(".close").addEventListener("click", () => help.close());
help.addEventListener("click", event => { if (event.target === help) help.close(); });
document.getElementById("keys").addEventListener("click", () => help.showModal());
more.addEventListener("click", () => choose(null));
finder.addEventListener("input", show);
finder.addEventListener("keydown", event => {
  if (event.key === "Escape") { finder.value = ""; show(); }
  if (event.key === "Escape" || event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); event.stopPropagation(); point(current); }
});

const KEYS = {
  j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
  ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()), n: () => step(1, hasWork), p: () => step(-1, hasWork),
  Home: () => point(seenNow()[0]), End: () => point(seenNow().at(-1)),
  e: () => edit(current), Enter: () => edit(current), a: () => settle(current, true), r: () => settle(current, false),
  x: () => byName.get(current)?.role !== "reference" && leaveOut(current), u: () => choose(current),
  c: () => byName.get(current)?.prompt && copy(current),
  t: () => { const p = byName.get(current); if (p.prompt && p.takes && !p.picture) tick(current, !p.ticked); },
  z: () => enlarge(current), " ": () => enlarge(current), "/": () => { finder.focus(); finder.select(); },
  l: () => change("check", {}), "?": () => help.showModal(), Escape: () => { said.hidden = true; },
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  const at = event.target;
  if (at.matches?.("input, textarea, select")) return;
  // On a button, Enter and Space keep their usual meaning.
  if ((event.key === "Enter" || event.key === " ") && at.matches?.("button, a, summary")) return;
  const does = KEYS[event.key];
  if (!does || (current == null && !["/", "?", "Escape", "l"].includes(event.key))) return;
  event.preventDefault();
  does();
});

const stream = new EventSource(`${home}/events`);
stream.addEventListener("message", event => draw(JSON.parse(event.data)));
stream.addEventListener("error", () => { stateOf.textContent = "no connection"; stateOf.className = "pill bad"; });
