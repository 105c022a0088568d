// The worker of NodeLTS sessions. This thread runs the code, which can change every built-in object here: everything
// needed after code has run is saved before. `link.cjs`, in a separate thread, does all the rest.
"use strict";

const fs = require("node:fs");
const Module = require("node:module");
const path = require("node:path");
const { Writable } = require("node:stream");
const { inspect, types } = require("node:util");
const vm = require("node:vm");
const { MessageChannel, MessagePort, Worker } = require("node:worker_threads");
const { clearAsyncIdStack } = require("internal/async_hooks");
const { makeDisplays } = require("./display.cjs");
const variables = require("./variables.cjs");

const { process, console } = globalThis; // code may declare these names
const [LINK, ACKS] = [3, 4];
const DATA = "/mnt/data";
const MAX_TEXT = 200_000; // characters of each text of an error
const MAX_ERRORS = 20; // the most of a chain and its groups

const { apply } = Reflect;
const { isPromise } = types;
const { readSync, writeSync, fstatSync, openSync, closeSync } = fs;
const { Script, constants } = vm;
const { runInThisContext } = Script.prototype;
const { getOwnPropertyDescriptor, defineProperty, hasOwn } = Object;
const NativePromise = Promise;
const { load } = Atomics;
const isArray = Array.isArray;
const stringify = JSON.stringify;
const toText = String;
const NativeError = Error;
const later = setImmediate;
const reallyExit = process.reallyExit.bind(process);
const listenerCount = process.listenerCount;
const emit = process.emit;

const { port1: port, port2 } = new MessageChannel();
const post = MessagePort.prototype.postMessage.bind(port);
const interrupted = new Int32Array(new SharedArrayBuffer(4)); // the number of the last cell that was interrupted

let current = null; // the running cell

// Outputs. A termination can come between any two calls, so the byte that acknowledges an output may still be unread.

const ack = Buffer.alloc(1);
let unread = 0;

function show(header, body) {
  settleOutputs();
  post({ output: { header, body } });
  unread += 1;
  settleOutputs();
}

function settleOutputs() {
  while (unread > 0) {
    let size = 0;
    try {
      size = readSync(ACKS, ack, 0, 1, null);
    } catch {} // the code has closed it
    if (size !== 1) reallyExit(1);
    unread -= 1;
  }
}

// Text. Node's own streams keep what a pipe does not accept immediately; these wait, so that nothing overtakes it.

const pause = new Int32Array(new SharedArrayBuffer(4));
const { wait } = Atomics;

function writeAll(descriptor, data) {
  for (let offset = 0; offset < data.length; ) {
    try {
      offset += writeSync(descriptor, data, offset, data.length - offset);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error; // a child process has made the pipe non-blocking
      wait(pause, 0, 0, 1);
    }
  }
}

const originals = [null, ...[1, 2].map((number) => openSync(`/proc/self/fd/${number}`, "a"))];

class Text extends Writable {
  constructor(number) {
    super({ decodeStrings: true });
    this.fd = number;
    this._type = "pipe";
    this._isStdio = true;
  }

  _write(chunk, encoding, callback) {
    try {
      writeAll(originals[this.fd], chunk);
      callback();
    } catch (error) {
      callback(error);
    }
  }

  _destroy(error, callback) {
    callback(error);
  }
}

const names = { 1: "stdout", 2: "stderr" };

function restoreStreams() {
  for (let number = 1; number <= 2; number++) {
    let isOpen = true;
    try {
      fstatSync(number);
    } catch {
      isOpen = false;
    }
    if (!isOpen) {
      const opened = openSync(`/proc/self/fd/${originals[number]}`, "a"); // takes the lowest free number
      if (opened !== number) closeSync(opened);
    }
    try {
      const stream = process[names[number]];
      if (typeof stream?.write === "function" && !stream.writableEnded && !stream.destroyed) continue;
    } catch {}
    try {
      defineStream(number);
    } catch {} // the code has made it so that nothing can
  }
}

