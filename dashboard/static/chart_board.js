// All charts of a run: view options, colours of attempts, and the shared cursor.
import { Chart, STITCHED } from "./chart.js";
import { number } from "./format.js";
import { palette, toAxisTime } from "./plot.js";

const REMEMBERED = "lineside-charts";

export class ChartBoard {
  constructor(api, attempts, root) {
    this.api = api;
    this.attempts = attempts;
    this.root = root;
    this.charts = new Map();
    this.marks = new Marks();
    this.colours = palette();
    this.view = {
      x: "step",
      scale: "linear",
      smoothing: 0,
      marks: true,
      ...remembered(),
      attempts: [STITCHED],
    };
    this.observer = new IntersectionObserver((entries) => this.onVisible(entries), { rootMargin: "250px" });
    this.addCharts();
    document.addEventListener("themechange", () => {
      this.colours = palette();
      this.redraw();
    });
  }

  // Makes a chart for each figure in the page that has none yet.
  addCharts() {
    for (const figure of this.root.querySelectorAll("figure[data-metric]")) {
      if (this.chartOf(figure)) continue;
      this.charts.set(keyOf(figure.dataset.producer, figure.dataset.metric), new Chart(figure, this));
      this.observer.observe(figure);
    }
  }

  chartOf(figure) {
    return this.charts.get(keyOf(figure.dataset.producer, figure.dataset.metric));
  }

  // Refreshes the charts whose metrics have new points.
  grow(metrics) {
    const grown = [];
    for (const { producer, name, attempt, count } of metrics) {
      const key = keyOf(producer, name);
      const figure = this.charts.get(key)?.figure;
      if (!figure) continue;
      const newest = `${attempt} ${count}`;
      if (figure.dataset.count !== newest) grown.push(key);
      figure.dataset.count = newest;
    }
    return this.refresh(grown);
  }

  onVisible(entries) {
    for (const entry of entries) {
      const chart = this.chartOf(entry.target);
      chart.visible = entry.isIntersecting;
      if (chart.visible && chart.stale) chart.refresh();
    }
  }

  // Refreshes the charts with these keys, or all.
  refresh(keys = [...this.charts.keys()]) {
    return Promise.all(keys.map((key) => this.charts.get(key)?.refresh()));
  }

  redraw() {
    for (const chart of this.charts.values()) if (chart.curves.length) chart.draw();
  }

  change(option, value) {
    const isFetched = option !== "smoothing" || this.view.smoothing > 0;
    this.view[option] = value;
    try {
      const { attempts: _, ...kept } = this.view;
      localStorage.setItem(REMEMBERED, JSON.stringify(kept));
    } catch {
      // Storage may be forbidden; the choice then lasts as long as this page.
    }
    if (option === "x") for (const chart of this.charts.values()) chart.range = null;
    if (option === "x" || option === "attempts" || !isFetched) this.refresh();
    else this.redraw();
  }

  numberOf(attempt) {
    return this.attempts.find((known) => known.attempt === attempt)?.number ?? 0;
  }

  // Whether something that happened at a step of an attempt is part of what is shown.
  shows({ attempt, step }) {
    if (!this.view.attempts.includes(STITCHED)) return this.view.attempts.includes(attempt);
    const last = this.attempts.find((known) => known.attempt === attempt)?.superseded_after ?? null;
    return last === null || step <= last;
  }

  // The newest attempt always has the first colour, as a curve without an attempt.
  colourOf(attempt) {
    const newest = this.attempts.at(-1).number;
    const age = newest - (this.numberOf(attempt) || newest);
    return this.colours.series[age % this.colours.series.length];
  }

  hover(at, from) {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      for (const chart of this.charts.values()) if (chart.visible) chart.showAt(at, from);
    });
  }
}

// Checkpoints and evaluations as small markers at the bottom of each chart, and a vertical line where
// a command was applied.
class Marks {
  constructor() {
    this.checkpoints = [];
    this.evaluations = [];
    this.commands = [];
  }

  // Of a chart of `board` with `x` as its horizontal axis.
  traces(board, x) {
    const { view, colours } = board;
    if (!view.marks) return [];
    const shown = (items) => items.filter((item) => board.shows(item));
    const place = (item) => (x === "time" ? toAxisTime(Date.parse(item.time ?? item.settled_at) / 1000) : item.step);
    const trace = (items, symbol, marker) => ({
      x: items.map(place),
      y: items.map(() => 0.03),
      yaxis: "y2",
      type: "scatter",
      mode: "markers",
      cliponaxis: false,
      marker: { symbol, ...marker },
      hoverinfo: "skip",
    });
    return [
      this.lines(board, place),
      trace(shown(this.evaluations), "line-ns", { size: 4, line: { width: 1.5, color: colours["ink-3"] } }),
      trace(shown(this.checkpoints), "circle", { size: 6, color: colours.panel, line: { width: 1.5, color: colours.ink } }),
    ].filter((one) => one.x.length);
  }

  // The applied commands as a trace of vertical lines, each at its `place` on the horizontal axis.
  lines(board, place) {
    const { view, colours } = board;
    const items = view.marks ? this.commands.filter((item) => board.shows(item)) : [];
    return {
      x: items.flatMap((item) => [place(item), place(item), null]),
      y: items.flatMap(() => [0, 1, null]),
      text: items.flatMap((item) => [commandText(item), commandText(item), ""]),
      yaxis: "y2",
      type: "scatter",
      mode: "lines",
      cliponaxis: false,
      line: { width: 1.2, dash: "4px,3px", color: colours.caution },
      hovertemplate: "%{text}<extra></extra>",
      showlegend: false,
    };
  }
}

// Escaped: Plotly interprets some HTML in texts, and any client may have written a command.
function commandText({ op, step, detail }) {
  const text = `${op ?? "command"} at step ${number(step)}${detail ? `: ${detail}` : ""}`;
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

// No producer's name holds a slash.
function keyOf(producer, metric) {
  return `${producer}/${metric}`;
}

function remembered() {
  try {
    const { x, scale, smoothing, marks } = JSON.parse(localStorage.getItem(REMEMBERED) ?? "{}");
    return {
      ...(["step", "time"].includes(x) && { x }),
      ...(["linear", "log"].includes(scale) && { scale }),
      ...(smoothing >= 0 && smoothing <= 0.99 && { smoothing }),
      ...(typeof marks === "boolean" && { marks }),
    };
  } catch {
    return {};
  }
}
