// Draws figures, which workloads/run/charts.py makes, with ECharts; and shows local time beside UTC.
"use strict";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const TOUCH = matchMedia("(pointer: coarse)").matches;
// The colours by their names: on white, and on a dark page.
const COLOURS = {
  ink: ["#2563a8", "#6fa8e8"], accent: ["#c2570c", "#f0924a"], grey: ["#66707d", "#9aa5b1"], red: ["#b3261e", "#f2776d"],
  green: ["#2f8f5b", "#4fb07c"], mint: ["#8fc7a4", "#8fc7a4"], yellow: ["#e0b03a", "#e0b03a"], violet: ["#b58ad6", "#b58ad6"],
  purple: ["#7a3ea8", "#b98be0"], steel: ["#7a9cc6", "#7a9cc6"], silver: ["#c9ced6", "#767f8a"], pale: ["#f1f3f5", "#39414b"],
  text: ["#1c2430", "#e6eaef"], line: ["#e3e7ec", "#323b46"], panel: ["#ffffff", "#1b2129"], faint: ["#dfe5ec", "#2b3a4d"],
  middle: ["#8fb0d3", "#44689a"],
};
const SEQUENCE = ["ink", "accent", "green", "purple", "yellow", "steel", "red", "mint", "violet", "grey"];
const FONT = { fontFamily: 'system-ui, "Segoe UI", Roboto, sans-serif' };
// A legend has as many lines as its names need, and pages if these would take the place of the figure.
const LEGEND = { size: 12, symbol: 14, gap: 10, line: 24, most: 4 };
const LABEL = 11; // the size of the labels of an axis
const drawn = new Map(); // by element

function colour(name) {
  const place = /^sequence(\d+)$/.exec(name);
  const found = COLOURS[place ? SEQUENCE[place[1] % SEQUENCE.length] : name];
  return found ? found[DARK.matches ? 1 : 0] : name;
}

// A copy of an option in which the names of colours are colours.
function coloured(value, key) {
  if (Array.isArray(value)) return value.map((each) => coloured(each, key));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, inside]) => [name, coloured(inside, name)]));
  return typeof value === "string" && /color$/i.test(key || "") ? colour(value) : value;
}

function number(value) {
  if (typeof value !== "number") return value ?? "";
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(5)));
}

