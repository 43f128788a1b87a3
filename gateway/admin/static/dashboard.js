"use strict";
// Draws what the page's table of days says, and says whether the page is still being fetched anew.

const plots = new Map(); // element -> uPlot

function read(table) {
  const rows = [...table.tBodies[0].rows];
  const days = rows.map((row) => Date.parse(row.dataset.day + "T00:00:00Z") / 1000);
  const images = rows.map((row) => Number(row.dataset.images));
  const dollars = rows.map((row) => Number(row.dataset.usd) / 1e6);
  return [days, images, dollars];
}

function color(name) {
  // A canvas knows nothing of light-dark(), so an element is asked what it comes to.
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function options(width) {
  const axis = { stroke: color("soft"), grid: { stroke: color("rule"), width: 1 }, ticks: { stroke: color("rule") } };
  const whole = (u, splits) => splits.map((value) => (Number.isInteger(value) ? value.toLocaleString("en") : ""));
  const money = (u, splits) => splits.map((value) => "$" + value.toLocaleString("en"));
  const fromZero = (u, low, high) => [0, Math.max(high, 1) * 1.1];
  return {
    width, height: 240,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"), // days of each team's own calendar
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { range: (u, low, high) => [low - 43200, high + 43200] }, y: { range: fromZero }, usd: { range: fromZero } },
    axes: [
      { ...axis, values: [[86400, "{D} {MMM}", null, null, null, null, null, null, 1]] },
      { ...axis, values: whole, size: 60 },
      { ...axis, scale: "usd", side: 1, values: money, size: 60, grid: { show: false } },
    ],
    series: [
      { label: "Day", value: "{YYYY}-{MM}-{DD}" },
      { label: "Images", stroke: color("blue"), fill: color("blue"), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.6, 40] }) },
      { label: "Dollars", scale: "usd", stroke: color("amber"), width: 2, points: { show: true, size: 5 } },
    ],
  };
}

function draw() {
  for (const [element, plot] of plots) {
    if (!element.isConnected) { plot.destroy(); plots.delete(element); }
  }
  for (const element of document.querySelectorAll(".plot")) {
    const table = document.getElementById(element.dataset.table);
    const plot = plots.get(element);
    if (plot) plot.setData(read(table));
    else plots.set(element, new uPlot(options(element.clientWidth), read(table), element));
  }
}

function again() {
  for (const plot of plots.values()) plot.destroy();
  plots.clear();
  draw();
}

let pulse = null;
let since = null;

function told(well) {
  if (well) {
    since = null;
    if (pulse.textContent !== "Live") pulse.textContent = "Live";
  } else if (since === null) {
    since = new Date();
    pulse.textContent = `Not live since ${since.toLocaleTimeString()}: what is shown is old`;
  }
  pulse.classList.toggle("bad", !well);
}

document.addEventListener("DOMContentLoaded", () => {
  pulse = document.getElementById("pulse");
  draw();
  told(true);
});
document.addEventListener("htmx:after:swap", draw);
document.addEventListener("htmx:after:request", (event) => told(event.detail.ctx.response.status === 200));
document.addEventListener("htmx:error", () => told(false));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) { width = innerWidth; again(); }
});
