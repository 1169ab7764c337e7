// The cards of the board: what one picture of the data set looks like.
const LEVELS = { error: "bad", warning: "warn", note: "note" };
function act(label, key, title, onclick, more = "") {
  return h("button", { type: "button", class: `act ${more}`, title: key ? `${title} (${key})` : title, onclick },
    label, key.length > 1 ? h("kbd", { "aria-hidden": "true" }, key) : null);
}
function hasWork(p) {
  return !p.excluded && (!p.picture || p.problem || p.proposal || p.findings.some(one => !one.wide && one.level !== "note"));
}
function pictureOf(p, known) {
  if (!p.picture) {
    return h("button", { type: "button", class: "photo empty", disabled: !p.takes, onclick: () => choose(p.name),
      "aria-label": p.takes ? `Choose a picture for ${p.name}` : `${p.name} is not made yet` },
    h("span", {}, p.takes ? "Drop a picture here" : "not made yet"));
  }
  // Keep the element if the picture is the same, so that nothing flickers.
  const old = known?.querySelector(".photo img");
  const image = old?.getAttribute("src") === p.picture ? old
    : h("img", { src: p.picture, alt: p.caption || p.name, loading: "lazy", decoding: "async" });
  return h("button", { type: "button", class: "photo", onclick: () => enlarge(p.name), "aria-label": `Enlarge ${p.name}` }, image);
}
function headOf(p) {
  const short = p.set ? p.name.slice(p.set.length + 1) : p.name;
  return h("header", {}, h("h3", {}, p.set ? h("span", { class: "set" }, `${p.set}/`) : null, short),
    p.tier ? h("span", { class: "label" }, p.tier) : null,
    p.role && p.role !== p.name ? h("span", { class: "label" }, p.role) : null,
    p.own && !p.excluded ? h("span", { class: "label", title: "A caption of your own, not a composed one" }, "written") : null,
    p.excluded ? h("span", { class: "label out" }, "left out") : null);
}
function captionOf(p) {
  if (p.role === "reference") return null;
  if (p.problem) return h("p", { class: "miss" }, p.problem);
  if (p.excluded) return h("p", { class: "caption" }, p.caption);
  return h("p", { class: "caption", title: "Click to edit", onclick: () => edit(p.name) }, p.caption || "no caption yet");
}
function findingsOf(p) {
  if (!p.findings.length || p.excluded) return null;
  const own = p.findings.filter(one => !one.wide), wide = p.findings.filter(one => one.wide && one.level !== "note");
  if (!own.length && !wide.length) return null;
  return h("ul", { class: "findings" }, own.map(one => h("li", { class: LEVELS[one.level] || "note" },
    h("b", {}, one.rule), " ", one.what, one.others.length ? ` (also ${one.others.join(", ")})` : "",
    one.remedy ? h("span", { class: "remedy" }, ` → ${one.remedy}`) : null)),
  // Findings about most pictures are explained once, above all pictures.
  wide.length ? h("li", { class: "wide" }, "as many others: ", wide.flatMap((one, n) => [n ? ", " : "",
    h("span", { class: LEVELS[one.level], title: one.what }, one.rule)])) : null);
}
function difference(parts) {
  const tags = { less: "del", more: "ins" };
  return parts.flatMap(([kind, text]) => [tags[kind] ? h(tags[kind], {}, text) : text, " "]);
}
function proposalOf(p) {
  if (!p.proposal) return null;
  const { diff, problems, removed } = p.proposal;
  return h("section", { class: "proposal", "aria-label": "Proposed caption" }, h("p", { class: "diff" }, difference(diff)),
    problems.map(line => h("p", { class: "miss" }, line)),
    removed.length ? h("p", { class: "note" }, `left out of what the captioner said: ${removed.join(", ")}`) : null,
    h("div", { class: "acts" }, act("Accept", "a", "Take the proposed caption", () => settle(p.name, true), "good"),
      act("Keep mine", "r", "Keep the present caption", () => settle(p.name, false)),
      act("Edit it", "", "Edit the proposed caption", () => edit(p.name, p.proposal.proposal))));
}
function promptOf(p) {
  if (!p.prompt || p.excluded) return null;
  return h("details", { class: "prompt", open: p.takes && !p.picture && !p.ticked }, h("summary", {}, "Prompt"),
    h("p", {}, p.prompt), h("div", { class: "acts" }, act("Copy", "c", "Copy the prompt", event => copy(p.name, event.currentTarget))));
}
// Tick of a prompt on the sheet; a shot with a picture is ticked automatically.
function tickOf(p) {
  if (!p.prompt || !p.takes) return null;
  const there = Boolean(p.picture);
  return h("label", { class: "tick" }, h("input", { type: "checkbox", checked: there || p.ticked, disabled: there,
    onchange: event => tick(p.name, event.target.checked) }), there ? "there" : "done");
}
function toolsOf(p) {
  if (p.excluded) return h("div", { class: "acts" }, act("Bring back", "x", "Bring the picture back", () => leaveOut(p.name)));
  const reference = p.role === "reference";
  return h("div", { class: "acts tools" }, reference ? null : act("Edit", "e", "Edit the caption", () => edit(p.name)),
    reference ? null : act("Leave out", "x", "Leave the picture out; its file stays", () => leaveOut(p.name)),
    p.takes ? act(p.picture ? "Replace" : "Choose", "u", "Choose a picture file", () => choose(p.name)) : null, tickOf(p));
}
// Fills the card of a picture; a card that is being edited is left alone.
function fill(card, p) {
  const kinds = { excluded: p.excluded, missing: !p.picture, work: hasWork(p), takes: p.takes };
  card.className = ["pic", ...Object.keys(kinds).filter(kind => kinds[kind])].join(" ");
  card.setAttribute("aria-label", [p.name, p.caption, p.excluded ? "left out" : "", ...p.findings.map(one => one.what)].filter(Boolean).join(", "));
  card.replaceChildren(pictureOf(p, card), h("div", { class: "side" },
    [headOf(p), captionOf(p), p.picture ? null : promptOf(p), toolsOf(p)].filter(Boolean)),
  ...[proposalOf(p), findingsOf(p), p.picture ? promptOf(p) : null].filter(Boolean));
}
