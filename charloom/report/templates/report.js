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