function widthOf(text, size) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${size}px ${FONT.fontFamily}`;
  return Math.ceil(pen.measureText(text).width);
}

// From an upright axis to its name, beside the labels, of which the largest value has the longest.
function besideLabels(given) {
  const values = given.flatMap((each) => each.data.map((at) => (at?.value ?? at)?.[1])).filter(Number.isFinite);
  const sign = values.some((value) => value < 0) ? "-" : "";
  return Math.max(40, 16 + widthOf(sign + Math.round(Math.max(0, ...values.map(Math.abs))).toLocaleString("en"), LABEL));
}

function axis(given, vertical) {
  const { ticks, ...own } = given;
  const text = { color: colour("grey"), fontSize: LABEL, hideOverlap: true, ...FONT };
  const at = ticks ? { customValues: ticks } : {};
  return {
    nameLocation: "middle", nameGap: 24, nameTextStyle: { color: colour("grey"), ...FONT },
    splitLine: { show: vertical || own.grid === true, lineStyle: { color: colour("line") } },
    axisLine: { show: !vertical, lineStyle: { color: colour("grey") } }, ...coloured(own),
    axisLabel: { ...text, ...at, ...(own.axisLabel || {}), ...(ticks ? { formatter: (value) => String(Number(value.toPrecision(3))) } : {}) },
    axisTick: { show: !vertical, ...at }, axisPointer: { label: { formatter: (at) => String(number(at.value)) } },
  };
}

function series(given, index) {
  const { best, ...own } = given;
  const shown = { animation: false, emphasis: { disabled: own.type === "line" }, symbol: "circle", ...coloured(own) };
  if (best && best.data.length)
    shown.markPoint = {
      symbol: "circle", symbolSize: 9, silent: true, animation: false, data: best.data,
      label: { formatter: "best", position: "top", color: colour("accent"), fontWeight: 600 },
    };
  if (own.markLine)
    shown.markLine = {
      symbol: "none", silent: true, animation: false, lineStyle: { color: colour("text"), type: "dashed", width: 1 },
      label: { color: colour("text"), fontSize: 10 }, ...coloured(own.markLine),
    };
  return shown;
}

// The lines that the names of a legend need: its items are a symbol, a gap and a name each, and have gaps between them.
function linesOf(names, width) {
  let [lines, used] = [1, 0];
  for (const name of names) {
    const needed = LEGEND.symbol + LEGEND.gap + widthOf(name, LEGEND.size);
    if (used && used + needed > width - 2 * LEGEND.gap) [lines, used] = [lines + 1, 0];
    used += needed + LEGEND.gap;
  }
  return lines;
}

function complete(figure) {
  const { parallel, xAxis, yAxis, series: given, ...more } = figure.option;
  const legend = given.filter((each) => each.name && !each.quiet).map((each) => each.name);
  const common = {
    color: SEQUENCE.map(colour), textStyle: { color: colour("text"), ...FONT }, animation: false, ...coloured(more),
    series: given.map(series),
  };
  const tooltip = {
    confine: true, backgroundColor: colour("panel"), borderColor: colour("line"), textStyle: { color: colour("text"), fontSize: 12 },
    valueFormatter: number,
  };
  if (parallel) return coordinates(common, tooltip, figure);
  const needed = legend.length > 1 ? linesOf(legend, figure.width) : 0;
  const lines = needed > LEGEND.most ? 1 : needed;
  return {
    ...common,
    grid: { left: yAxis.name ? 30 : 12, right: 20, top: lines ? 10 + LEGEND.line * lines : 14, bottom: xAxis.name ? 26 : 8, containLabel: true },
    legend: {
      type: lines < needed ? "scroll" : "plain", show: lines > 0, data: legend, top: 0, left: 0,
      itemWidth: LEGEND.symbol, itemHeight: LEGEND.symbol, itemGap: LEGEND.gap,
      textStyle: { color: colour("text"), fontSize: LEGEND.size, ...FONT }, pageTextStyle: { color: colour("text") }, pageIconColor: colour("ink"),
      inactiveColor: colour("silver"),
    },
    tooltip: { trigger: figure.points ? "item" : "axis", axisPointer: { snap: true, lineStyle: { color: colour("grey") } }, ...tooltip,
      ...(figure.points ? { formatter: (at) => described(at, figure) } : {}) },
    toolbox: { show: true, showTitle: false, itemSize: 0, feature: { dataZoom: { yAxisIndex: figure.points ? 0 : "none" } } },
    dataZoom: TOUCH ? [{ type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseMove: false, preventDefaultMouseMove: false }] : [],
    xAxis: axis(xAxis, false), yAxis: axis({ nameGap: besideLabels(given), ...yAxis }, true),
  };
}

// The text of a tooltip; ECharts shows it as HTML.
function html(text) {
  return String(text).replace(/[&<>"']/g, (found) => `&#${found.charCodeAt(0)};`);
}

function described(at, figure) {
  const names = [figure.option.xAxis.name || "", figure.option.yAxis.name || at.seriesName];
  const values = [at.value[0], at.value[1]].map((value, n) => `${html(names[n])} <b>${html(number(value))}</b>`);
  return [at.value[2] !== undefined && figure.third ? `${html(figure.third)} <b>${html(number(at.value[2]))}</b>` : "", ...values]
    .filter(Boolean).join("<br>");
}

