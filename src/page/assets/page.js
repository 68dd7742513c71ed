// Connects to the job and shows what it says. All texts go in as text, never as HTML.

import * as charts from "./charts.js";
import * as format from "./format.js";
import { empty, merge, seriesColumn } from "./model.js";

const NEWEST_ROWS = 12;
const LOG_SHOWN = 100;
const RETRY_MS = 2_000;
// What goes on for longer is said.
const LONG_MS = 10_000;

let source = null;
const state = empty();
const cards = new Map();
let connection = "connecting";
let drawn = false;

const one = (selector, within = document) => within.querySelector(selector);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Texts are only touched where they change, so that they can be selected.
function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function refill(target, signature, children) {
  const text = JSON.stringify(signature);
  if (target.dataset.signature === text) return;
  target.dataset.signature = text;
  target.replaceChildren(...children());
}

function connect() {
  source?.close();
  source = new EventSource("api/events");
  source.onmessage = (message) => {
    connection = "live";
    merge(state, JSON.parse(message.data));
    show();
  };
  source.onerror = () => {
    connection = "lost";
    show();
    // It tries again by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => drawn && connect(), RETRY_MS);
  };
}

// Nothing is drawn that nobody sees.
function show() {
  drawn = document.visibilityState === "visible";
  if (!drawn) return;
  const queries = [...state.queries.values()];
  const ended = queries.length > 0 && queries.every((query) => query.state !== "running");
  const failed = queries.some((query) => query.state === "failed");
  const [text, className] =
    connection !== "lost" ? [failed ? "failed" : ended ? "ended" : connection, failed ? "failed" : connection]
    : ended ? [failed ? "the job has failed" : "the job has ended", failed ? "failed" : ""]
    : ["connection lost: does the job still run?", "lost"];
  const badge = one("#connection");
  write(badge, text);
  badge.className = `badge ${className}`;
  document.title = state.job ? `${state.job} - Tidemill` : "Tidemill";
  write(one("#job"), state.job);
  write(one("#since"), state.startedMs ? `since ${format.time(state.startedMs).slice(0, 19)}` : "");
  write(one("#version"), state.version ? `Tidemill ${state.version}` : "");
  for (const [name, card] of cards) {
    if (!state.queries.has(name)) {
      card.root.remove();
      cards.delete(name);
    }
  }
  queries.forEach(showQuery);
  showLog();
}

function makeCard(query) {
  const root = one("#query").content.cloneNode(true).firstElementChild;
  root.dataset.query = query.name;
  one("h2", root).textContent = query.name;
  const chart = (name) => charts.chart(one(`.chart.${name}`, root));
  one("#queries").append(root);
  // A chart is as wide as its place, which it has to be in first.
  const card = { root, rates: chart("rates"), rows: chart("rows"), forecasts: chart("forecasts"), errors: chart("errors") };
  root.querySelectorAll("select").forEach((select) => select.addEventListener("change", show));
  return card;
}

// Where a query stands: pairs of name and value, and how good that is.
function figures(list, pairs) {
  const wanted = pairs.filter(([, value]) => value !== undefined);
  const group = ([name, value, mood]) => {
    const made = element("div");
    made.append(element("dt", name), element("dd", value, mood));
    return made;
  };
  refill(list, wanted, () => wanted.map(group));
}

function showQuery(query) {
  if (!cards.has(query.name)) cards.set(query.name, makeCard(query));
  const card = cards.get(query.name);
  const { root } = card;
  write(one(".sink", root), query.sink);
  const last = query.progress;
  const now = Date.now() - state.behindMs;
  const badge = one("header .badge", root);
  write(badge, activity(query));
  badge.className = `badge ${query.state}`;
  const failure = one(".failure", root);
  failure.hidden = query.state !== "failed";
  write(failure, [query.failure, query.help].filter(Boolean).join("\n"));
  figures(one(".main-figures", root), standing(query, last, now));
  showLedger(root, query);
  showForecast(card, query);
  showOutput(card, query);
  one(".speed", root).hidden = query.points.length < 2;
  if (query.points.length > 1) charts.rates(card.rates, query.points);
}

