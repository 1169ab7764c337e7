const SVG = "http://www.w3.org/2000/svg";

function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const fixed = (value, places) => value == null ? "–" : value.toFixed(places);
function bytes(value) { return value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${Math.round(value / 1e6)} MB`; }
function duration(seconds) {
  if (seconds == null) return "–";
  const all = Math.round(seconds), minutes = Math.floor(all / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return minutes ? `${minutes} min ${String(all % 60).padStart(2, "0")} s` : `${all} s`;
}
function track(share, label, big = false) {
  const percent = Math.max(0, Math.min(100, 100 * (share || 0)));
  return h("div", { class: big ? "track big" : "track", role: "progressbar", "aria-label": label,
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(percent) },
  h("span", { style: { width: `${percent}%` } }));
}
function numbers(pairs) {
  return h("dl", { class: "numbers" }, pairs.filter(([, value]) => value != null && value !== "–").map(([key, value]) =>
    h("div", {}, h("dt", {}, key), h("dd", {}, value))));
}
const COLOURS = ["--c0", "--c1", "--c2", "--good", "--c3"];

// About five round numbers between two ends.
function ticks(low, high) {
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(times => times * power).find(size => size >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// Curves: [{name, points, faint}], and a vertical line at `mark`.
function plot(curves, label, mark) {
  const points = curves.flatMap(curve => curve.points);
  if (!points.length) return h("p", { class: "note" }, "Nothing yet.");
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const width = narrow ? 330 : 560, height = 230, left = 44, bottom = 24, top = 8;
  const xs = points.map(p => p[0]).concat(mark ?? []), ys = points.map(p => p[1]).sort((a, b) => a - b);
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  // A single outlier must not flatten the rest of the curve.
  let [y0, y1] = [ys[Math.floor(0.005 * (ys.length - 1))], ys[Math.ceil(0.995 * (ys.length - 1))]];
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  const margin = (y1 - y0) * 0.06 || 0.05;
  y0 -= margin; y1 += margin;
  const X = x => left + (width - left - 8) * (x - x0) / (x1 - x0);
  const Y = y => top + (height - bottom - top) * (1 - (Math.max(y0, Math.min(y1, y)) - y0) / (y1 - y0));
  const svg = s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const grid = ticks(y0, y1);
  let digits = 2;
  while (digits < 6 && new Set(grid.map(y => y.toFixed(digits))).size < grid.length) digits++;
  for (const y of grid) {
    svg.append(s("line", { class: "grid", x1: left, x2: width - 8, y1: Y(y), y2: Y(y) }),
      s("text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, y.toFixed(digits)));
  }
  for (const x of ticks(x0, x1).filter(Number.isInteger)) {
    svg.append(s("text", { x: X(x), y: height - 6, "text-anchor": X(x) > width - 30 ? "end" : "middle" }, String(Math.round(x))));
  }
  if (mark != null) svg.append(s("line", { class: "mark", x1: X(mark), x2: X(mark), y1: top, y2: height - bottom }));
  curves.forEach((curve, index) => {
    const colour = `var(${curve.faint ? "--c3" : COLOURS[index % COLOURS.length]})`;
    const line = s("polyline", { points: curve.points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`).join(" ") });
    line.style.stroke = colour;
    if (curve.faint) line.classList.add("faint");
    svg.append(line);
    if (curve.dots) for (const [x, y] of curve.points) {
      const dot = s("circle", { cx: X(x), cy: Y(y), r: 4 }, s("title", {}, `${curve.name} at ${x}: ${y.toFixed(3)}`));
      dot.style.fill = colour;
      svg.append(dot);
    }
  });
  const key = h("p", { class: "key" }, curves.map((curve, index) => h("span", {},
    h("i", { style: { background: `var(${curve.faint ? "--c3" : COLOURS[index % COLOURS.length]})` } }), curve.name)));
  return h("div", {}, svg, key);
}

const KINDS = { running: "good", finished: "good", crashed: "bad", failed: "bad", stopped: "bad" };
function pill(training) { return h("span", { class: `pill ${KINDS[training.state] || ""}` }, training.state); }

