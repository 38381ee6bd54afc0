// Numbers and times as text. formatting.py formats them alike on the server.

const SIGNIFICANT = 4;
const PREFIXES = ["", "k", "M", "G", "T", "P"];

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    const [digits, exponent] = value.toExponential(SIGNIFICANT - 2).split("e");
    return `${Number(digits)}e${Number(exponent)}`;
  }
  const digits = Math.max(0, SIGNIFICANT - 1 - Math.floor(Math.log10(size || 1)));
  return value.toLocaleString("en-US", { maximumFractionDigits: digits });
}

// The unit that a metric's name ends with, if its values are large numbers of it; null otherwise.
export function unitOf(name) {
  const found = /_(bytes|hertz)(_total)?(_per_second)?$/.exec(name);
  return found ? `${found[1] === "bytes" ? "B" : "Hz"}${found[3] ? "/s" : ""}` : null;
}

// A metric's value: bytes and hertz as "1.5 GB/s", anything else as a number.
export function quantity(value, name) {
  const unit = unitOf(name);
  if (!unit || !Number.isFinite(value)) return number(value);
  let power = 0;
  while (power < PREFIXES.length - 1 && Math.abs(value) >= 1000) {
    value /= 1000;
    power++;
  }
  return `${number(value)} ${PREFIXES[power]}${unit}`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  return `${Math.floor(s / 86400)}d ${String(Math.floor((s % 86400) / 3600)).padStart(2, "0")}h`;
}

export function ago(then, now = Date.now()) {
  const s = Math.max(0, Math.floor((now - then) / 1000));
  if (s < 10) return "just now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  const days = Math.floor(s / 86400);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

// Updates every <time> on the page: `data-ago` shows how long ago, `data-since` counts up.
export function tick(root = document) {
  const now = Date.now();
  for (const time of root.querySelectorAll("time[data-ago], time[data-since]")) {
    const then = Date.parse(time.dateTime);
    const text = "ago" in time.dataset ? ago(then, now) : duration((now - then) / 1000);
    if (time.textContent !== text) time.textContent = text;
    if (!time.title) time.title = new Date(then).toLocaleString();
  }
}
