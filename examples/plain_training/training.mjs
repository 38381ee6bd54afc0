// A training that is shown as a run and obeys commands. Written from bus/PROTOCOL.md alone.
//
//     npm ci
//     node training.mjs ipc:///home/me/.local/state/lineside/bus.sock my-run [STEPS]

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const BIG = { useBigInt64: true };
const BATCH = 64;
const OPS = ["stop", "save", "evaluate", "log", "pause", "resume", "set_lr"];
const now = () => Date.now() / 1000;
const u64 = (value) => { const frame = Buffer.alloc(8); frame.writeBigUInt64LE(BigInt(value)); return frame; };
const int = (frame) => Number(frame.readBigUInt64LE());

const CRC = Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte >>> 0;
});
const crc32 = (data) => ~data.reduce((crc, byte) => CRC[(crc ^ byte) & 255] ^ (crc >>> 8), ~0) >>> 0;

function* bodies(blob) {
  for (let at = 0; at + 8 <= blob.length; ) {
    const end = at + 8 + blob.readUInt32LE(at);
    yield blob.subarray(at + 8, end);
    at = end;
  }
}

// Events from seq `first` on are kept; those before `acked` are on disk, those before `sent` on their way.
class Stream {
  isOpen = false; isGreeted = false; resumeAt = 0;
  first = 0; acked = 0; sent = 0; next = 0; records = [];

  constructor(name) { this.name = name; }

  publish(kind, step, data = null) {
    const fields = [1, this.next++, now(), process.hrtime.bigint(), kind, step, null, 0, data];
    const body = encode(fields, BIG), header = Buffer.alloc(8);
    header.writeUInt32LE(body.length, 0);
    header.writeUInt32LE(crc32(body), 4);
    this.records.push(Buffer.concat([header, body]));
  }

  take(next, status) {
    if (status === "hole" && next < this.acked) return; // stale
    if (!this.isOpen || status !== "ok") this.sent = next;
    if (status !== "ok") this.resumeAt = now() + (status === "full" ? 1 : 0.1);
    this.isOpen = true;
    this.acked = next;
    this.sent = Math.max(this.sent, next);
    this.records.splice(0, next - this.first); // nothing if the journal is new and has less
    this.first = Math.max(this.first, next);
  }

  frames() {
    if (!this.isGreeted) { this.isGreeted = true; return ["HI", this.name, encode({})]; }
    if (!this.isOpen || now() < this.resumeAt || this.sent - this.acked >= 64 * BATCH) return null;
    const begin = this.sent;
    if (begin < this.first) {
      this.sent = this.first;
      return ["GAP", this.name, u64(begin), u64(this.first), u64(0)];
    }
    const batch = this.records.slice(begin - this.first, begin - this.first + BATCH);
    if (!batch.length) return null;
    this.sent += batch.length;
    return ["PUT", this.name, u64(begin), u64(batch.length), Buffer.concat(batch)];
  }
}

class Client {
  isSubscribed = false; isAsked = false; offset = 0; credit = 0; curAt = 0; heardAt = now(); isClosing = false;

  constructor(address, streams, pattern, onEvent) {
    Object.assign(this, { address, streams, pattern, onEvent });
    this.connect();
  }

  connect() {
    this.socket?.close();
    this.socket = new Dealer({ linger: 0, immediate: true, reconnectInterval: 100, reconnectMaxInterval: 5000,
      heartbeatInterval: 5000, heartbeatTimeout: 15000, heartbeatTimeToLive: 15000, maxMessageSize: 16 << 20,
      receiveHighWaterMark: 0 });
    this.socket.connect(this.address);
    for (const stream of this.streams) stream.isOpen = stream.isGreeted = false;
    this.isSubscribed = this.isAsked = false;
    this.heardAt = now();
    this.receive(this.socket);
  }

  async receive(socket) {
    for await (const [verb, ...frames] of socket) {
      this.heardAt = now();
      this.handle(verb.toString(), frames);
    }
  }

  handle(verb, frames) {
    const streamOf = (frame) => this.streams.find((stream) => stream.name === frame.toString());
    if (verb === "WHO") {
      const stream = streamOf(frames[0]);
      if (stream) stream.isOpen = stream.isGreeted = false; else this.isSubscribed = this.isAsked = false;
    } else if (verb === "ACK") {
      const [key, next, status, text] = [frames[0], int(frames[1]), frames[2].toString(), frames[4].toString()];
      if (status === "denied" || status === "invalid") { console.error(`refused: ${text}`); process.exit(1); }
      if (key.length) streamOf(key)?.take(next, status);
      else if (text) [this.isSubscribed, this.offset, this.credit] = [true, next, 0];
    } else if (verb === "GAP" && this.isSubscribed) {
      [this.offset, this.credit] = [int(frames[3]), this.credit + 1];
    } else if (verb === "EVT" && this.isSubscribed) {
      for (const body of bodies(frames[4])) this.onEvent(body);
      [this.offset, this.credit] = [int(frames[0]), this.credit + 1];
    }
  }