function trainingOf(t) {
  return [h("h2", {}, `Training: step ${t.step ?? 0} of ${t.steps}`),
    track((t.step || 0) / t.steps, "training", true),
    numbers([["Loss", fixed(t.loss, 4)], ["Smoothed", fixed(t.smoothed, 4)],
      ["Per step", t.seconds_per_step == null ? null : `${t.seconds_per_step.toFixed(2)} s`],
      ["Left", t.state === "running" ? duration(t.eta) : null], ["Last checkpoint", t.saved ? String(t.saved) : null],
      ["Peak memory", t.memory ? bytes(t.memory) : null]]),
    t.problem ? h("p", { class: "miss" }, t.problem) : null];
}
function stagesOf(bars) {
  return [h("h2", {}, "Files"), h("div", { class: "stages" }, bars.flatMap(bar => [h("span", {}, bar.name),
    track(bar.done / bar.of, bar.name), h("span", { class: "n" }, `${bar.done}/${bar.of}`)]))];
}
function lossOf(curves) {
  const lines = [{ name: "loss", points: curves.loss, faint: true }, { name: "smoothed", points: curves.smoothed }];
  return [h("h2", {}, "Loss"), plot(lines.filter(line => line.points.length), "Training loss")];
}
function scoresOf({ scores, chosen }) {
  const lines = Object.entries(scores).map(([metric, points]) => ({ name: metric, points, dots: true }));
  return [h("h2", {}, "Scores by checkpoint"), plot(lines, "Scores by checkpoint", lines.length ? chosen : null)];
}
const label = step => step ? `step ${step}` : "without LoRA";
function figure(picture, step, title) {
  const words = `Prompt ${picture.prompt}, ${label(step)}`;
  const numbers = [["identity", picture.identity], ["prompt", picture.obedience]].filter(([, value]) => value != null)
    .map(([key, value]) => `${key} ${value.toFixed(2)}`).join(" · ");
  return h("figure", {}, h("button", { type: "button", onclick: () => { zoom(picture.file, [words, title, numbers, ...picture.misses]); go(0); } },
    h("img", { src: picture.file, alt: words })),
  h("figcaption", {}, label(step), numbers ? ` · ${numbers}` : "", picture.misses.length ? h("span", { class: "miss" }, ` ${picture.misses.join("; ")}`) : null));
}
// The enlarged preview's neighbours, by keys and buttons: first the other checkpoint's, then the next prompt's.
function beyond(move) {
  const all = [...document.querySelectorAll(".couple button")];
  const at = all.findIndex(button => button.querySelector("img").src === seen.src);
  return at < 0 ? null : all[at + move];
}
const goers = [...box.querySelectorAll(".go")];
function go(move) {
  if (move) beyond(move)?.click();
  goers.forEach(button => { button.disabled = !beyond(Number(button.dataset.go)); });
}
goers.forEach(button => button.addEventListener("click", () => go(Number(button.dataset.go))));
addEventListener("keydown", event => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!box.open || !move) return;
  event.preventDefault();
  go(move);
});
let beside = null;  // the step to compare with, once selected; before that, the one before the newest
function previewsOf({ previews, prompts: texts }) {
  if (!previews.length) return [h("h2", {}, "Previews"), h("p", { class: "note" }, "The first ones come with the first checkpoint.")];
  const [newest, ...earlier] = previews, before = earlier.find(one => one.step === beside) || earlier[0];
  const prompts = [...new Set([newest, before].filter(Boolean).flatMap(one => one.pictures.map(picture => picture.prompt)))].sort();
  const select = before && h("label", { class: "beside" }, "beside ", h("select", { id: "beside", onchange: event => {
    beside = Number(event.target.value);
    draw(now);
    document.getElementById("beside").focus();
  } }, earlier.map(one => h("option", { value: one.step, selected: one === before }, label(one.step)))));
  return [h("h2", {}, `Previews: ${label(newest.step)} `, select), h("div", { class: "pairs" }, prompts.map(prompt => h("section", {},
    h("h3", {}, h("b", {}, prompt), " ", texts[prompt]),
    h("div", { class: "couple" }, [before, newest].filter(Boolean).map(one => {
      const picture = one.pictures.find(found => found.prompt === prompt);
      return picture ? figure(picture, one.step, texts[prompt]) : h("figure", {}, h("figcaption", {}, `${label(one.step)}: not drawn yet`));
    })))))];
}
function shippedOf({ chosen, configured, how }) {
  if (configured !== "auto") return `Step ${configured} ships, because the character file says so.`;
  if (chosen == null) return "No checkpoint is chosen yet; that happens after training (checkpoint: auto).";
  return `Step ${chosen} ships (checkpoint: auto, ${how}).`;
}
function choicesOf(state) {
  const metrics = [...new Set(state.checkpoints.flatMap(one => Object.keys(one.scores)))];
  const rows = state.checkpoints.map(one => h("tr", {}, h("td", {}, h("b", {}, `step ${one.step}`)),
    h("td", {}, one.step === state.chosen ? [h("span", { class: "pill good" }, state.how), " "] : null, one.verdict ? h("span", { class: "pill" }, one.verdict) : null),
    metrics.map(metric => h("td", { class: "number", "data-k": metric }, fixed(one.scores[metric], 3))),
    h("td", {}, one.step === state.configured ? h("b", {}, "ships by your choice")
      : h("button", { type: "button", class: "ship", disabled: !one.there, onclick: event => choose(one.step, event.target) }, one.there ? "Choose this one" : "not trained yet"))));
  return [h("h2", {}, "Checkpoints"),
    h("p", { class: "note" }, shippedOf(state),
    state.configured === "auto" ? null : [" ", h("button", { type: "button", class: "ship", onclick: event => choose("auto", event.target) }, "Let the scores choose")]),
    state.why.length && state.configured !== "auto" && state.chosen != null
      ? h("p", {}, `The scores prefer step ${state.chosen}:`) : null,
    state.why.length ? h("ul", { class: "plainlist" }, state.why.map(line => h("li", {}, line))) : null,
    h("div", { class: "scroll" }, h("table", { class: "plain choices" }, h("tr", {}, h("th", {}, "Checkpoint"), h("th", {}, "Verdict"),
      metrics.map(metric => h("th", { class: "number" }, metric)), h("th", {}, "")), rows))];
}
function machineOf({ gpus, memory }) {
  const bars = gpus.map(gpu => [gpu.name, gpu.used, gpu.total, gpu.busy == null ? "" : `, ${gpu.busy} % busy`]);
  bars.push(["Main memory", memory.used, memory.total, ""]);
  return [h("h2", {}, gpus.length ? "GPU memory" : "Memory"), h("div", { class: "stages" }, bars.flatMap(([label, used, total, more]) =>
    [h("span", {}, label), track(used / total, label), h("span", { class: "n" }, `${bytes(used)} of ${bytes(total)}${more}`)]))];
}
function logOf(log) {
  return [h("h2", {}, "Log"), log.name ? h("p", { class: "note" }, `logs/${log.name}`) : h("p", { class: "note" }, "Nothing yet."),
    log.lines.length ? h("pre", { class: "log", tabindex: 0 }, log.lines.join("\n")) : null];
}
function personOf(card) {
  return [h("h2", {}, h("a", { href: `/c/${encodeURIComponent(card.name)}` }, card.title), card.training ? pill(card.training) : null),
    card.problem ? h("p", { class: "miss" }, card.problem) : null,
    card.training ? track(card.training.step / card.training.steps, `training of ${card.title}`) : null,
    card.training ? numbers([["Step", `${card.training.step ?? 0} of ${card.training.steps}`], ["Loss", fixed(card.training.smoothed ?? card.training.loss, 4)],
      ["Left", card.training.state === "running" ? duration(card.training.eta) : null], ["File", card.final ? "made" : null]]) : null,
    card.pictures?.length ? h("div", { class: "thumbs" }, card.pictures.map(picture => h("img", { src: picture.file, alt: `${card.title}, ${picture.prompt}` }))) : null];
}

