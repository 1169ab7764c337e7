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