// What it does. How long it has done so goes on between two events.
function activity(query) {
  if (query.state !== "running") return query.state;
  const ms = query.activityMs === null ? 0 : query.activityMs + Date.now() - query.heardMs;
  const since = ms > LONG_MS ? ` for ${format.duration(ms)}` : "";
  if (query.activity === "idles") return `nothing to read${since}`;
  return query.activity === "runs" && since ? `in a batch${since}` : query.progress ? "running" : "no batch yet";
}

function standing(query, last, now) {
  if (!last) return [["records so far", format.count(query.totals.consumed)]];
  const rate = query.activity === "idles" ? 0 : query.points.at(-1)?.[1];
  const { behind } = query;
  const watermark = last.eventTime ? Date.parse(last.eventTime.watermark) : 0;
  const models = (last.models ?? []).map((model) => `${model.name} v${model.version}${model.refused ? " (a newer one does not fit)" : ""}`);
  return [
    ["batch", format.count(last.batchId)],
    ["rows/s", rate === undefined ? undefined : format.count(rate)],
    ["last batch", format.duration(last.batchDuration)],
    ["offsets behind", format.count(behind), behind > 0 ? "" : "good"],
    ["watermark", last.eventTime ? (watermark > 0 ? format.time(watermark).slice(0, 19) : "none yet") : undefined],
    ["behind the clock", watermark > 0 && watermark < now ? format.duration(now - watermark) : undefined],
    ["predicts with", models.length ? models.join(", ") : undefined],
  ];
}

function showLedger(root, query) {
  const { totals } = query;
  const parts = [
    ["written", totals.written],
    ["folded", totals.folded],
    ["filtered", totals.filtered],
    ["late", totals.late],
    ["bad-records", totals.bad, "bad"],
    ["in-state", query.inState, "in state"],
    ["reset", totals.reset ?? 0],
  ].filter(([, rows]) => rows > 0);
  const bar = ([className, rows]) => {
    const part = element("i", undefined, className);
    part.style.flexGrow = rows;
    return part;
  };
  refill(one(".bar", root), parts, () => parts.map(bar));
  const legend = ([className, rows, name]) => {
    const entry = element("li");
    entry.append(element("i", undefined, className), `${name ?? className} ${format.count(rows)}`);
    return entry;
  };
  refill(one(".legend", root), parts, () => parts.map(legend));
  write(one(".equation", root), query.equation);
}

// The values to choose from; returns the chosen one.
function choose(label, values, name) {
  const select = one("select", label);
  label.hidden = values.length < 2;
  if (name) write(one("span", label), name);
  const before = select.value;
  if (JSON.stringify(values) !== select.dataset.values) {
    select.dataset.values = JSON.stringify(values);
    select.replaceChildren(...values.map((value) => element("option", value)));
    if (values.includes(before)) select.value = before;
  }
  return values.length < 2 ? values[0] : select.value;
}

