// From the API's answers to the page. Every text goes in as text, never as markup; nodes are reused, so that focus,
// selection and scroll position survive a refresh.

import * as words from "./words.js";

export const find = (id) => document.getElementById(id);

export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Make `parent` hold one child per item: `build` makes a blank one, `fill` writes an item into it.
function patch(parent, items, build, fill) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) parent.append(build());
  items.forEach((item, i) => fill(parent.children[i], item, i));
}

const part = (node, name) => node.querySelector(`[data-part="${name}"]`);
const width = (node, share) => { node.style.width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`; };
const tag = () => make("span", { class: "tag" }, make("i", { class: "swatch", "data-part": "swatch" }), make("span", { "data-part": "state" }));

function fillTag(node, state) {
  part(node, "swatch").dataset.state = state;
  put(part(node, "state"), state ? words.stateName(state) : "–");
}

export function tiles({ as_of: asOf, fleet, states, alerts }) {
  if (!asOf) return;
  const active = states.find((row) => row.state === "active").gpus;
  const unknown = states.find((row) => row.state === "unknown").gpus;
  const rate = fleet.waste_usd_per_hour;
  put(find("waste-rate"), words.dollars(rate));
  find("waste-rate").parentElement.toggleAttribute("data-none", rate === 0);
  put(find("waste-rate-note"), fleet.waste_share == null
    ? "No GPU with a known price yet."
    : `${words.percent(fleet.waste_share)} of the ${words.dollars(fleet.usd_per_hour)} that the fleet costs per hour; about ${words.dollars(rate * 24)} a day.`);
  put(find("waste-total"), words.dollars(fleet.waste_usd_total));
  put(find("waste-total-note"), fleet.unknown_price_gpus
    ? `Since tracking began; ${words.plural(fleet.unknown_price_gpus, "GPU has", "GPUs have")} no price.`
    : "Since tracking began.");
  put(find("wasted-gpus"), words.count(fleet.wasted_gpus));
  put(find("of-gpus"), `of ${words.count(fleet.gpus)}`);
  put(find("wasted-gpus-note"), `${words.count(active)} do real work, ${words.count(unknown)} unknown.`);
  put(find("firing"), words.count(alerts.firing));
  put(find("firing-note"), `${words.count(alerts.pending)} pending, ${words.count(alerts.resolved)} resolved.`);
}

export function states(rows, gpus, pick) {
  const shares = rows.filter((row) => row.gpus > 0);
  find("share").setAttribute("aria-label", shares.length
    ? `Share of GPUs per state: ${shares.map((row) => `${words.stateName(row.state)} ${words.percent(row.gpus / gpus)}`).join(", ")}`
    : "Share of GPUs per state: no GPU seen yet");
  patch(find("share"), rows, () => make("i"), (node, row) => {
    node.dataset.state = row.state;
    node.hidden = row.gpus === 0;
    node.title = `${words.stateName(row.state)}: ${words.count(row.gpus)}`;
    width(node, row.gpus / gpus);
  });
  const build = () => {
    const button = make("button", { type: "button", class: "pick" }, make("i", { class: "swatch", "data-part": "swatch" }), make("span", { "data-part": "state" }));
    button.addEventListener("click", () => pick(button.value));
    const cell = (name, kind) => make("td", { "data-part": name, class: kind });
    return make("tr", {}, make("th", { scope: "row" }, button), cell("meaning", "wide"), cell("gpus", "n"), cell("share", "n"), cell("rate", "n"), cell("total", "n wide"));
  };
  patch(find("states"), rows, build, (node, row, i) => {
    const first = !row.wasted && rows[i - 1]?.wasted;
    node.className = row.wasted ? "" : first ? "rest first-rest" : "rest";
    node.querySelector("button").value = row.state;
    fillTag(node, row.state);
    put(part(node, "meaning"), words.STATES[row.state]?.[1] ?? "");
    put(part(node, "gpus"), words.count(row.gpus));
    put(part(node, "share"), gpus ? words.percent((row.gpus ?? 0) / gpus) : "–");
    put(part(node, "rate"), row.wasted ? words.dollars(row.waste_usd_per_hour) : "–");
    put(part(node, "total"), row.wasted ? words.dollars(row.waste_usd_total) : "–");
  });
}

export function owners(rows, rest, pick) {
  const all = rest ? [...rows, rest] : rows;
  put(find("owners-empty"), all.length ? "" : "No GPU seen yet, so nobody pays.");
  const most = Math.max(...all.map((row) => row.waste_usd_per_hour), 0);
  const build = () => {
    const button = make("button", { type: "button", class: "pick" }, make("span", { "data-part": "owner" }));
    button.addEventListener("click", () => pick(button.value));
    const rate = make("td", { class: "n" }, make("b", { "data-part": "rate" }), make("span", { class: "meter" }, make("i", { "data-part": "bar" })));
    return make("tr", {}, make("th", { scope: "row" }, button), make("td", {}, tag()), make("td", { class: "n", "data-part": "gpus" }), rate);
  };
  patch(find("owners"), all, build, (node, row) => {
    const button = node.querySelector("button");
    button.value = row.owner;
    button.disabled = row === rest;
    put(part(node, "owner"), row === rest ? "(all others)" : words.owner(row.owner));
    fillTag(node, row.main_state);
    put(part(node, "gpus"), `${words.count(row.wasted_gpus)} of ${words.count(row.gpus)}`);
    put(part(node, "rate"), words.dollars(row.waste_usd_per_hour));
    width(part(node, "bar"), most && row.waste_usd_per_hour / most);
  });
}

const device = (labels) => (labels.gpu || labels.mig_id ? ["GPU", labels.gpu, labels.mig_id && `MIG ${labels.mig_id}`].filter(Boolean).map(words.clean).join(" ") : "");
const machine = (labels, key) => (labels.node ? words.node(labels.node) : words.clean(key));
const place = (labels, key) => `${machine(labels, key)} ${device(labels)}`.trim();

export function alerts({ alerts: items, total }) {
  put(find("alerts-empty"), !items.length ? "Nothing is firing." : total > items.length ? `${words.count(total - items.length)} more are firing; see /api/v1/alerts.` : "");
  const build = () => make("li", {},
    make("p", { class: "head" }, make("i", { class: "swatch", "data-part": "swatch" }), make("span", { "data-part": "kind" }), make("span", { class: "severity", "data-part": "severity" }), make("span", { class: "cost", "data-part": "cost" })),
    make("p", { class: "where", "data-part": "where" }), make("p", { class: "do", "data-part": "do" }));
  patch(find("alerts"), items, build, (node, item) => {
    const holder = [words.owner(item.owner), item.labels.pod && words.clean(item.labels.pod)].filter(Boolean).join(", ");
    part(node, "swatch").dataset.state = item.kind;
    part(node, "severity").dataset.severity = item.severity;
    put(part(node, "kind"), words.stateName(item.kind));
    put(part(node, "severity"), words.clean(item.severity));
    put(part(node, "cost"), item.usd_per_hour == null ? "no price" : `${words.dollars(item.usd_per_hour)} per hour`);
    put(part(node, "where"), `${place(item.labels, item.entity_key)} · ${holder} · open for ${words.between(item.opened, item.as_of)}${item.usd_so_far == null ? "" : `, ${words.dollars(item.usd_so_far)} so far`}`);
    put(part(node, "do"), words.clean(item.action));
  });
}

function gpuRow() {
  const where = make("td", { role: "cell" }, make("b", { class: "where" }, make("span", { "data-part": "machine" }), make("span", { "data-part": "device" })), make("small", { "data-part": "model" }));
  const held = make("td", { role: "cell" }, make("b", { "data-part": "owner" }), make("small", { "data-part": "pod" }));
  const one = (label, name) => make("td", { role: "cell", class: "n", "data-label": label, "data-part": name });
  const state = make("td", { role: "cell" }, tag(), make("small", { "data-part": "since" }));
  const activity = make("td", { role: "cell", "data-label": "Activity" }, make("span", { "data-part": "activity" }), make("span", { class: "meter work" }, make("i", { "data-part": "bar" })));
  return make("tr", { role: "row" }, where, state, held, activity, one("Power", "power"), one("Memory", "memory"), one("Waste per hour", "rate"), one("Wasted so far", "total"));
}

export function gpus({ gpus: rows, total, as_of: asOf, freshness, next_cursor: next }, filtered) {
  const plain = freshness.level === "alarm" ? "No GPU is known to be wasted; the figures are old." : "No GPU is wasted right now.";
  const idle = filtered ? "No GPU matches; clear the filters to see all." : plain;
  const none = asOf ? idle : "No GPU seen yet.";
  put(find("gpus-note"), total ? `${words.plural(total, "GPU", "GPUs")}, the worst ${words.count(rows.length)} shown.` : none);
  find("more").hidden = !next || rows.length >= 500;
  patch(find("gpus"), rows, gpuRow, (node, row) => {
    put(part(node, "machine"), machine(row, row.key));
    put(part(node, "device"), device(row));
    put(part(node, "model"), words.clean(row.model) + (row.mig_profile ? ` ${words.clean(row.mig_profile)}` : ""));
    node.firstElementChild.title = words.clean([row.node, row.key].filter(Boolean).join("\u2003"));
    fillTag(node, row.state);
    put(part(node, "since"), `for ${words.between(row.state_since, asOf)}`);
    put(part(node, "owner"), words.owner(row.owner));
    put(part(node, "pod"), row.pod ? `${words.clean(row.namespace)}/${words.clean(row.pod)}` : words.clean(row.job));
    part(node, "pod").title = part(node, "pod").textContent;
    put(part(node, "activity"), words.percent(row.activity_ratio));
    width(part(node, "bar"), row.activity_ratio);
    put(part(node, "power"), words.watts(row.power_watts));
    put(part(node, "memory"), words.gibibytes(row.fb_used_bytes, row.fb_total_bytes));
    put(part(node, "rate"), words.dollars(row.waste_usd_per_hour));
    put(part(node, "total"), words.dollars(row.waste_usd_total));
  });
}

export function service(facts) {
  const parts = [facts.ready ? "Service ready" : `Service not ready: ${facts.reasons.map(words.clean).join("; ")}`];
  if (facts.source) parts.push(`source ${facts.source}`);
  if (facts.lag_records != null) parts.push(`${words.plural(facts.lag_records, "record", "records")} behind`);
  if (facts.dead_letters) parts.push(`${words.plural(facts.dead_letters, "record", "records")} rejected`);
  if (facts.outbox_rows) parts.push(`${words.plural(facts.outbox_rows, "message", "messages")} waiting to be sent`);
  put(find("service"), `${parts.join(" · ")}.`);
}

export function link(level, chip, text) {
  find("chip").dataset.level = level;
  put(find("chip"), chip);
  find("content").dataset.old = level === "alarm" ? "yes" : "no";
  find("banner").dataset.level = level;
  put(find("banner"), level === "ok" ? "" : text);
}