// Parallel coordinates: better lines are darker, a drag along an axis selects, and the tooltip has the values of a line.
function coordinates(common, tooltip, figure) {
  const lines = common.series[0];
  const names = figure.option.parallel.map((each) => each.name);
  const text = { color: colour("grey"), fontSize: 11, ...FONT };
  const narrow = figure.width > 0 && figure.width < 600;
  const edge = { textBorderColor: colour("panel"), textBorderWidth: 3 }; // readable where lines cross
  return {
    ...common,
    tooltip: { ...tooltip, trigger: "item",
      formatter: (at) => `trial <b>${html(at.name)}</b><br>` + names
        .map((name, n) => `${html(name)} <b>${html(shownValue(figure.option.parallel[n], at.value[n]))}</b>`).join("<br>") },
    parallel: narrow
      ? { left: 34, right: 34, top: 24, bottom: 26, layout: "vertical" }
      : { left: 56, right: 70, top: 34, bottom: 22, layout: "horizontal" },
    parallelAxis: figure.option.parallel.map((each, dim) => ({
      dim, name: each.name, type: each.categories ? "category" : each.log ? "log" : "value", data: each.categories,
      min: each.min, max: each.max, inverse: false, nameLocation: narrow ? "middle" : "end", nameGap: narrow ? -20 : 14,
      nameTextStyle: { color: colour("text"), fontSize: 12, align: "center", ...edge, ...FONT },
      nameTruncate: { maxWidth: narrow ? 200 : Math.max(60, (figure.width - 60) / names.length - 6) },
      axisLabel: { ...text, ...edge, ...(each.ticks ? { customValues: each.ticks } : {}), hideOverlap: true,
        formatter: (value) => (each.categories ? value : String(number(value))) },
      axisTick: each.ticks ? { customValues: each.ticks } : {},
      axisLine: { lineStyle: { color: colour("grey") } },
      areaSelectStyle: { width: 18, color: colour("accent"), borderColor: colour("accent"), opacity: 0.25 },
    })),
    series: [{
      ...lines, lineStyle: { width: 1.2, opacity: 0.75 }, inactiveOpacity: 0.04, activeOpacity: 0.9, smooth: false,
      emphasis: { disabled: false, lineStyle: { width: 3, opacity: 1, color: colour("accent") } },
      data: lines.data.map((each) => ({
        name: each.name, value: each.value, lineStyle: { color: between(each.rank), width: 0.8 + 1.6 * each.rank ** 3 },
      })),
    }],
  };
}

function shownValue(dimension, value) {
  if (value === "-" || value === undefined || value === null) return "inactive";
  return dimension.categories ? value : number(value);
}

// The colour of a rank between 0, the worst, and 1, the best.
function between(rank) {
  return rank > 0.8 ? colour("ink") : rank > 0.4 ? colour("middle") : colour("faint");
}

// Draw a figure into an element, or draw it again with other data; a zoom stays.
function draw(element, figure) {
  let chart = drawn.get(element)?.chart;
  if (!chart) {
    chart = echarts.init(element, null, { renderer: "canvas" });
    new ResizeObserver(() => redraw(element)).observe(element);
    chart.getZr().on("dblclick", () => chart.dispatchAction({ type: "dataZoom", start: 0, end: 100 }));
  }
  const width = element.clientWidth;
  drawn.set(element, { chart, figure, width });
  chart.setOption(complete({ ...figure, width }), { replaceMerge: ["series"] });
  if (!figure.option.parallel && !TOUCH)
    chart.dispatchAction({ type: "takeGlobalCursor", key: "dataZoomSelect", dataZoomSelectActive: true });
  return chart;
}

function redraw(element) {
  const { chart, figure, width } = drawn.get(element);
  if (!element.isConnected) {
    chart.dispose();
    drawn.delete(element);
    return;
  }
  chart.resize();
  if (width !== element.clientWidth) draw(element, figure); // legends and parallel coordinates depend on it
}

// Add the local time to times, which are in UTC.
function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (element.dataset.local || !at.getTimezoneOffset()) continue;
    element.dataset.local = "1";
    const shown = at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const here = document.createElement("span");
    here.textContent = ` (${shown} here)`;
    element.append(here);
  }
}

DARK.addEventListener("change", () => drawn.forEach(({ figure }, element) => draw(element, figure)));

function start() {
  for (const element of document.querySelectorAll("[data-figure]")) draw(element, JSON.parse(element.dataset.figure));
  localTimes(document);
}
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