  *outgoing() {
    if (!this.isAsked) {
      this.isAsked = true;
      yield ["SUB", "", "live", u64(this.offset), encode([this.pattern]), u64(64)];
    } else if (now() - this.curAt >= 1 || this.credit >= 32) {
      const credit = this.credit;
      [this.curAt, this.credit] = [now(), 0];
      yield ["CUR", u64(this.offset), u64(credit)];
    }
    for (const stream of this.streams) for (let frames; (frames = stream.frames()); ) yield frames;
  }

  async run() {
    while (!this.isClosing || this.streams.some((stream) => stream.records.length)) {
      if (now() - this.heardAt > 5) this.connect(); // each CUR has an answer
      for (const frames of this.outgoing()) await Promise.race([this.socket.send(frames).catch(() => {}), sleep(5000)]);
      await sleep(20);
    }
    this.socket.close();
  }
}

const [address, run, steps = "200"] = process.argv.slice(2);
const attempt = new Date().toISOString().replace(/[-:Z]/g, "") + "-" + randomBytes(2).toString("hex");
const training = new Stream(`${run}/rank0/${attempt}`), control = new Stream(`${run}/control/${attempt}`);
const seen = new Set(), commands = [];
const client = new Client(address, [training, control], `${run}/control`, (body) => {
  let kind, data;
  try { [, , , , kind, , , , data] = decode(body, BIG); } catch { return; } // unreadable: it cannot be answered
  if (kind !== "command" || !data?.id || seen.has(data.id)) return;
  seen.add(data.id);
  commands.push(data);
});
const running = client.run();

let step = 0, lr = 0.001, pausedUntil = 0, saidAt = 0, isStopping = false;
const loss = () => 3 * Math.exp(-step / 50) + 0.1 * Math.random();
const positive = (value) => {
  const number = Number(value);
  if (number > 0 && Number.isFinite(number)) return number;
  throw new Error(`expected a number above 0, got ${value}`);
};
const actions = {
  save: () => training.publish("save", step, { checkpoint: `/tmp/${run}/checkpoint-${step}` }),
  evaluate: () => training.publish("evaluate", step, { metrics: { eval_loss: loss() } }),
  log: () => training.publish("log", step, { logs: { loss: loss(), learning_rate: lr } }),
  pause: ({ seconds = 86400 }) => { pausedUntil = now() + positive(seconds); },
  resume: () => { pausedUntil = 0; },
  set_lr: (args) => { const from = lr; lr = positive(args.lr); return { from, to: lr }; },
  stop: (args, { issued_by, reason }) => {
    if (args.save !== false) actions.save();
    isStopping = true;
    pausedUntil = 0;
    return { issued_by, reason };
  },
};

function obey() {
  for (const command of commands.splice(0)) {
    const answer = (kind, more = {}) => control.publish(kind, step, { id: command.id, op: command.op, ...more });
    answer("control_delivered");
    if (Number(command.expires_at) < now()) {
      answer("control_expired");
      continue;
    }
    try {
      if (command.attempt && command.attempt !== attempt) throw new Error(`it was meant for ${command.attempt}`);
      if (!OPS.includes(command.op)) throw new Error(`unknown op ${command.op}`);
      answer("control_applied", actions[command.op](command.args ?? {}, command));
    } catch (error) {
      answer("control_rejected", { why: error.message });
    }
  }
}

training.publish("run_start", 0, { name: run, project: "plain", config: { language: "JavaScript", lr } });
training.publish("train_begin", 0, { state: { max_steps: Number(steps) } });
control.publish("control_on", 0, { ops: OPS, why: null });
while (step < Number(steps) && !isStopping) {
  training.publish("step_begin", step);
  await sleep(50);
  training.publish("step_end", ++step);
  if (step % 5 === 0) actions.log();
  for (obey(); now() < pausedUntil; obey()) {
    if (now() - saidAt > 5) {
      training.publish("log", step, { logs: {} }); // else the run is shown as disconnected
      saidAt = now();
    }
    await sleep(50);
  }
}
training.publish("train_end", step);
training.publish("run_end", step, { how: "exit" });
client.isClosing = true;
await running;
console.log(`${run}: ${training.acked} events, all acknowledged`);
process.exit(0);
