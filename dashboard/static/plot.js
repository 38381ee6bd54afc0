// Shared by all charts: the style sheet's colours, axes, and times in plotly's form.

// Plotly has no time zones, so it receives local times as if they were UTC.
const SHIFT = new Date().getTimezoneOffset() * 60_000;

export const toAxisTime = (seconds) => seconds * 1000 - SHIFT;
export const fromAxisTime = (text) =>
  (typeof text === "number" ? text : Date.parse(`${text.replace(" ", "T")}Z`) + SHIFT) / 1000;

export const calm = matchMedia("(prefers-reduced-motion: reduce)");
const touch = matchMedia("(pointer: coarse)");

// The style sheet's colours in the current theme.
export function palette() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["ink", "ink-2", "ink-3", "rule", "panel", "accent", "danger", "caution", "clear"];
  const colours = Object.fromEntries(names.map((name) => [name, colour(name)]));
  colours.series = [1, 2, 3, 4, 5, 6].map((index) => colour(`series-${index}`));
  probe.remove();
  return colours;
}

export function withAlpha(colour, alpha) {
  return colour.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => {
    const [r, g, b] = parts.split(/[\s,/]+/);
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  });
}

export function layout(colours, { x, scale, key, right = 10 }) {
  const axis = {
    gridcolor: colours.rule,
    linecolor: colours.rule,
    zerolinecolor: colours.rule,
    tickcolor: colours.rule,
    tickfont: { size: 11, color: colours["ink-3"] },
    automargin: true,
  };
  return {
    uirevision: key,
    autosize: true,
    margin: { l: 40, r: right, t: 8, b: 26 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours["ink-2"] },
    showlegend: false,
    hovermode: "x unified",
    hoverdistance: 16,
    hoverlabel: {
      bgcolor: colours.panel,
      bordercolor: colours.rule,
      font: { size: 12, color: colours.ink },
    },
    dragmode: touch.matches ? false : "zoom",
    xaxis: {
      ...axis,
      type: x === "time" ? "date" : "linear",
      showgrid: false,
      nticks: 6,
      ...(x === "step" && { tickformat: ",~r" }),
      hoverformat: x === "time" ? "%H:%M:%S" : ",d",
      unifiedhovertitle: { text: x === "time" ? "%{x}" : "step %{x}" },
    },
    yaxis: { ...axis, type: scale, fixedrange: true, nticks: 5, exponentformat: "e", minexponent: 5 },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  };
}

export const CONFIG = { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset+autosize" };

// The range a drag has chosen, in steps or unix seconds; null when the whole is shown again.
export function chosenRange(event, x) {
  if (event["xaxis.autorange"]) return null;
  const from = event["xaxis.range[0]"] ?? event["xaxis.range"]?.[0];
  const to = event["xaxis.range[1]"] ?? event["xaxis.range"]?.[1];
  if (from === undefined || to === undefined) return undefined;
  return x === "time" ? [fromAxisTime(from), fromAxisTime(to)] : [from, to];
}

// The index of the value nearest to `wanted`, the last of several: steps may have been counted again.
export function nearest(values, wanted) {
  const distance = (index) => Math.abs(values[index] - wanted);
  return values.reduce((best, _, index) => (distance(index) <= distance(best) ? index : best), 0);
}
