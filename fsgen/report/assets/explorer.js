"use strict";
// The token explorer. Data: fsgen/report/explorer.py. Text of models is only ever set as text, never as markup.
const SCALE = 10000, CALLED = 1, OUTSIDE = 2, FROM_TEMPLATE = 4, MISMATCH = 8;
const ROLES = { small: "small model", tuned: "tuned small model", large: "large model" };
const at = (id) => document.getElementById(id);
const form = at("choose");

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

const shown = (piece) => (piece === undefined ? "?" : piece.replaceAll("\n", "\u21b5\n") || "\u2205");
const oneLine = (piece) => shown(piece).replaceAll("\n", "").replaceAll(" ", "\u00b7");
const percent = (share) => (100 * share / SCALE).toFixed(share < SCALE / 100 ? 2 : 1) + " %";

let data, view;

function fill(name, values, wanted) {
  const select = form.elements[name];
  const kept = wanted ?? select.value;
  select.replaceChildren(...values.map((value) => make("option", value)));
  select.value = values.includes(kept) ? kept : values[0];
  return select.value;
}

// Everything that the chosen text is made of: its path through the prompt's tree, and a policy's decisions on it.
function choose(wanted = {}) {
  const dataset = fill("dataset", Object.keys(data.datasets), wanted.dataset);
  const { prompts, pairs } = data.datasets[dataset];
  const pair = fill("pair", Object.keys(pairs), wanted.pair);
  const prompt = fill("prompt", prompts.map((p) => p.id), wanted.prompt);
  const entry = pairs[pair], tree = entry.texts[prompt];
  const policy = fill("policy", Object.keys(tree.policies), wanted.policy);
  const own = tree.policies[policy], about = entry.policies[policy];
  const path = [];
  for (let node = own.leaf; node > 0; node = tree.parent[node]) path.unshift(node);
  view = {
    asked: prompts.find((p) => p.id === prompt), models: entry.models, tree, own, about, policy,
    defaultRole: entry.default_roles[about.method], pieces: data.pieces[entry.models.large],
    steps: path.map((node, i) => ({ before: tree.parent[node], token: tree.token[node], bits: parseInt(own.marks[i], 16) })),
    chosen: 0,
  };
  draw(Number(wanted.token) || 0);
}

function draw(token) {
  const counted = view.steps.filter((s) => !(s.bits & (OUTSIDE | FROM_TEMPLATE)));
  const called = counted.filter((s) => s.bits & CALLED);
  const changed = called.filter((s) => s.bits & MISMATCH);
  at("question").textContent = view.asked.asked.join("\n\n");
  at("gold").textContent = view.asked.gold;
  at("policy-summary").textContent =
    `${view.policy}: ${counted.length} tokens of answer, ${called.length} calls, ${changed.length} of them changed the token` +
    (view.own.verdict ? `; the answer is ${view.own.verdict}.` : ".");
  at("text").replaceChildren(...view.steps.map(drawToken));
  select(Math.min(token, view.steps.length - 1), false);
}

function drawToken(step, i) {
  const record = view.tree.says[view.defaultRole]?.[step.before];
  const button = make("button", shown(view.pieces[step.token]), "token");
  const given = step.bits & FROM_TEMPLATE;
  if (given) button.classList.add("given");
  if (step.bits & OUTSIDE) button.classList.add("outside");
  if (!given && step.bits & CALLED) button.classList.add("called", ...(step.bits & MISMATCH ? ["changed"] : []));
  if (!given && step.bits & MISMATCH && !(step.bits & CALLED)) button.classList.add("missed");
  const shade = record && !given ? Math.min(1, record[0] / SCALE / 3) : 0;
  button.style.backgroundColor = `rgba(var(--shade), ${(0.75 * shade).toFixed(3)})`;
  button.type = "button";
  button.tabIndex = -1;
  button.setAttribute("role", "option");
  button.addEventListener("click", () => select(i, true));
  button.addEventListener("mouseenter", () => explain(i));
  return button;
}