function defineStream(number) {
  const name = names[number];
  const value = new Text(number);
  defineProperty(process, name, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
  console[`_${name}`] = value;
}

// Cells

class Cell {
  // Own properties, whatever code has done to the prototype of all objects.
  number;
  variablesBefore;
  isAsync = false; // if true, the cell ends when its code says so, through the functions of `$$`
  hasResult = false;
  isOver = false;

  constructor(number, environment) {
    this.number = number;
    this.variablesBefore = variables.change(environment);
  }

  /** Show the value of the code, and end. A promise is awaited, so that its work is part of this execution. */
  conclude(value) {
    if (isPromise(value)) {
      wait_for(this, value);
      return;
    }
    this.showAndEnd(value);
  }

  showAndEnd(value) {
    if (this.isOver || this.isAsync) return;
    if (value !== undefined && !this.hasResult) {
      try {
        displays.showResult(value);
      } catch (error) {
        this.fail(error);
        return;
      }
    }
    this.end();
  }

  /** End after everything that is due now: rejections that nothing handles belong to this cell. */
  end() {
    later(() => finish(this, null)); // Node would spread further arguments with the iterator of arrays
  }

  fail(error) {
    if (!this.isOver) finish(this, read(error, { left: MAX_ERRORS }));
  }
}

function finish(cell, error) {
  if (cell.isOver) return;
  cell.isOver = true;
  if (current === cell) current = null;
  variables.change(cell.variablesBefore);
  settleOutputs();
  post({ done: { number: cell.number, error } });
}

async function wait_for(cell, promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    cell.fail(error);
    return;
  }
  cell.showAndEnd(value === undefined ? undefined : promise);
}

async function follow(cell, promise) {
  let box;
  try {
    defineProperty(promise, "constructor", { __proto__: null, value: NativePromise }); // `await` reads it
    box = await promise;
  } catch (error) {
    cell.fail(error);
    return;
  }
  cell.conclude(box?.value);
}

function run({ scripts, names: declared, asynchronous, variables: environment, name, number }) {
  const cell = new Cell(number, environment);
  current = cell;
  if (load(interrupted, 0) >= number) {
    interrupt(number);
    return;
  }
  let value;
  try {
    restoreStreams();
    displays.begin(cell);
    for (let index = 0; index < declared.length; index++) declare(declared[index]);
    for (let index = 0; index < scripts.length; index++) {
      const options = { __proto__: null, filename: name, importModuleDynamically: importForCell };
      const script = new Script(scripts[index], options);
      value = apply(runInThisContext, script, [{ __proto__: null, displayErrors: false }]);
    }
  } catch (error) {
    cell.fail(error);
    return;
  }
  if (asynchronous) follow(cell, value);
  else cell.conclude(value);
}

function importForCell(specifier, script, attributes) {
  return importModule(specifier, { __proto__: null, with: attributes });
}

/** Make a name assignable, as a declaration does, whatever the global object had under it. */
function declare(name) {
  const property = getOwnPropertyDescriptor(globalThis, name);
  if (property !== undefined && ((hasOwn(property, "writable") && property.writable) || !property.configurable)) return;
  const variable = { __proto__: null, value: undefined, writable: true, enumerable: true, configurable: true };
  defineProperty(globalThis, name, variable);
}

function interrupt(number) {
  if (current?.number !== number) return;
  const value = "The code was interrupted.";
  finish(current, { name: "Interrupted", value, stack: "", shown: "", isBare: true });
}

port.on("message", (message) => {
  if (hasOwn(message, "run")) run(message.run);
  else if (hasOwn(message, "interrupt")) interrupt(message.interrupt);
  else if (hasOwn(message, "environment")) variables.setForSession(message.environment);
  else if (hasOwn(message, "settle")) post({ settled: true });
});

// Errors, which can be any value, and whose properties can have any side effect

