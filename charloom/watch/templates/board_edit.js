// Edits one caption at a time, in place. What somebody else writes in the meantime is shown beside it, never lost.
let editing = null;

function edit(picture, text) {
  const p = byName.get(picture);
  if (!p || p.excluded || p.problem || p.role === "reference") return;
  if (editing) {
    if (editing.name === picture && text == null) return editing.field.focus();
    if (!finish()) return;
  }
  const field = h("textarea", { rows: 2, "aria-label": `Caption of ${picture}`, maxlength: 4000, spellcheck: "true" });
  field.value = text ?? p.caption;
  const conflict = h("div", { class: "conflict", role: "alert", hidden: true });
  const earlier = h("div", { class: "earlier", hidden: true });
  const element = h("div", { class: "editor" }, field, conflict, h("div", { class: "acts" },
    act("Save", "Enter", "Save the caption", () => save(), "good"), act("Cancel", "Esc", "Leave the caption as it was", () => finish(true)),
    act("Earlier ones", "", "What it said before", () => showEarlier())), earlier);
  editing = { name: picture, field, element, conflict, earlier, before: p.caption, seen: p.seen, saving: false };
  field.addEventListener("input", () => grow(field));
  field.addEventListener("keydown", event => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); save(event.ctrlKey || event.metaKey); }
    else if (event.key === "Escape") { event.preventDefault(); finish(true); }
    event.stopPropagation();
  });
  const card = cards.get(picture);
  (card.querySelector(".caption") || card.querySelector("header")).after(element);
  card.classList.add("editing");
  point(picture, false);
  grow(field);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
function grow(field) { field.style.height = "auto"; field.style.height = `${field.scrollHeight + 2}px`; }

// Ends editing; without `sure`, asks before a changed text is discarded.
function finish(sure = false) {
  if (!editing) return true;
  if (!sure && editing.field.value.trim() !== editing.before.trim()) {
    editing.field.focus();
    tell({ ok: false, text: "Save this caption first (Enter), or leave it as it was (Esc)." });
    return false;
  }
  const card = cards.get(editing.name), picture = editing.name;
  editing.element.remove();
  editing = null;
  card?.classList.remove("editing");
  if (byName.has(picture) && card) { fill(card, byName.get(picture)); point(picture); }
  return true;
}
async function save(onward = false) {
  if (!editing || editing.saving) return;
  const one = editing, text = one.field.value;
  if (text.trim() === one.before.trim() && one.conflict.hidden) { finish(true); if (onward) step(1); return; }
  one.saving = one.field.readOnly = true; // what is typed before the answer arrives would be lost
  one.element.classList.add("busy");
  const answer = await post(`${home}/caption`, JSON.stringify({ picture: one.name, text, seen: one.seen }));
  one.saving = one.field.readOnly = false;
  one.element.classList.remove("busy");
  if (answer.ok) {
    if (editing === one) finish(true);
    tell(answer);
    await refresh();
    if (onward) step(1);
  } else if (answer.seen) clash(one, answer.current, answer.seen);
  else tell(answer);
}
// Shows both texts: the one being written here, and the one that somebody else has written in the meantime.
function clash(one, theirs, seen) {
  const mine = () => { one.seen = seen; save(); };
  const take = () => { if (one.saving) return; one.seen = seen; one.before = one.field.value = theirs; one.conflict.hidden = true; grow(one.field); one.field.focus(); };
  one.conflict.replaceChildren(h("p", {}, h("b", {}, "Somebody has changed this caption meanwhile. "), "It says now:"),
    h("p", { class: "theirs" }, theirs || "nothing"), h("div", { class: "acts" },
      act("Save mine over it", "", "The other text stays among the earlier ones", mine), act("Take theirs", "", "Go on with the other text", take)));
  one.conflict.hidden = false;
}
// News from the server while the caption is being edited.
function changedMeanwhile(p) {
  if (p.caption !== editing.before && p.seen !== editing.seen && !editing.saving) clash(editing, p.caption, p.seen);
}
async function showEarlier() {
  const one = editing;
  let found = [];
  try { found = await (await fetch(`${home}/history?picture=${encodeURIComponent(one.name)}`)).json(); } catch { /* none */ }
  one.earlier.replaceChildren(...(found.length ? found.map(line => h("button", { type: "button", class: "line",
    title: `until ${line.time.replace("T", " ")}, changed by ${line.by}`, onclick: () => { if (one.saving) return; one.field.value = line.text; grow(one.field); one.field.focus(); } },
  line.text)) : [h("p", { class: "note" }, "It was never changed here.")]));
  one.earlier.hidden = false;
}
addEventListener("beforeunload", event => { if (editing && editing.field.value.trim() !== editing.before.trim()) event.preventDefault(); });
