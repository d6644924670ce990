// Names, numbers and times as people read them.

export const STATES = {
  unallocated: ["Unallocated", "Paid for and held by nobody."],
  truly_idle: ["Truly idle", "Held by someone, with nothing running and nothing in memory."],
  idle_held: ["Idle but held", "A model or notebook sits in memory and computes nothing."],
  low_efficiency: ["Low efficiency", "It works, but most of it is unused."],
  hung_collective: ["Hung collective", "Shows full load at idle power: ranks wait for one another."],
  keep_alive: ["Keep-alive", "Constant light load that only looks like work."],
  active: ["Active", "Doing real work."],
  unknown: ["Unknown", "No fresh telemetry; never counted as waste."],
};
export const NOBODY = "(nobody)";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

export const count = (n) => (n == null ? "–" : whole.format(n));
export const dollars = (n) => (n == null ? "no price" : `$${Math.abs(n) >= 1000 ? whole.format(n) : cents.format(n)}`);
export const watts = (n) => (n == null ? "–" : `${whole.format(n)} W`);
export const percent = (n) => (n == null ? "–" : n > 0 && n < 0.01 ? "< 1 %" : `${Math.round(n * 100)} %`);
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

// Names come from telemetry: characters that could disguise other text are shown as what they are, unreadable.
export const clean = (text) => String(text ?? "").replace(UNSAFE, "\ufffd");
export const owner = (name) => clean(name) || NOBODY;
export const sentence = (code) => {
  const text = clean(code).replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
};
// Machines are known by the first part of their name; an address has no such part.
export const node = (name) => (/^[\d.]+$/.test(name) ? name : clean(name).split(".")[0]);
export const stateName = (state) => STATES[state]?.[0] ?? sentence(state);

export function gibibytes(used, total) {
  if (used == null) return "–";
  const gib = (n) => whole.format(n / 2 ** 30);
  return total == null ? `${gib(used)} GiB` : `${gib(used)} of ${gib(total)} GiB`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const between = (from, to) => (from && to ? duration((Date.parse(to) - Date.parse(from)) / 1000) : "–");

export function instant(iso) {
  if (!iso) return "No figures yet";
  return `As of ${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`;
}