function read(error, limit) {
  limit.left -= 1;
  const isObject = (typeof error === "object" && error !== null) || typeof error === "function";
  const property = (name) => {
    try {
      return isObject ? error[name] : undefined;
    } catch {
      return undefined;
    }
  };
  const stack = property("stack");
  const result = {
    name: text(property("name") || typeof error),
    value: text(property("message") || shown(error)),
    stack: typeof stack === "string" ? text(stack) : null,
    shown: shown(error),
    cause: null,
    errors: [],
    omitted: 0,
  };
  if (result.stack !== null && property("message") === "") result.value = "";
  const cause = property("cause");
  if (cause !== undefined && cause !== null && limit.left > 0) result.cause = read(cause, limit);
  const errors = property("errors");
  if (result.stack !== null && isArray(errors)) {
    let index = 0;
    for (; index < errors.length && limit.left > 0; index++) {
      const value = read(errors[index], limit);
      defineProperty(result.errors, index, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
    }
    result.omitted = errors.length - index;
  }
  return result;
}

function shown(value) {
  try {
    return text(inspect(value));
  } catch {
    return "<an object that cannot be shown>";
  }
}

function text(value) {
  try {
    const whole = typeof value === "string" ? value : toText(value);
    return whole.length > MAX_TEXT ? apply(slice, whole, [0, MAX_TEXT]) : whole;
  } catch {
    return "<unprintable>";
  }
}

const { slice } = String.prototype;

function failed(error) {
  if (current) current.fail(error);
  else writeAll(originals[2], Buffer.from(`Uncaught ${shown(error)}\n`)); // from the code of an earlier cell
}

process.setUncaughtExceptionCaptureCallback((error) => {
  if (apply(listenerCount, process, ["uncaughtException"]) > 0) {
    apply(emit, process, ["uncaughtException", error, "uncaughtException"]);
  } else failed(error);
});
process.on("unhandledRejection", (reason) => {
  if (apply(listenerCount, process, ["unhandledRejection"]) <= 1) failed(reason);
});

function exit(code) {
  const number = code ?? process.exitCode ?? 0;
  process.exitCode = undefined;
  if (current) {
    const cell = current;
    const value = `process.exit(${text(number)}) ended the code.`;
    later(() => finish(cell, { name: "ProcessExit", value, stack: "", shown: "" }));
  }
  post({ stop: true });
  for (;;); // until this thread's JavaScript is terminated
}

// The environment of the code

Error.stackTraceLimit = 50; // the session's own frames can be far below those of libraries
process.exit = exit;
process.reallyExit = exit;
process.execArgv = [];
process.argv = [process.execPath];
defineProperty(globalThis, "__greenroom", {
  value: Object.freeze({
    __proto__: null,
    /** Prepare for the termination of the running code, and return where it is. */
    unwind() {
      let frames = "";
      try {
        frames = new NativeError().stack.split("\n").slice(3).join("\n"); // below this call and its evaluation
      } catch {}
      clearAsyncIdStack(); // Node expects code to leave its calls, but a termination does not
      return frames;
    },
    get constant() {
      return undefined;
    },
    set constant(value) {
      throw new TypeError("Assignment to constant variable.");
    },
    exporting(namespace, specifier, wanted) {
      for (const name of wanted) {
        if (!(name in namespace)) {
          throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${name}'`);
        }
      }
      return namespace;
    },
  }),
});
const displays = makeDisplays({ show, current: () => current, finish, read: (error) => read(error, { left: MAX_ERRORS }) });

const cellModule = new Module(path.join(DATA, "cell.js"));
cellModule.filename = cellModule.id;
cellModule.paths = Module._nodeModulePaths(DATA);
const importModule = new Script("(specifier, options) => import(specifier, options)", {
  filename: cellModule.filename,
  importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
}).runInThisContext();
const require_ = Module.createRequire(cellModule.filename);
require_.main = cellModule;
const found = {
  require: require_,
  module: cellModule,
  exports: cellModule.exports,
  __filename: cellModule.filename,
  __dirname: DATA,
};
for (const [name, value] of Object.entries(found)) {
  defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });
}
for (const name of Module.builtinModules) {
  // As in Node's REPL.
  if (name.startsWith("_") || name.includes("/") || (name in globalThis && name !== "crypto")) continue;
  const define = (value) => {
    const property = { __proto__: null, value, writable: true, enumerable: false, configurable: true };
    defineProperty(globalThis, name, property);
    return value;
  };
  defineProperty(globalThis, name, {
    get: () => define(require_(name)),
    set: define,
    enumerable: false,
    configurable: true,
  });
}

fs.writeFileSync("/proc/self/oom_score_adj", "1000");
defineStream(1);
defineStream(2);
const thread = new Worker(path.join(__dirname, "link.cjs"), {
  workerData: { descriptor: LINK, port: port2, interrupted },
  transferList: [port2],
  resourceLimits: { codeRangeSizeMb: 16 }, // V8 would reserve another 512 MiB
});
thread.on("error", (error) => {
  writeAll(2, Buffer.from(`${shown(error)}\n`));
  reallyExit(1);
});
thread.on("exit", () => reallyExit(1));
post({ ready: true });
