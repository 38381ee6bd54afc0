// The page of alerts: its parts update live.
import { alertActions } from "./alerts.js";
import { tick } from "./format.js";
import { fetchDocument, syncParts } from "./html.js";
import { listen, throttle } from "./live.js";

async function refresh() {
  syncParts(await fetchDocument(location.href));
  tick();
}

alertActions(refresh);
listen(null, throttle(refresh, 1000));
document.documentElement.dataset.ready = "";