// A part is rebuilt only if its values have changed, so that nothing flickers and the keyboard focus stays.
const parts = new Map();
function part(id, values, build, full = false) {
  const text = JSON.stringify(values), known = parts.get(id);
  used.add(id);
  if (known?.text === text) return;
  const element = known?.element || h("section", { class: full ? "card full" : "card", id: `part-${id}` });
  const log = id === "log" && element.querySelector("pre"), low = !log || log.scrollTop + log.clientHeight > log.scrollHeight - 30;
  element.replaceChildren(...build(values).flat().filter(Boolean));
  if (!known) main.append(element);
  const pre = id === "log" && low && element.querySelector("pre");
  if (pre) pre.scrollTop = pre.scrollHeight;
  parts.set(id, { text, element });
}
const pages = document.getElementById("pages");
// Links to the pages that the run has made.
function link(made) {
  if (pages.dataset.made === JSON.stringify(made)) return;
  pages.dataset.made = JSON.stringify(made);
  pages.replaceChildren(...made.flatMap(([words, to]) => [" · ", h("a", { href: to }, words)]));
}
let used = new Set(), now = null;
function draw(state) {
  now = state;
  used = new Set();
  document.getElementById("title").textContent = state.kind === "all" ? "All characters" : state.title;
  if (pages) link(state.pages || []);
  if (state.problem) part("problem", state.problem, line => [h("h2", {}, "The configuration cannot be read"), h("p", { class: "miss" }, line)], true);
  if (state.kind === "all") {
    stateOf.textContent = "live"; stateOf.className = "pill good";
    state.characters.forEach(card => {
      part(`c-${card.name}`, card, personOf);
      parts.get(`c-${card.name}`).element.classList.add("person");
    });
    part("machine", state.machine, machineOf);
  } else if (state.training) {
    stateOf.textContent = state.training.state; stateOf.className = `pill ${KINDS[state.training.state] || ""}`;
    part("training", state.training, trainingOf, true);
    part("loss", state.curves, lossOf);
    part("scores", { scores: state.scores, chosen: state.chosen }, scoresOf);
    const { previews, prompts, checkpoints, chosen, configured, how, why } = state;
    part("previews", { previews, prompts, beside }, previewsOf, true);
    part("choices", { checkpoints, chosen, configured, how, why }, choicesOf, true);
    part("stages", state.bars, stagesOf);
    part("machine", state.machine, machineOf);
    part("log", state.log, logOf, true);
  } else { stateOf.textContent = "not known"; stateOf.className = "pill bad"; }
  for (const [id, { element }] of parts) if (!used.has(id)) { element.remove(); parts.delete(id); }
}

async function choose(step, button) {
  button.disabled = true;
  const answer = await post("/choose", JSON.stringify({ name, step, seen: now.seen }));
  said.hidden = false;
  said.className = answer.ok ? "said good" : "said";
  said.textContent = answer.text;
  button.disabled = false;
}

const stream = new EventSource(`/events?name=${encodeURIComponent(name)}`);
stream.addEventListener("message", event => draw(JSON.parse(event.data)));
stream.addEventListener("error", () => { stateOf.textContent = "no connection"; stateOf.className = "pill bad"; });
