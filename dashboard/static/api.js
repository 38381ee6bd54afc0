// The part of the REST API that the pages use.
import { siteRoot } from "./site.js";

async function request(address, options) {
  const response = await fetch(address, options);
  const body = response.status === 204 ? null : await response.json().catch(() => null);
  if (response.ok) return body;
  if (response.status === 401) location.reload(); // leads to the login: the token was revoked
  const error = new Error(body?.detail ?? `${address} answered ${response.status}`);
  error.status = response.status;
  throw error;
}

function json(method, body) {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

export class AlertApi {
  constructor() {
    this.root = `${siteRoot}api/alerts`;
  }

  acknowledge(id) {
    return request(`${this.root}/${encodeURIComponent(id)}/acknowledge`, json("POST", {}));
  }

  mute(wanted) {
    return request(`${this.root}/mutes`, json("POST", wanted));
  }

  unmute(id) {
    return request(`${this.root}/mutes/${encodeURIComponent(id)}/unmute`, json("POST", {}));
  }
}

export class RunApi {
  constructor(run) {
    this.root = `${siteRoot}api/runs/${encodeURIComponent(run)}`;
  }

  run() {
    return request(this.root);
  }

  // Of all attempts: that tells which metrics have new points.
  metrics() {
    return request(`${this.root}/metrics?attempt=all`);
  }

  points(name, query) {
    return request(`${this.root}/metrics/${encodeURIComponent(name)}?${new URLSearchParams(query)}`);
  }

  timing(query) {
    return request(`${this.root}/timing?${new URLSearchParams(query)}`);
  }

  checkpoints() {
    return request(`${this.root}/checkpoints`);
  }

  checkpointRequest(id, op) {
    return request(`${this.root}/checkpoints/${encodeURIComponent(id)}/${op}`, json("POST", {}));
  }

  evaluations() {
    return request(`${this.root}/events?kinds=evaluate&limit=1000`);
  }

  commands(query) {
    return request(`${this.root}/commands?${new URLSearchParams(query)}`);
  }

  command(wanted) {
    return request(`${this.root}/commands`, json("POST", wanted));
  }

  change(fields) {
    return request(this.root, json("PATCH", fields));
  }

  remove() {
    this.isDeleting = true; // the page requests nothing about the run meanwhile
    return request(this.root, { method: "DELETE" }).catch((error) => {
      this.isDeleting = false;
      throw error;
    });
  }
}
