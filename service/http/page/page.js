// Asks the API every two seconds while the page is visible, and says loudly when the figures cannot be trusted.

import * as render from "./render.js";
import { STATES, duration, instant, owner, stateName } from "./words.js";

const EVERY_MS = 2000;
const ANSWER_MS = 8000;
const ROWS = 25;
const ALERTS = 20;
const WASTED = "wasted";

const filters = { state: WASTED, owner: null, q: "", limit: ROWS };
let answeredAt = null;
let failure = "";
let timer = 0;
let asking = null;

async function get(path, parameters, signal) {
  const answer = await fetch(`${path}?${new URLSearchParams(parameters)}`, { signal, cache: "no-store" });
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  return answer.json();
}

function gpuQuery() {
  const query = { limit: filters.limit };
  if (filters.state) query.state = filters.state;
  if (filters.owner !== null) query.owner = filters.owner;
  if (filters.q) query.q = filters.q;
  return query;
}

async function refresh() {
  clearTimeout(timer);
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  const limit = setTimeout(() => mine.abort(), ANSWER_MS);
  try {
    const [summary, alerts, gpus] = await Promise.all([
      get("/api/v1/summary", { owners: 9 }, mine.signal),
      get("/api/v1/alerts", { status: "firing", limit: ALERTS }, mine.signal),
      get("/api/v1/gpus", gpuQuery(), mine.signal),
    ]);
    if (asking !== mine) return;
    failure = "";
    answeredAt = performance.now();
    show(summary, alerts, gpus);
  } catch (problem) {
    if (asking !== mine) return;
    failure = problem.name === "AbortError" ? "no answer in time" : problem.message;
    showLost();
  } finally {
    clearTimeout(limit);
    if (asking === mine && !document.hidden) timer = setTimeout(refresh, EVERY_MS);
  }
}

function show(summary, alerts, gpus) {
  const { level, text } = summary.freshness;
  const chip = level === "ok" ? "Live" : level === "alarm" ? "Old" : summary.service.source_ended ? "Ended" : "Starting";
  render.link(level, chip, text);
  render.put(render.find("as-of"), instant(summary.as_of));
  render.tiles(summary);
  render.states(summary.states, summary.fleet.gpus, (state) => choose({ state }));
  render.owners(summary.owners, summary.owners_rest, (name) => choose({ owner: name }));
  render.alerts(alerts);
  render.gpus(gpus, filters.q !== "" || filters.owner !== null || filters.state !== WASTED);
  render.service(summary.service);
  offerOwners(summary.owners.map((row) => row.owner));
}

function showLost() {
  const age = answeredAt === null ? "nothing to show yet" : `these figures are ${duration((performance.now() - answeredAt) / 1000)} old`;
  render.link("alarm", "Lost", `Disconnected (${failure}): ${age}. Trying again every 2 seconds.`);
}

function option(value, text) {
  const node = document.createElement("option");
  node.value = value;
  node.textContent = text;
  return node;
}

// Values of the owner list are JSON, so that "all" (null) and "nobody" (an empty name) stay apart.
function offerOwners(names) {
  const select = render.find("owner-filter");
  const wanted = [null, ...new Set(filters.owner === null ? names : [...names, filters.owner])];
  const values = wanted.map((name) => JSON.stringify(name));
  const same = select.options.length === values.length && values.every((value, i) => select.options[i].value === value);
  if (!same && document.activeElement !== select) {
    select.replaceChildren(...wanted.map((name, i) => option(values[i], name === null ? "Everyone" : owner(name))));
  }
  select.value = JSON.stringify(filters.owner);
}

function choose(change) {
  Object.assign(filters, { limit: ROWS }, change);
  render.find("state-filter").value = filters.state;
  offerOwners([...render.find("owner-filter").options].map((node) => JSON.parse(node.value)).filter((name) => name !== null));
  if ("state" in change || "owner" in change) render.find("worst").scrollIntoView({ block: "start" });
  refresh();
}

function start() {
  const select = render.find("state-filter");
  select.append(option(WASTED, "All wasted"), option("", "All states"), ...Object.keys(STATES).map((state) => option(state, stateName(state))));
  select.addEventListener("change", () => choose({ state: select.value }));
  render.find("owner-filter").addEventListener("change", (event) => choose({ owner: JSON.parse(event.target.value) }));
  render.find("find").addEventListener("input", (event) => choose({ q: event.target.value.trim() }));
  render.find("more").addEventListener("click", () => { filters.limit = Math.min(500, filters.limit * 2); refresh(); });
  render.find("clear").addEventListener("click", () => {
    render.find("find").value = "";
    Object.assign(filters, { state: WASTED, owner: null, q: "", limit: ROWS });
    choose({});
  });
  const blank = Object.keys(STATES).map((state, i) => ({ state, wasted: i < 6, gpus: null, waste_usd_per_hour: 0, waste_usd_total: 0 }));
  render.states(blank, 0, (state) => choose({ state }));
  offerOwners([]);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  setInterval(() => failure && showLost(), 1000);
  refresh();
}

start();