function showForecast(card, query) {
  const section = one(".forecast", card.root);
  const { forecast } = query;
  const stands = query.progress?.forecast;
  section.hidden = !forecast;
  if (!forecast || !stands) return;
  write(one("h3", section), `Forecast of ${forecast.target} by ${forecast.model}`);
  const { skill, rmse, naiveRmse } = stands.prequential;
  const { ahead } = forecast;
  const told = skill === undefined || skill === null ? undefined : skill.toFixed(3).replace(/^-(0\.000)$/, "$1");
  const next = ahead ? `${format.number(ahead.prediction)} at ${format.clock(ahead.target)}${ahead.series ? `, ${ahead.series}` : ""}` : undefined;
  figures(one(".figures", section), [
    ["serves", stands.version ? `version ${stands.version}` : "the naive forecast"],
    ["newest forecast", next],
    ["came due", format.count(stands.numForecastsScored)],
    ["RMSE", rmse === undefined ? undefined : format.number(rmse)],
    ["naive RMSE", naiveRmse === undefined ? undefined : format.number(naiveRmse)],
    ["skill", told, Number(told) > 0 ? "good" : Number(told) < 0 ? "bad" : ""],
    ["drifts", format.count(stands.drifts)],
    ["trained on", `${format.count(stands.numRowsTrained)} rows`],
    ["held out", `${format.count(stands.numRowsHeldOut)} rows`],
  ]);
  const series = choose(one(".series", section), [...new Set(forecast.scored.map((it) => it[1]))].sort());
  charts.forecasts(card.forecasts, forecast, series);
  charts.errors(card.errors, forecast);
  write(one(".training", section), stands.lastTraining ? `${format.time(Date.parse(stands.lastTraining.eventTime))}: ${training(stands.lastTraining)}` : "");
}

function training(decision) {
  const { naive, champion, challenger } = decision.heldOutRmse;
  const reason = { first: "there were rows enough", schedule: "it was time", drift: "the error had grown" }[decision.reason];
  const verdict = {
    promoted: `promoted as version ${decision.version}`, retired: "the model that served is retired", kept: "the model that serves stays", none: "there was none",
  }[decision.verdict];
  const errors = Object.entries({ challenger, champion, naive }).filter(([, error]) => error !== null && error !== undefined);
  const told = errors.map(([name, error]) => `${name} ${format.number(error)}`).join(", ");
  return `a challenger was due because ${reason}: ${verdict}, for ${decision.why}${told ? ` (RMSE: ${told})` : ""}`;
}

function showOutput(card, query) {
  const section = one(".output", card.root);
  section.hidden = query.rows.length === 0;
  if (section.hidden) return;
  const { columns } = query;
  const place = seriesColumn(query);
  const values = place < 0 ? [] : [...new Set(query.rows.map((row) => row[place]))].map(String).sort();
  const chosen = choose(one(".series", section), values, place < 0 ? "" : columns[place][0]);
  const rows = place < 0 ? query.rows : query.rows.filter((row) => String(row[place]) === chosen);
  const hasChart = charts.rows(card.rows, columns, rows);
  const details = one("details", section);
  if (!hasChart && card.opened === undefined) card.opened = details.open = true;
  refill(one(".scroll thead", section), columns, () => [rowOf(columns.map(([name, kind]) => element("th", name, kind)))]);
  const newest = query.rows.slice(-NEWEST_ROWS).reverse();
  const cells = (row) => row.map((value, at) => element("td", format.cell(value, columns[at][1]), columns[at][1]));
  refill(one(".scroll tbody", section), newest, () => newest.map((row) => rowOf(cells(row))));
}

function rowOf(cells) {
  const row = element("tr");
  row.append(...cells);
  return row;
}

function showLog() {
  one("#log").hidden = state.log.length === 0;
  const shown = state.log.slice(-LOG_SHOWN).reverse();
  const line = (entry) => {
    const item = element("li", undefined, entry.what);
    item.append(element("time", format.time(entry.ms).slice(0, 19)), element("b", entry.query), sentence(entry));
    return item;
  };
  refill(one("#log ol"), shown, () => shown.map(line));
}

function sentence({ what, details }) {
  switch (what) {
    case "drift": return `drift: the forecast's error has grown, at ${details.eventTime}`;
    case "training": return `${details.training.eventTime}: ${training(details.training)}`;
    case "ended": return "has ended";
    case "failed": return `has failed: ${details}`;
    default: return `${what}: ${details}`;
  }
}

// A browser has six connections for a host: a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    connect();
    show();
  } else {
    source?.close();
    connection = "connecting";
    drawn = false;
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
// How long ago things were changes without news.
setInterval(show, 5_000);
connect();
