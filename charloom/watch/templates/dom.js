// Shared by the live page and the board: elements, the enlarged picture, and the line that says what has happened.
const live = document.getElementById("live"), name = live.dataset.name, token = live.dataset.token;
live.remove();
const main = document.getElementById("main"), stateOf = document.getElementById("state"), said = document.getElementById("said");

// Everything from the server becomes text or an attribute, never markup.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") for (const [rule, to] of Object.entries(value)) element.style.setProperty(rule, to);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter(child => child != null && child !== false));
  return element;
}

// The server's answer to a change: {ok, text, ...}, whatever goes wrong.
async function post(path, body, type = "application/json") {
  try {
    const reply = await fetch(path, { method: "POST", headers: { "content-type": type, "x-charloom-token": token }, body });
    const text = await reply.text();
    try { return JSON.parse(text); } catch { return { ok: false, text }; }
  } catch { return { ok: false, text: "the server does not answer; is charloom watch still running?" }; }
}

const box = document.querySelector("dialog"), seen = box.querySelector("img");
function zoom(file, lines) {
  seen.src = file;
  seen.alt = lines[0];
  box.querySelector(".words").textContent = lines.filter(Boolean).join("\n");
  if (!box.open) box.showModal();
}
box.querySelector(".close").addEventListener("click", () => box.close());
box.addEventListener("click", event => { if (event.target === box) box.close(); });
