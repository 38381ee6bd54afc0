// The chart of step times: computing, and the wait between steps.
import { duration } from "./format.js";
import { CONFIG, chosenRange, layout, withAlpha } from "./plot.js";

function seconds(value) {
  if (value === null) return "–";
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${Number((value * 1e3).toPrecision(3))} ms`;
  return value < 60 ? `${Number(value.toPrecision(3))} s` : duration(value);
}

export class Timing {
  constructor(board, plot, summary) {
    this.board = board;
    this.plot = plot;
    this.summary = summary;
    this.range = null;
    this.visible = false;
    this.stale = true;
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      if (this.visible && this.stale) this.refresh();
    }, { rootMargin: "250px" }).observe(plot);
    document.addEventListener("themechange", () => this.redraw());
  }

  async refresh() {
    this.stale = true;
    if (!this.visible) return;
    this.stale = false;
    const query = { points: Math.max(200, this.plot.clientWidth), attempt: this.board.view.attempts.at(-1) };
    if (this.range) [query.start, query.end] = this.range;
    try {
      this.answer = await this.board.api.timing(query);
    } catch (error) {
      this.summary.textContent = error.message;
      return;
    }
    this.draw();
  }

  redraw() {
    if (this.answer) this.draw();
  }

  draw() {
    const { colours } = this.board;
    const { compute, wait } = this.answer;
    if (!compute.step.length) {
      this.summary.textContent = "No step has ended yet.";
      return;
    }
    const trace = (column, name, colour) => ({
      x: column.step,
      y: column.y,
      customdata: column.y.map(seconds),
      name,
      type: "scatter",
      mode: "lines",
      line: { color: colour, width: 1.4 },
      hovertemplate: `${name} %{customdata}<extra></extra>`,
    });
    const shape = layout(colours, { x: "step", scale: "log", key: this.board.view.attempts.at(-1), right: 16 });
    Object.assign(shape, {
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: colours["ink-2"] } },
      margin: { ...shape.margin, t: 26 },
    });
    Object.assign(shape.yaxis, { tickformat: "~s", ticksuffix: "s", dtick: 1 });
    shape.xaxis.range = this.range ? [...this.range] : undefined;
    shape.xaxis.autorange = !this.range;
    const first = this.plot.data === undefined;
    const [a, b] = [colours.series[0], colours.series[1]];
    const marks = this.board.marks.lines(this.board, (item) => item.step);
    window.Plotly.react(this.plot, [trace(wait, "wait", withAlpha(b, 0.85)), trace(compute, "compute", a), marks], shape, CONFIG);
    if (first) this.listen();
    this.showSummary(compute, wait);
  }

  showSummary(compute, wait) {
    const bold = (text) => Object.assign(document.createElement("b"), { textContent: text });
    const share = Math.round((100 * wait.sum) / (compute.sum + wait.sum));
    this.summary.replaceChildren("A step computes for ", bold(seconds(compute.sum / compute.total)), " on average");
    if (wait.total)
      this.summary.append("; the wait between steps (data, logging, evaluation, saving) takes ",
        bold(seconds(wait.sum / wait.total)), ", ", bold(`${share} % of the time`), ".");
  }

  listen() {
    this.plot.on("plotly_relayout", (event) => {
      const range = chosenRange(event, "step");
      if (range === undefined || String(range) === String(this.range)) return;
      this.range = range;
      this.refresh();
    });
  }
}
