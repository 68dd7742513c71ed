// The charts, drawn by uPlot.

import { asNumber } from "./format.js";
import { repeats } from "./model.js";

const uPlot = window.uPlot;
const HEIGHT = 190;
const LINES_MAX = 6;
const PRICE = /price|close|open|high|low|vwap|avg|mean|value/i;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const palette = () => [1, 2, 3, 4, 5, 6].map((number) => colour(`--c${number}`));

function axis(more = {}) {
  return { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "11px system-ui", size: 56, ...more };
}

const DAY = 86_400;

// Hours from 0 to 24, and the date where the scale is of days.
function times(_, splits, __, ___, step) {
  const [from, to] = step >= DAY ? [5, 10] : step >= 60 ? [11, 16] : [11, 19];
  return splits.map((seconds) => new Date(seconds * 1e3).toISOString().slice(from, to));
}

const timeAxis = () => axis({ size: 34, values: times, space: 70 });

function options(element, title, series, more = {}) {
  return {
    title,
    width: element.clientWidth || 300,
    height: HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
    cursor: { drag: { x: true, y: false } },
    axes: [timeAxis(), axis()],
    series: [{ label: "time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }, ...series],
    ...more,
  };
}

// One chart for as long as what it shows is of the same kind; `key` says which.
class Chart {
  constructor(element) {
    this.element = element;
    this.key = null;
    this.zoomed = false;
    element.addEventListener("dblclick", () => { this.zoomed = false; });
    new ResizeObserver(() => this.plot?.setSize({ width: element.clientWidth, height: HEIGHT })).observe(element);
  }

  draw(key, make, data) {
    if (key !== this.key) {
      this.clear();
      this.plot = new uPlot(this.withZoom(make()), data, this.element);
      this.key = key;
      this.makeReachable();
    } else {
      // What the reader has zoomed into stays until a double click.
      this.plot.setData(data, !this.zoomed);
      if (this.zoomed) this.plot.redraw();
    }
  }

  withZoom(options) {
    const hooks = options.hooks ?? {};
    hooks.setSelect = [(plot) => { if (plot.select.width > 0) this.zoomed = true; }];
    return { ...options, hooks };
  }

  // The switches of the legend, without a mouse.
  makeReachable() {
    for (const head of this.element.querySelectorAll(".u-legend tr:not(:first-child) th")) {
      head.tabIndex = 0;
      head.setAttribute("role", "button");
      head.addEventListener("keydown", (event) => event.key === "Enter" && head.click());
    }
  }

  clear() {
    this.plot?.destroy();
    this.plot = null;
    this.key = null;
    this.zoomed = false;
  }
}

export function chart(element) {
  return new Chart(element);
}

const line = (label, stroke, more = {}) => ({ label, stroke, width: 1.5, points: { show: false }, value: (_, value) => shown(value), ...more });
const shown = (value) => (value === null || value === undefined ? "-" : Number(value.toPrecision(7)).toLocaleString("en"));
const scheme = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

export function rates(chart, points) {
  const [first, second] = palette();
  const make = () =>
    options(chart.element, "", [line("rows/s", first, { fill: `${first}22` }), line("ms a batch", second, { scale: "ms" })], {
      axes: [timeAxis(), axis(), axis({ side: 1, scale: "ms", grid: { show: false } })],
      scales: { y: { range: fromZero }, ms: { range: fromZero } },
    });
  chart.draw(scheme(), make, [0, 1, 2].map((place) => points.map((point) => (place === 0 ? point[0] / 1e3 : point[place]))));
}

const fromZero = (_, __, max) => [0, max > 0 ? max * 1.1 : 1];

export function forecasts(chart, forecast, series) {
  const scored = forecast.scored.filter((it) => it[1] === series);
  const [first, second] = palette();
  const make = () =>
    options(chart.element, `${forecast.target}: what came true, and what was forecast for it`, [
      line(forecast.target, first),
      line("forecast", second),
      line("naive", colour("--quiet"), { show: false, dash: [4, 3] }),
    ]);
  chart.draw(`${scheme()} ${forecast.target}`, make, [scored.map((it) => it[0] / 1e3), ...[2, 3, 4].map((place) => scored.map((it) => it[place]))]);
}

export function errors(chart, forecast) {
  const [first] = palette();
  const make = () =>
    options(chart.element, "prequential RMSE: the lower, the better", [line("model", first), line("naive", colour("--quiet"), { dash: [4, 3] })]);
  chart.draw(scheme(), make, [forecast.errors.map((it) => it[0] / 1e3), ...[1, 2].map((place) => forecast.errors.map((it) => it[place]))]);
}

const median = (values) => {
  const sorted = values.filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 0;
};

// The columns that one axis suits: those of the size of the first price.
function ofOneSize(columns, numbers) {
  const places = columns.map((_, place) => place).filter((place) => columns[place][1] === "number");
  const anchor = places.find((place) => PRICE.test(columns[place][0])) ?? places[0];
  const size = median(numbers(anchor));
  const fits = (place) => {
    const own = median(numbers(place));
    return place === anchor || (own > 0 && size > 0 && own / size < 1.5 && size / own < 1.5);
  };
  return places.slice().sort((a, b) => fits(b) - fits(a) || a - b).slice(0, LINES_MAX).map((place) => ({ place, show: fits(place) }));
}

// Rows by their first time. False if they have none, or no number.
export function rows(chart, columns, all) {
  const at = columns.findIndex(([, kind]) => kind === "timestamp");
  const named = (name) => columns.findIndex(([own, kind]) => kind === "number" && own.toLowerCase() === name);
  if (at < 0 || !columns.some(([, kind]) => kind === "number")) {
    chart.clear();
    return false;
  }
  const sorted = all.filter((row) => row[at] !== null).sort((a, b) => a[at] - b[at]);
  const numbers = (place) => sorted.map((row) => asNumber(row[place]));
  const times = sorted.map((row) => row[at] / 1e3);
  const candle = ["open", "high", "low", "close"].map(named);
  if (candle.every((place) => place >= 0)) {
    chart.draw(`${scheme()} candles`, () => candles(chart.element), [times, ...candle.map(numbers)]);
    return true;
  }
  const chosen = sorted.length ? ofOneSize(columns, numbers) : [];
  const colours = palette();
  const isCloud = repeats(sorted, at);
  const look = (index) => (isCloud ? { paths: () => null, points: { show: true, size: 4, fill: colours[index] } } : {});
  const make = () =>
    options(chart.element, "", chosen.map(({ place, show }, index) => line(columns[place][0], colours[index], { show, ...look(index) })));
  // Which columns there are does not change, and what the reader has switched stays.
  const key = `${scheme()} ${isCloud} ${chosen.map(({ place }) => place).sort().join()}`;
  const order = chart.key === key ? chart.order : chosen.map(({ place }) => place);
  chart.order = order;
  chart.draw(key, make, [times, ...order.map(numbers)]);
  return true;
}

function candles(element) {
  const [up, down] = [colour("--good"), colour("--bad")];
  const none = { paths: () => null, points: { show: false } };
  const series = ["open", "high", "low", "close"].map((label) => line(label, colour("--ink"), none));
  // The first and the last one are whole, too.
  const range = (plot, min, max) => [min - stepOf(plot.data[0]) / 2, max + stepOf(plot.data[0]) / 2];
  return options(element, "", series, { scales: { x: { range } }, hooks: { draw: [(plot) => drawCandles(plot, up, down)] } });
}

function stepOf(times) {
  const gaps = times.slice(1).map((time, place) => time - times[place]).filter((gap) => gap > 0);
  return gaps.length ? Math.min(...gaps) : 60;
}

function drawCandles(plot, up, down) {
  const { ctx, data: [times, open, high, low, close] } = plot;
  const step = stepOf(times);
  const x = (time) => plot.valToPos(time, "x", true);
  const y = (value) => plot.valToPos(value, "y", true);
  const width = Math.max(1, Math.min(24, 0.7 * Math.abs(x(times[0] + step) - x(times[0]))));
  ctx.save();
  ctx.beginPath();
  ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
  ctx.clip();
  times.forEach((time, place) => {
    if ([open, high, low, close].some((of) => of[place] === null)) return;
    ctx.fillStyle = close[place] >= open[place] ? up : down;
    const [top, bottom] = [y(Math.max(open[place], close[place])), y(Math.min(open[place], close[place]))];
    ctx.fillRect(x(time) - 0.5, y(high[place]), 1, y(low[place]) - y(high[place]));
    ctx.fillRect(x(time) - width / 2, top, width, Math.max(1, bottom - top));
  });
  ctx.restore();
}
