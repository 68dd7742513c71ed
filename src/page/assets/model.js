// What the page knows: the news of the server put together.

const POINTS_MAX = 900;
const ITEMS_MAX = 1_000;
const LOG_MAX = 200;
const SERIES_MAX = 100;

export function empty() {
  return { job: "", version: "", startedMs: 0, behindMs: 0, queries: new Map(), log: [] };
}

// Which items are kept of a series, by a hash: every n-th would be those of one key alone, where several take turns.
function mix(number) {
  let mixed = Math.imul(number ^ (number >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

// The newest half whole, and up to as many of all that were before it, chosen by chance: as on the server.
class History {
  constructor(max) {
    this.half = max / 2;
    this.restart();
  }

  restart() {
    this.old = [];
    this.every = 1;
    this.fresh = [];
    this.pushed = 0;
  }

  append(items) {
    for (const item of items ?? []) {
      if (this.fresh.length >= this.half) this.remember(this.fresh.shift());
      this.fresh.push({ number: this.pushed++, item });
    }
  }

  remember(entry) {
    if (mix(entry.number) % this.every !== 0) return;
    this.old.push(entry);
    while (this.old.length > this.half) {
      this.every *= 2;
      this.old = this.old.filter(({ number }) => mix(number) % this.every === 0);
    }
  }

  get items() {
    return [...this.old, ...this.fresh].map(({ item }) => item);
  }
}

function mergeForecast(query, news) {
  if (!news) return;
  query.history.scored ??= new History(ITEMS_MAX);
  query.history.errors ??= new History(ITEMS_MAX);
  const { scored, errors, ...rest } = news;
  query.history.scored.append(scored);
  query.history.errors.append(errors);
  query.forecast = { ...rest, scored: query.history.scored.items, errors: query.history.errors.items };
}

function fresh(name) {
  const history = { points: new History(POINTS_MAX), rows: new History(ITEMS_MAX) };
  return { name, columns: [], points: [], rows: [], history };
}

export function merge(state, news) {
  if (news.reset) Object.assign(state, empty());
  state.job = news.job;
  state.version = news.version;
  state.startedMs = news.startedMs;
  state.behindMs = Date.now() - news.nowMs;
  for (const [name, all] of Object.entries(news.queries)) {
    const { points, rows, columns, forecast, ...rest } = all;
    const query = state.queries.get(name) ?? fresh(name);
    Object.assign(query, rest, { heardMs: Date.now() });
    if (JSON.stringify(columns) !== JSON.stringify(query.columns)) {
      query.columns = columns;
      query.history.rows.restart();
    }
    query.history.points.append(points);
    query.history.rows.append(rows);
    query.points = query.history.points.items;
    query.rows = query.history.rows.items;
    mergeForecast(query, forecast);
    state.queries.set(name, query);
  }
  state.log.push(...news.log);
  state.log.splice(0, state.log.length - LOG_MAX);
}

// The column that tells series apart: a text with some values, or, where times repeat, a whole number. -1 if there is none.
export function seriesColumn({ columns, rows }) {
  const at = columns.findIndex(([, kind]) => kind === "timestamp");
  const tells = (place, isValue) => {
    const values = new Set(rows.map((row) => row[place]));
    return values.size > 1 && values.size <= SERIES_MAX && rows.length > 2 * values.size && [...values].every(isValue);
  };
  const find = (wanted, isValue) => columns.findIndex(([, kind], place) => wanted.includes(kind) && tells(place, isValue));
  const text = find(["text", "boolean"], () => true);
  if (text >= 0 || at < 0 || !repeats(rows, at)) return text;
  return find(["number"], (value) => value === null || Number.isInteger(value));
}

// Do many rows share their times? Then a line through them says nothing.
export function repeats(rows, at) {
  return rows.length - new Set(rows.map((row) => row[at])).size > rows.length / 5;
}
