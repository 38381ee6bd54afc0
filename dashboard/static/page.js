// Every page: update times, switch the theme, and reload once the store can be read again.
import { tick } from "./format.js";
import { fetchDocument, syncParts } from "./html.js";
import { siteRoot } from "./site.js";

document.documentElement.classList.add("js");
tick();
setInterval(tick, 1000);

const systemDark = matchMedia("(prefers-color-scheme: dark)");

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function themeChanged() {
  document.dispatchEvent(new CustomEvent("themechange"));
}

systemDark.addEventListener("change", themeChanged);
document.getElementById("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("lineside-theme", theme);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as this page.
  }
  themeChanged();
});

const content = document.getElementById("content");
if (content.dataset.retry === "true") {
  setInterval(async () => {
    const answer = await fetch(location.href).catch(() => null);
    if (answer?.ok) location.reload();
  }, 2000);
}

// Shows how far the recorder is behind. No change of a run would: they come from the recorder.
const LAG_MILLISECONDS = 5000;
const lagNotice = document.getElementById("recorder-lag");

async function showLag() {
  if (document.hidden) return;
  const answer = await fetch(`${siteRoot}api/recorder`).catch(() => null);
  const lag = answer?.ok ? await answer.json() : null;
  const text = lag && !lag.keeps_up ? lag.detail : "";
  if (lagNotice.textContent !== text) lagNotice.textContent = text; // a status is read aloud
  lagNotice.hidden = !text;
}

// Shows the number of open alerts, also on the page of a run that does not change.
async function showAlerts() {
  if (!document.hidden) await fetchDocument(`${siteRoot}alerts/count`).then(syncParts, () => null);
}

if (lagNotice) {
  showLag();
  setInterval(showLag, LAG_MILLISECONDS);
  setInterval(showAlerts, LAG_MILLISECONDS);
  document.addEventListener("visibilitychange", showLag);
  document.addEventListener("visibilitychange", showAlerts);
}
