// One metric's chart: curves of the attempts shown, zoom, and the value under the cursor.
import { Curve } from "./curve.js";
import { number, quantity, unitOf } from "./format.js";
import { CONFIG, chosenRange, layout, nearest, toAxisTime, withAlpha } from "./plot.js";

export const STITCHED = "stitched";
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
    this.curves = [];
    this.visible = false;
    this.stale = true;
    this.turn = 0;
  }

  // A machine's metrics are drawn over time, the others as the page's option says.
  get x() {
    return this.figure.dataset.axis ?? this.board.view.x;
  }

  // Fetches and draws if the chart is visible; otherwise once it is.
  async refresh() {
    this.stale = true;
    if (!this.visible) return;
    this.stale = false;
    const turn = ++this.turn;
    const { x, board } = this;
    const { attempts, smoothing } = board.view;
    const query = { x, producer: this.producer, points: Math.max(200, Math.round(this.plot.clientWidth * 1.5)) };
    if (this.range) [query.start, query.end] = this.range;
    if (smoothing) query.overview = true;
    const fetched = attempts.map((selected) => {
      const attempt = selected === STITCHED ? "all" : selected; // with superseded points, to draw them faint
      return this.board.api.points(this.name, { ...query, attempt }).catch(absent);
    });
    try {
      const answers = await Promise.all(fetched);
      if (turn !== this.turn) return;
      this.curves = distinct(answers.filter(Boolean)).map((answer) => new Curve(answer));
      this.draw();
    } catch (error) {
      if (turn === this.turn) this.showText(error.message);
    }
  }

  // Draws the curves fetched last: smoothing, axis and theme need no new ones.
  draw() {
    const { Plotly } = window;
    const { x } = this;
    const { scale, attempts } = this.board.view;
    this.showText(this.emptyText(scale));
    if (!this.curves.length && this.plot.data === undefined) return;
    const shape = layout(this.board.colours, { x, scale, key: `${x}-${attempts}` });
    if (unitOf(this.name)) Object.assign(shape.yaxis, { tickformat: "~s", ...(this.highest() <= 1 && { dtick: 1 }) });
    if (scale === "log") shape.yaxis.dtick = logTicks(this.curves.flatMap((curve) => curve.kept.y));
    if (this.range) shape.xaxis.range = x === "time" ? this.range.map(toAxisTime) : [...this.range];
    shape.xaxis.autorange = !this.range;
    shape.yaxis.autorangeoptions = this.limits(scale);
    const first = this.plot.data === undefined;
    Plotly.react(this.plot, this.traces(), shape, CONFIG);
    if (first) this.listen();
    this.showLast();
  }

  highest() {
    return Math.max(0, ...this.curves.map((curve) => curve.extent()?.[1] ?? 0));
  }

  // How far the vertical axis may reach. Plotly would give a constant value a room of 1 on each side, and
  // superseded values, as those of a training that diverged, all that they need.
  limits(scale) {
    const extents = this.curves.map((curve) => curve.extent(scale === "log" ? 0 : undefined)).filter(Boolean);
    if (!extents.length) return undefined;
    const low = Math.min(...extents.map(([value]) => value));
    const high = Math.max(...extents.map(([, value]) => value));
    if (scale === "log") return { clipmin: low / 2, clipmax: high * 2 };
    const room = (high - low) / 4 || Math.abs(high) / 4 || 1;
    return { clipmin: low - room, clipmax: high + room };
  }

  traces() {
    const { colours } = this.board;
    return this.curves.flatMap((curve) => this.tracesOf(curve, colours)).concat(this.board.marks.traces(this.board, this.x));
  }

  tracesOf(curve, colours) {
    const { x } = this;
    const { scale, smoothing } = this.board.view;
    const place = (xs) => (x === "time" ? xs.map((at) => at && toAxisTime(at)) : xs);
    const colour = this.board.colourOf(curve.attempt);
    const label = this.curves.length > 1 && curve.attempt ? `attempt ${this.board.numberOf(curve.attempt)} ` : "";
    const isSmoothed = Boolean(smoothing && curve.overview?.end.length);
    const trace = (line, more) => ({ x: place(line.x), y: line.y, type: "scatter", mode: "lines", connectgaps: false, ...more });
    const quiet = { hoverinfo: "skip" };
    const [digits, fewer] = unitOf(this.name) ? [".4~s", ".3~s"] : [".5~g", ".4~g"];
    const { kept, blocks } = curve;
    const traces = [];
    const line = { color: isSmoothed ? withAlpha(colour, 0.28) : colour, width: isSmoothed ? 1 : 1.6 };
    if (blocks) {
      const customdata = blocks.low.map((low, index) => [low, blocks.high[index]]);
      const hovertemplate = `${label}%{y:${digits}} (%{customdata[0]:${fewer}} to %{customdata[1]:${fewer}})<extra></extra>`;
      traces.push(trace(curve.means(), { line, ...(isSmoothed ? quiet : { customdata, hovertemplate }) }));
    } else {
      const mode = kept.y.length < 3 ? "lines+markers" : "lines";
      const hover = isSmoothed ? quiet : { hovertemplate: `${label}%{y:${digits}}<extra></extra>` };
      traces.push(trace(kept, { line, mode, marker: { color: colour, size: 6 }, ...hover }));
    }
    if (isSmoothed) {
      const hovertemplate = `${label}smoothed %{y:${fewer}}<extra></extra>`;
      traces.push(trace(curve.smoothed(smoothing, this.range), { line: { color: colour, width: 1.8 }, hovertemplate }));
    }
    if (blocks) {
      const floor = scale === "log" ? curve.extent(0)?.[0] : undefined;
      const edge = { color: withAlpha(colour, 0.3), width: 0.7 };
      traces.push(trace(curve.band(floor), { fill: "toself", fillcolor: withAlpha(colour, 0.18), line: edge, ...quiet }));
    }
    for (const part of curve.superseded)
      traces.push(trace(part, { line: { color: withAlpha(colour, 0.3), width: 1.2 }, hovertemplate: `superseded %{y:${digits}}<extra></extra>` }));
    return traces.concat(notFinite([kept, ...curve.superseded], place, colours));
  }

  emptyText(scale) {
    const values = this.curves.flatMap((curve) => [curve.kept, ...curve.superseded].flatMap((part) => part.y));
    const finite = values.filter((value) => value !== null);
    if (!this.curves.length) return "Not logged in the attempts shown.";
    if (!finite.length) return values.length ? "Only NaN and infinities." : "";
    return scale === "log" && finite.every((value) => value <= 0) ? "Nothing above zero for a log axis." : "";
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
      const range = chosenRange(event, this.x);
      if (range === undefined || String(range) === String(this.range)) return;
      this.range = range;
      this.refresh();
    });
    this.plot.on("plotly_hover", (event) => this.board.hover(event.points[0].x, this));
    this.plot.on("plotly_unhover", () => this.board.hover(null, this));
  }

  // Draws a line at `at`, the cursor's x in plotly's terms, and shows the value there.
  showAt(at, from) {
    const { x } = this;
    const axis = this.plot._fullLayout?.xaxis;
    const curve = this.curves.at(-1);
    if (at === null || from.x !== x || !axis || !curve || curve.isEmpty) return this.showLast();
    const place = axis.d2p(at);
    this.rule ??= this.plot.appendChild(Object.assign(document.createElement("div"), { className: "cursor" }));
    this.rule.hidden = from === this || place < 0 || place > axis._length;
    this.rule.style.left = `${axis._offset + place}px`;
    const wanted = x === "time" ? axis.d2c(at) : Number(at);
    const inAxis = (xs) => (x === "time" ? xs.map(toAxisTime) : xs);
    if (curve.blocks) {
      const { start, end, mean } = curve.blocks.means;
      const index = nearest(inAxis(curve.means().x), wanted);
      const steps = x === "step" ? `steps ${number(start[index])} to ${number(end[index])} · ` : "";
      this.value.textContent = `${steps}mean ${quantity(mean[index], this.name)}`;
      return;
    }
    const index = nearest(inAxis(curve.main.x), wanted);
    this.value.textContent = `step ${number(curve.main.step[index])} · ${valueText(curve.main, index, this.name)}`;
  }

  // Shows the last value, or how to leave the zoom.
  showLast() {
    if (this.rule) this.rule.hidden = true;
    const curve = this.curves.at(-1);
    const last = !curve || curve.isEmpty ? "" : valueText(curve.main, curve.main.y.length - 1, this.name);
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

function valueText(points, index, name) {
  const word = points.words[index];
  return word ? FLAG_WORDS[word] : quantity(points.y[index], name);
}

function notFinite(parts, place, colours) {
  const at = parts.flatMap(({ x, words }) => x.map((where, index) => ({ where, word: words[index] }))).filter(({ word }) => word);
  if (!at.length) return [];
  return [
    {
      x: place(at.map(({ where }) => where)),
      y: at.map(() => 0.97),
      yaxis: "y2",
      type: "scatter",
      mode: "markers",
      cliponaxis: false,
      marker: { symbol: "x", size: 7, color: colours.danger },
      text: at.map(({ word }) => FLAG_WORDS[word]),
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
