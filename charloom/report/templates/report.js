const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// A picture enlarged; its neighbours by keys, buttons and swipes.
const box = $("dialog"), seen = $("img", box), words = $(".words", box), file = $(".file", box);
const cells = $$("button[data-r]");
const at = (r, c) => cells.find(cell => cell.dataset.r === r && cell.dataset.c === String(c));
let now = null;
function neighbour([rows, columns]) {
  const [kind, r] = now.dataset.r.split(":");
  return at(`${kind}:${+r + rows}`, +now.dataset.c + columns);
}
function show(cell) {
  if (!cell) return;
  now = cell;
  seen.src = $("img", cell).src;
  seen.alt = $("img", cell).alt;
  words.textContent = cell.dataset.words;
  file.hidden = !cell.dataset.file;
  if (cell.dataset.file) file.href = cell.dataset.file;
  $$(".go", box).forEach(button => { button.disabled = !neighbour(button.dataset.go.split(",").map(Number)); });
  if (!box.open) box.showModal();
}
cells.forEach(cell => cell.addEventListener("click", () => show(cell)));
$$(".go", box).forEach(button => button.addEventListener("click",
  () => show(neighbour(button.dataset.go.split(",").map(Number)))));
$(".close", box).addEventListener("click", () => box.close());
box.addEventListener("click", event => { if (event.target === box) box.close(); });
box.addEventListener("close", () => now && now.focus());
addEventListener("keydown", event => {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!box.open || !move) return;
  event.preventDefault();
  show(neighbour(move));
});
let start = null;
seen.addEventListener("pointerdown", event => { start = event.isPrimary ? event : null; });
seen.addEventListener("pointerup", event => {
  if (!start) return;
  const [x, y] = [event.clientX - start.clientX, event.clientY - start.clientY];
  start = null;
  if (Math.abs(x) > 40 && Math.abs(x) > 2 * Math.abs(y)) show(neighbour([0, x < 0 ? 1 : -1]));
});
seen.draggable = false;

// The grid opens at the chosen checkpoint: sideways only, the page itself stays where it is.
const grid = $(".compare");
function openAtChosen() {
  const phone = matchMedia("(max-width: 40rem)").matches;
  (phone ? $$("tr", grid) : [grid]).forEach(scroller => {
    const cell = $("td.chosen", scroller);
    if (!cell) return;
    const [outer, inner] = [scroller.getBoundingClientRect(), cell.getBoundingClientRect()];
    scroller.scrollLeft += inner.left - outer.left - (outer.width - inner.width) / 2;
  });
}
if (grid) { openAtChosen(); addEventListener("load", openAtChosen); }

// Compare two checkpoints.
const slider = $(".slider");
if (slider) {
  const [left, right] = $$(".of-step", slider), prompt = $(".of-prompt", slider), range = $("input", slider);
  const [under, over] = [$(".under", slider), $(".over", slider)], pair = $(".pair", slider);
  function put(image, select, tag) {
    const cell = at(`samples:${prompt.value}`, select.value), name = select.selectedOptions[0].textContent;
    image.hidden = !cell;
    if (cell) { image.src = $("img", cell).src; image.alt = $("img", cell).alt; }
    tag.textContent = cell ? name : `${name}: no picture`;
  }
  function draw() { put(under, left, $(".tag.left", slider)); put(over, right, $(".tag.right", slider)); }
  [left, right, prompt].forEach(select => select.addEventListener("change", draw));
  range.addEventListener("input", () => pair.style.setProperty("--at", `${range.value}%`));
  draw();
}

$$("button.copy").forEach(button => button.addEventListener("click", async () => {
  const text = $("pre", button.parentElement);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  } catch { getSelection().selectAllChildren(text); }
}));
