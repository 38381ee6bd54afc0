// The page of one run: charts, step times, timeline, and their live updates.
import { alertActions } from "./alerts.js";
import { RunApi } from "./api.js";
import { STITCHED } from "./chart.js";
import { ChartBoard } from "./chart_board.js";
import { checkpointActions } from "./checkpoints.js";
import { Control } from "./control.js";
import { syncFields, dialogs } from "./dialogs.js";
import { tick } from "./format.js";
import { syncParts, fetchDocument } from "./html.js";
import { listen, throttle } from "./live.js";
import { siteRoot } from "./site.js";
import { Timeline } from "./timeline.js";
import { Timing } from "./timing.js";

const content = document.getElementById("content");
const { run } = content.dataset;
const api = new RunApi(run);
const groups = document.getElementById("groups");

async function start() {
  let refresh = async () => location.reload();
  dialogs(api, () => refresh());
  const control = new Control(api, () => refresh());
  alertActions(() => refresh());
  checkpointActions(api, () => refresh());
  if (!window.Plotly) {
    for (const plot of document.querySelectorAll(".plot")) plot.textContent = "plotly.js could not be loaded.";
    return;
  }
  const { attempts } = await api.run();
  const board = new ChartBoard(api, attempts, groups);
  const timing = new Timing(board, document.getElementById("steps-plot"), document.getElementById("steps-summary"));
  const timeline = new Timeline(run, document.getElementById("timeline"));
  controls(board, timing);
  loadMarks(board, timing);
  refresh = async () => {
    if (api.isDeleting) return;
    await update(board, timing, timeline);
    control.watch();
  };
  const soon = throttle(refresh, 1000);
  listen(run, (change) => (change?.deleted.includes(run) ? location.assign(siteRoot) : soon()));
  document.documentElement.dataset.ready = "";
}

async function loadMarks(board, timing) {
  const wanted = [api.run(), api.checkpoints(), api.evaluations(), api.commands({ limit: 500 })];
  const [{ attempts }, checkpoints, evaluations, commands] = await Promise.all(wanted);
  board.attempts = attempts; // a later attempt may supersede more of them
  board.marks.checkpoints = checkpoints.items;
  board.marks.evaluations = evaluations.items;
  board.marks.commands = commands.items.filter((command) => command.state === "applied");
  board.redraw();
  timing.redraw();
}

// Updates changed parts of the page, charts whose metric has new points, and the timeline.
async function update(board, timing, timeline) {
  const query = new URLSearchParams({ seen: document.getElementById("checkpoints").dataset.digest });
  if (new URLSearchParams(location.search).get("checkpoints") === "all") query.set("checkpoints", "all");
  const [next, metrics] = await Promise.all([fetchDocument(`${siteRoot}parts/${encodeURIComponent(run)}?${query}`), api.metrics()]);
  if (next.body.dataset.attempts !== content.dataset.attempts) return location.reload();
  syncParts(next);
  syncFields(next);
  addCharts(next, board);
  tick();
  await Promise.all([board.grow(metrics.items), timing.refresh(), timeline.newer()]);
  const { marks } = next.body.dataset;
  if (marks !== content.dataset.marks) await loadMarks(board, timing);
  content.dataset.marks = marks;
}

// Adds charts of new metrics; existing charts stay as drawn.
function addCharts(next, board) {
  const fresh = next.getElementById("groups");
  document.querySelector("#groups > .empty")?.remove();
  for (const group of fresh.querySelectorAll("details")) {
    const known = groups.querySelector(`details[data-group="${CSS.escape(group.dataset.group)}"]`);
    if (!known) {
      groups.append(group);
    } else if (!group.querySelector("figure")) {
      if (known.innerHTML !== group.innerHTML) known.innerHTML = group.innerHTML;
    } else {
      for (const figure of group.querySelectorAll("figure[data-metric]"))
        if (!board.chartOf(figure)) known.querySelector(".grid").append(figure);
    }
  }
  board.addCharts();
}

function controls(board, timing) {
  const { view } = board;
  const press = (button, on) => button.setAttribute("aria-pressed", on);
  for (const button of document.querySelectorAll("[data-option]")) {
    const { option, value } = button.dataset;
    press(button, view[option] === value);
    button.addEventListener("click", () => {
      for (const other of button.parentElement.children) press(other, other === button);
      board.change(option, value);
    });
  }

  const slider = document.getElementById("smoothing");
  const output = document.getElementById("smoothing-value");
  const show = () => (output.textContent = Number(slider.value) ? Number(slider.value).toFixed(2) : "off");
  slider.value = view.smoothing;
  show();
  slider.addEventListener("input", () => {
    show();
    cancelAnimationFrame(slider.frame);
    slider.frame = requestAnimationFrame(() => board.change("smoothing", Number(slider.value)));
  });

  const marks = document.getElementById("marks");
  press(marks, view.marks);
  marks.addEventListener("click", () => {
    board.change("marks", !view.marks);
    timing.redraw();
    press(marks, view.marks);
  });

  const chips = [...document.querySelectorAll("#attempts [data-attempt]")];
  const colour = () => chips.forEach((chip) => (chip.querySelector(".swatch").style.background = board.colourOf(chip.dataset.attempt)));
  colour();
  document.addEventListener("themechange", colour);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const others = chips.filter((other) => other !== chip && other.getAttribute("aria-pressed") === "true");
      let chosen = others.filter((other) => other.dataset.attempt !== STITCHED);
      if (chip.getAttribute("aria-pressed") !== "true") chosen = chip.dataset.attempt === STITCHED ? [chip] : chips.filter((other) => other === chip || chosen.includes(other));
      if (!chosen.length) chosen = [chips[0]];
      for (const other of chips) press(other, chosen.includes(other));
      board.change("attempts", chosen.map((other) => other.dataset.attempt));
      timing.refresh();
    });
  }

  finder("find-metric", () => groups.querySelectorAll("[data-metric], [data-single]"), (item) => item.dataset.metric ?? item.dataset.single);
  finder("find-setting", () => document.querySelectorAll("[data-setting]"), (item) => item.dataset.setting);
}

function finder(id, items, nameOf) {
  const field = document.getElementById(id);
  const find = () => {
    const wanted = field.value.trim().toLowerCase();
    for (const item of items()) item.hidden = !nameOf(item).toLowerCase().includes(wanted);
    for (const group of document.querySelectorAll(".group, .settings-group")) {
      const inside = [...group.querySelectorAll("[data-metric], [data-single], [data-setting]")];
      group.hidden = inside.length > 0 && inside.every((item) => item.hidden);
    }
    const none = document.getElementById("no-setting");
    if (none && id === "find-setting") none.hidden = [...items()].some((item) => !item.hidden);
  };
  field?.addEventListener("input", find);
  if (field?.value) find(); // typed before this script was loaded
}

start();
