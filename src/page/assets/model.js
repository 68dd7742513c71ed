// What the page knows: the news of the server put together.

const POINTS_MAX = 900;
const ITEMS_MAX = 1_000;
const LOG_MAX = 200;

export function empty() {
  return { job: "", version: "", startedMs: 0, behindMs: 0, queries: new Map(), log: [] };
}

// The newest half whole, and as many of all that were before it, evenly: as on the server.
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
    if (entry.number % this.every !== 0) return;
    this.old.push(entry);
    if (this.old.length > this.half) {
      this.every *= 2;
      this.old = this.old.filter(({ number }) => number % this.every === 0);
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
    Object.assign(query, rest);
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

// A text column with a few values tells series apart.
export function seriesColumn(query) {
  const { columns, rows } = query;
  const is = (place) => {
    const values = new Set(rows.map((row) => row[place]));
    return values.size > 1 && values.size <= 12 && rows.length > 2 * values.size;
  };
  return columns.findIndex(([, kind], place) => kind === "text" && is(place));
}
