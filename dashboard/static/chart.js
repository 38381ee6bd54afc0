// One metric's chart: points of the shown attempts, zoom, and the value under the cursor.
import { number } from "./format.js";
import { CONFIG, chosenRange, layout, nearest, smooth, toAxisTime, withAlpha } from "./plot.js";

const FLAG_WORDS = { nan: "NaN", inf: "+∞", "-inf": "−∞" };

export class Chart {
  constructor(figure, board) {
    this.figure = figure;
    this.board = board;
    this.name = figure.dataset.metric;
    this.producer = figure.dataset.producer;
    this.plot = figure.querySelector(".plot");
    this.value = figure.querySelector(".value");
    this.range = null;
    this.answers = [];
    this.visible = false;
    this.stale = true;
    this.turn = 0;
  }

  // Fetches and draws if the chart is visible; otherwise once it is.
  async refresh() {
    this.stale = true;
    if (!this.visible) return;
    this.stale = false;
    const turn = ++this.turn;
    const { x } = this.board.view;
    const query = { x, producer: this.producer, points: Math.max(200, Math.round(this.plot.clientWidth * 1.5)) };
    if (this.range) [query.start, query.end] = this.range;
    try {
      const answers = await Promise.all(
        this.board.view.attempts.map((attempt) => this.board.api.points(this.name, { ...query, attempt }).catch(absent)),
      );
      if (turn !== this.turn) return;
      this.answers = distinct(answers.filter(Boolean));
      this.draw();
    } catch (error) {
      if (turn === this.turn) this.showText(error.message);
    }
  }

  // Draws the points fetched last: smoothing, axis and theme need no new ones.
  draw() {
    const { Plotly } = window;
    const { x, scale } = this.board.view;
    this.showText(this.emptyText(scale));
    if (!this.answers.length && this.plot.data === undefined) return;
    const key = `${x}-${this.board.view.attempts}`;
    const shape = layout(this.board.colours, { x, scale, key });
    if (scale === "log") shape.yaxis.dtick = logTicks(this.answers.flatMap((answer) => answer.y));
    if (this.range) shape.xaxis.range = x === "time" ? this.range.map(toAxisTime) : [...this.range];
    shape.xaxis.autorange = !this.range;
    const first = this.plot.data === undefined;
    Plotly.react(this.plot, this.traces(), shape, CONFIG);
    if (first) this.listen();
    this.showLast();
  }

  traces() {
    const { x, smoothing } = this.board.view;
    const { colours } = this.board;
    const traces = [];
    for (const answer of this.answers) {
      const colour = this.board.colourOf(answer.attempt);
      const xs = x === "time" ? answer.x.map(toAxisTime) : answer.x;
      const label = this.answers.length > 1 && answer.attempt ? `attempt ${this.board.numberOf(answer.attempt)} ` : "";
      const few = answer.y.length < 3;
      const raw = {
        x: xs,
        y: answer.y,
        type: "scatter",
        mode: few ? "lines+markers" : "lines",
        connectgaps: false,
        line: { color: smoothing ? withAlpha(colour, 0.28) : colour, width: smoothing ? 1 : 1.6 },
        marker: { color: colour, size: 6 },
        hovertemplate: `${label}%{y:.5~g}<extra></extra>`,
      };
      traces.push(smoothing ? { ...raw, hovertemplate: undefined, hoverinfo: "skip" } : raw);
      if (smoothing) {
        const line = { color: colour, width: 1.8 };
        const hovertemplate = `${label}%{customdata:.5~g}, smoothed %{y:.4~g}<extra></extra>`;
        const y = smooth(answer.y, smoothing);
        traces.push({ ...raw, mode: "lines", y, customdata: answer.y, line, hovertemplate });
      }
      traces.push(...notFinite(answer, xs, colours));
    }
    return traces.concat(this.board.marks.traces(this.board));
  }

  emptyText(scale) {
    const values = this.answers.flatMap((answer) => answer.y).filter((value) => value !== null);
    if (!this.answers.length) return "Not logged in the attempts shown.";
    if (!values.length) return this.answers.some((answer) => answer.flags.length) ? "Only NaN and infinities." : "";
    return scale === "log" && values.every((value) => value <= 0) ? "Nothing above zero for a log axis." : "";
  }

  showText(text) {
    let note = this.plot.querySelector(":scope > .empty-text");
    if (!note && text) {
      note = Object.assign(document.createElement("p"), { className: "empty-text" });
      this.plot.append(note);
    }
    if (note) note.textContent = text;
    if (note) note.hidden = !text;
  }

  listen() {
    this.plot.on("plotly_relayout", (event) => {
      const range = chosenRange(event, this.board.view.x);
      if (range === undefined || String(range) === String(this.range)) return;
      this.range = range;
      this.refresh();
    });
    this.plot.on("plotly_hover", (event) => this.board.hover(event.points[0].x, this));
    this.plot.on("plotly_unhover", () => this.board.hover(null, this));
  }

  // Draws a line at `at`, the cursor's x in plotly's terms, and shows the value there.
  showAt(at, from) {
    const axis = this.plot._fullLayout?.xaxis;
    const answer = this.answers.at(-1);
    if (at === null || !axis || !answer?.x.length) return this.showLast();
    const place = axis.d2p(at);
    this.rule ??= this.plot.appendChild(Object.assign(document.createElement("div"), { className: "cursor" }));
    this.rule.hidden = from === this || place < 0 || place > axis._length;
    this.rule.style.left = `${axis._offset + place}px`;
    const wanted = this.board.view.x === "time" ? axis.d2c(at) : Number(at);
    const xs = this.board.view.x === "time" ? answer.x.map(toAxisTime) : answer.x;
    const index = nearest(xs, wanted);
    this.value.textContent = `step ${number(answer.step[index])} · ${valueText(answer, index)}`;
  }

  // Shows the last value, or how to leave the zoom.
  showLast() {
    if (this.rule) this.rule.hidden = true;
    const answer = this.answers.at(-1);
    const last = answer ? valueText(answer, answer.y.length - 1) : "";
    this.value.textContent = this.range ? "zoomed · double-click for all" : last;
  }
}

// A curve that covers the whole run, without an attempt, is the same for each attempt.
function distinct(answers) {
  return answers.filter((answer) => answer.attempt || answer === answers.find((other) => !other.attempt));
}

// An attempt need not have logged the metric.
function absent(error) {
  if (error.status === 404) return null;
  throw error;
}

function valueText(answer, index) {
  const flag = answer.flags.find((one) => one.index === index);
  return flag ? FLAG_WORDS[flag.value] : number(answer.y[index]);
}

function notFinite(answer, xs, colours) {
  if (!answer.flags.length) return [];
  const at = answer.flags.map((flag) => flag.index);
  return [
    {
      x: at.map((index) => xs[index]),
      y: at.map(() => 0.97),
      yaxis: "y2",
      type: "scatter",
      mode: "markers",
      cliponaxis: false,
      marker: { symbol: "x", size: 7, color: colours.danger },
      text: answer.flags.map((flag) => FLAG_WORDS[flag.value]),
      hovertemplate: "%{text}<extra></extra>",
    },
  ];
}

// Tick spacing of a log axis: plotly's choice, or 1, 2 and 5, or whole decades.
function logTicks(values) {
  const positive = values.filter((value) => value > 0);
  const decades = Math.log10(Math.max(...positive) / Math.min(...positive));
  if (!(decades > 0.7)) return undefined;
  return decades < 3 ? "D2" : Math.ceil(decades / 5);
}
