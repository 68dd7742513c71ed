// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });

export function count(value) {
  return Number.isFinite(value) ? whole.format(value) : "-";
}

export function number(value) {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e12)) return value.toExponential(4);
  return Number.isInteger(value) ? whole.format(value) : significant.format(value);
}

// 2026-11-21 19:05:27.120, without what is zero at the end, in UTC.
export function time(ms) {
  if (!Number.isFinite(ms)) return "-";
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return String(ms);
  return date.toISOString().replace("T", " ").replace("Z", "").replace(/\.000$/, "");
}

export function clock(ms) {
  return Number.isFinite(ms) && !Number.isNaN(new Date(ms).getTime()) ? new Date(ms).toISOString().slice(11, 19) : "-";
}

export function duration(ms) {
  if (!Number.isFinite(ms)) return "-";
  if (Math.abs(ms) < 1_000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1_000;
  if (Math.abs(seconds) < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = seconds / 60;
  if (Math.abs(minutes) < 90) return `${minutes.toFixed(0)} min`;
  const hours = minutes / 60;
  return Math.abs(hours) < 48 ? `${hours.toFixed(1)} h` : `${(hours / 24).toFixed(1)} days`;
}

export function cell(value, kind) {
  if (value === null) return "NULL";
  if (kind === "timestamp") return time(value);
  if (kind === "number" && typeof value === "number") return number(value);
  return String(value);
}

// A decimal or a large number comes as text.
export function asNumber(value) {
  if (value === null) return null;
  const number = Number(value);
  return Number.isFinite(number) ? number : null;
}
