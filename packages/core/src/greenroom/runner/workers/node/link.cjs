// The thread that communicates with the supervisor. Code runs in the main thread and can change every built-in object
// there, but none of those here. This thread reads orders, writes events, prepares cells, describes their errors, and
// handles SIGINT, whatever the main thread does.
"use strict";

const inspector = require("node:inspector");
const net = require("node:net");
const { performance } = require("node:perf_hooks");
const { workerData } = require("node:worker_threads");
process.emitWarning = () => {}; // the next module's warning, about its name
const { Signal } = require("internal/test/binding").internalBinding("signal_wrap");
const { describe, remember } = require("./errors.cjs");
const { rewrite } = require("./rewrite.cjs");

const { descriptor, port, interrupted } = workerData;
const SIGINT = 2;
const MAX_BODY = 64 << 20;
const PATIENCE = 50; // milliseconds for the main thread to react by itself
const RETRY = 100;

const link = new net.Socket({ fd: descriptor, readable: true, writable: true });
let received = Buffer.alloc(0);
let number = 0; // of the last cell
let began = 0;
let running = false;
let isTerminating = false; // until the main thread runs again
let isInspecting = false; // until the inspector has answered
let interruptedAt = ""; // the stack of the code that is terminated
let ending = null; // the end of a cell whose code is being terminated
let waiting = null; // an order that arrived meanwhile

link.on("data", (data) => {
  received = received.length ? Buffer.concat([received, data]) : data;
  while (received.length >= 8) {
    const end = 8 + received.readUInt32BE(0);
    const length = end + received.readUInt32BE(4);
    if (received.length < length) return;
    const header = JSON.parse(received.toString("utf8", 8, end));
    const begin = end + (header.env ?? 0);
    const variables = begin > end ? JSON.parse(received.toString("utf8", end, begin)) : {};
    const body = received.toString("utf8", begin, length);
    received = received.subarray(length);
    if (header.op === "execute") execute({ source: body, variables });
    else if (header.op === "environment") port.postMessage({ environment: JSON.parse(body) });
    else if (header.op === "preload") send({ ev: "preloaded" });
    else throw new Error(`unknown order ${header.op}`);
  }
});
for (const event of ["end", "error", "close"]) {
  link.on(event, () => process.kill(process.pid, "SIGKILL")); // the supervisor is gone, and the sandbox with it
}

function send(header, body = "") {
  const head = Buffer.from(JSON.stringify(header));
  const content = Buffer.from(body);
  const lengths = Buffer.alloc(8);
  lengths.writeUInt32BE(head.length, 0);
  lengths.writeUInt32BE(content.length, 4);
  link.write(Buffer.concat([lengths, head, content]));
}

function execute(order) {
  if (isTerminating) {
    waiting = order;
    return;
  }
  const { source, variables } = order;
  number += 1;
  running = true;
  const name = `Cell ${number}`;
  remember(name, source);
  send({ ev: "began" });
  began = performance.now();
  let cell;
  try {
    cell = rewrite(source, name);
  } catch (error) {
    const { name: kind, message: value, stack } = error;
    const [place] = stack.split("\n    at "); // the frames are this thread's
    return done({ name: kind, value, stack: place, shown: place });
  }
  port.postMessage({ run: { ...cell, variables, name, number } });
}

function done(error) {
  running = false;
  if (error?.isBare && interruptedAt.includes("Cell ")) {
    error.stack = error.shown = `${error.name}: ${error.value}\n${interruptedAt}`;
    error.isBare = false;
  }
  interruptedAt = "";
  const duration = (performance.now() - began) / 1000;
  send({ ev: "done", duration }, JSON.stringify(error && describe(error)));
}

port.on("message", (message) => {
  if (message.output) {
    const { header, body } = message.output;
    const size = Buffer.byteLength(body);
    const note = `<an output of ${size} bytes, too large to show>`;
    send(header, size <= MAX_BODY ? body : JSON.stringify({ data: { "text/plain": note }, metadata: {} }));
  } else if (message.done) {
    if (message.done.number !== number || !running) return;
    if (isInspecting) ending = message.done; // the inspector has not yet reported where the code was
    else done(message.done.error);
  } else if (message.stop) {
    terminate();
  } else if (message.settled) {
    settled();
  } else if (message.ready) {
    send({ ev: "ready" });
  }
});

// Interrupts. A message ends a pending `await`. JavaScript that does not return to its event loop is terminated, which
// none of its `catch` blocks can prevent.

const signal = new Signal();
signal.onsignal = () => {
  if (!running) return;
  Atomics.store(interrupted, 0, number);
  port.postMessage({ interrupt: number });
  setTimeout(insist, PATIENCE, number);
};
signal.start(SIGINT);

function insist(target) {
  if (!running || number !== target) return;
  terminate();
  port.postMessage({ interrupt: target });
  setTimeout(insist, RETRY, target);
}

function terminate() {
  if (isTerminating) return;
  isTerminating = isInspecting = true;
  const session = new inspector.Session();
  session.connectToMainThread();
  session.post("Runtime.evaluate", { expression: "__greenroom.unwind()" }, (error, reply) => {
    if (running && typeof reply?.result.value === "string") interruptedAt = reply.result.value;
  });
  session.post("Runtime.terminateExecution", () => {
    session.disconnect();
    isInspecting = false;
    if (ending?.number === number && running) done(ending.error);
    ending = null;
    settle();
  });
}

/** Wait until the main thread runs again: the termination can hit whatever it does next. */
function settle() {
  if (!isTerminating) return;
  port.postMessage({ settle: true });
  setTimeout(settle, RETRY);
}

function settled() {
  isTerminating = false;
  const order = waiting;
  waiting = null;
  if (order !== null) execute(order);
}