function select(i, focus) {
  const tokens = at("text").children;
  if (!tokens.length) return;
  const before = tokens[view.chosen];
  if (before) { before.tabIndex = -1; before.setAttribute("aria-selected", "false"); }
  view.chosen = i;
  tokens[i].tabIndex = 0;
  tokens[i].setAttribute("aria-selected", "true");
  if (focus) {
    tokens[i].focus();
    const fields = Object.fromEntries(["dataset", "pair", "prompt", "policy"].map((n) => [n, form.elements[n].value]));
    history.replaceState(null, "", "#explorer?" + new URLSearchParams({ ...fields, token: i }));
  }
  explain(i);
}

function explain(i) {
  const step = view.steps[i], { tree, about, pieces } = view;
  const parts = [make("h3", `Token ${i}: ${oneLine(pieces[step.token])}`)];
  if (step.bits & FROM_TEMPLATE) parts.push(make("p", "Inserted by the chat template: part of the user's next question."));
  else parts.push(decision(i, step));
  for (const role of Object.keys(view.models)) {
    const record = tree.says[role]?.[step.before];
    if (!record) continue;
    parts.push(make("h4", `${ROLES[role]} (${view.models[role]}), entropy ${(record[0] / SCALE).toFixed(3)} nats`, role));
    parts.push(bars(record, step.token, role));
  }
  at("detail").replaceChildren(...parts);
}

function decision(i, step) {
  const { tree, about, pieces, own, defaultRole } = view;
  const list = make("dl");
  const say = (term, text) => list.append(make("dt", term), make("dd", text));
  say("written", oneLine(pieces[step.token]));
  say("without the large model", oneLine(pieces[tree.says[defaultRole]?.[step.before]?.[1]]) + ` (${ROLES[defaultRole]})`);
  say(`fused choice (${about.method})`, oneLine(pieces[tree.fused[about.method]?.[step.before]]));
  say("large model", step.bits & CALLED ? (step.bits & MISMATCH ? "called, changed the token" : "called, agreed")
    : step.bits & MISMATCH ? "not called, would have changed it" : "not called");
  const score = own.scores?.[i];
  if (score !== null && score !== undefined) {
    const threshold = about.threshold === null ? "" : `, threshold ${about.threshold.toFixed(4)}`;
    say(`score (${about.router})`, (score / SCALE).toFixed(4) + threshold);
  } else say("router", about.router);
  return list;
}

function bars(record, written, role) {
  const list = make("ol", undefined, `bars ${role}`);
  for (let k = 1; k < record.length; k += 2) {
    const row = make("li");
    const bar = make("span", undefined, "bar");
    bar.style.width = `${(100 * record[k + 1]) / SCALE}%`;
    const name = oneLine(view.pieces[record[k]]);
    const piece = make("span", name, record[k] === written ? "piece written" : "piece");
    piece.title = `${name} (id ${record[k]})`;
    row.append(piece, bar, make("span", percent(record[k + 1]), "chance"));
    list.append(row);
  }
  return list;
}

at("text").addEventListener("keydown", (event) => {
  const last = view.steps.length - 1;
  const to = { ArrowRight: view.chosen + 1, ArrowLeft: view.chosen - 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  select(Math.max(0, Math.min(last, to)), true);
});
at("text").addEventListener("mouseleave", () => explain(view.chosen));
form.addEventListener("change", () => choose());

async function start() {
  data = JSON.parse(await unpack(at("explored").textContent.trim()));
  const asked = location.hash.split("?")[1];
  choose(Object.fromEntries(new URLSearchParams(asked)));
  if (asked) at("explorer").scrollIntoView();
  for (const image of document.querySelectorAll("img[data-packed]")) {
    image.src = URL.createObjectURL(new Blob([await unpack(image.dataset.packed)], { type: "image/svg+xml" }));
    image.removeAttribute("data-packed");
  }
  document.documentElement.dataset.ready = "yes";
}
start();
