// The REST API, as far as the pages need it.

async function ask(address, options) {
  const answer = await fetch(address, options);
  const body = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (answer.ok) return body;
  if (answer.status === 401) location.reload(); // to the login: the token has ended
  const error = new Error(body?.detail ?? `${address} answered ${answer.status}`);
  error.status = answer.status;
  throw error;
}

function json(method, body) {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

export class RunApi {
  constructor(run) {
    this.root = `/api/runs/${encodeURIComponent(run)}`;
  }

  run() {
    return ask(this.root);
  }

  metrics() {
    return ask(`${this.root}/metrics`);
  }

  points(name, query) {
    return ask(`${this.root}/metrics/${encodeURIComponent(name)}?${new URLSearchParams(query)}`);
  }

  timing(query) {
    return ask(`${this.root}/timing?${new URLSearchParams(query)}`);
  }

  checkpoints() {
    return ask(`${this.root}/checkpoints`);
  }

  evaluations() {
    return ask(`${this.root}/events?kinds=evaluate&limit=1000`);
  }

  commands(query) {
    return ask(`${this.root}/commands?${new URLSearchParams(query)}`);
  }

  command(wanted) {
    return ask(`${this.root}/commands`, json("POST", wanted));
  }

  change(fields) {
    return ask(this.root, json("PATCH", fields));
  }

  remove() {
    this.isGoing = true; // nothing of it is to be asked for meanwhile
    return ask(this.root, { method: "DELETE" }).catch((error) => {
      this.isGoing = false;
      throw error;
    });
  }
}
