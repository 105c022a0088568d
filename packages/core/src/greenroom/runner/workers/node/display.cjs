// What code can display: the value of a cell, as Node's REPL prints it, and IJavascript's interface `$$`.
"use strict";

const { inspect, types } = require("node:util");

const { apply } = Reflect;
const { isPromise, isProxy, isUint8Array } = types;
const { defineProperty, keys } = Object;
const { has, add, delete: forget } = Set.prototype;
const NativeError = Error;
const { stringify } = JSON;
const { slice, toWellFormed } = String.prototype;
const toBase64 = Buffer.prototype.base64Slice;
const isBase64 = /^image\/(?!svg\+xml)|^(?:audio|video)\/|^application\/(?:pdf|octet-stream)$/;
const isJson = /^application\/(?:.*\+)?json$/;
const { test } = RegExp.prototype;
const toText = String;
const MAX_NAME = 200;

const METHODS = {
  _toHtml: "text/html",
  _toSvg: "image/svg+xml",
  _toPng: "image/png",
  _toJpeg: "image/jpeg",
};
const KINDS = {
  text: "text/plain",
  html: "text/html",
  svg: "image/svg+xml",
  png: "image/png",
  jpeg: "image/jpeg",
  json: "application/json",
};
const METHOD_NAMES = keys(METHODS);
const KIND_NAMES = keys(KINDS);
const SETTERS = ["mime", "html", "svg", "png", "jpeg"];

/** Define an object's own property, whatever the prototype of all objects has under this name. */
function own(target, name, value) {
  defineProperty(target, name, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
}

/** Return the functions that a worker needs for displays; `show` sends an output and returns once it is in order. */
function makeDisplays({ show, current, finish, read }) {
  const seen = new Set(); // names of displays

  function output(bundle, options) {
    const { result = false, name } = options;
    const data = { __proto__: null };
    const types_ = keys(bundle ?? {});
    for (let index = 0; index < types_.length; index++) {
      const type = types_[index];
      if (bundle[type] !== undefined) data[type] = content(type, bundle[type]);
    }
    const header = { __proto__: null, ev: "output", result: result && data["text/plain"] !== undefined };
    if (name !== undefined) {
      header.display_id = apply(slice, toText(name), [0, MAX_NAME]);
      header.update = apply(has, seen, [header.display_id]);
      apply(add, seen, [header.display_id]);
    }
    show(header, apply(stringify, JSON, [{ __proto__: null, data, metadata: { __proto__: null } }, wellFormed]));
  }

  function mimer(value) {
    const custom = globalThis.$$mimer$$;
    return typeof custom === "function" ? custom(value) : defaultMimer(value);
  }

  /** The value of `$$` in one cell, as in nel 1.3. */
  class Context {
    constructor(cell) {
      const send = (bundle, keepAlive, isResult) => {
        output(bundle, { __proto__: null, result: isResult && !keepAlive });
        settle(keepAlive);
      };
      const settle = (keepAlive) => {
        if (keepAlive) {
          cell.isAsync = true;
          return;
        }
        cell.hasResult = true;
        if (cell.isAsync) {
          cell.isAsync = false;
          cell.end();
        }
      };
      const resolving = (handle) => (value, keepAlive) => {
        if (!isPromise(value)) return handle(value, keepAlive);
        cell.isAsync = true;
        (async () => {
          try {
            handle(await value, keepAlive);
          } catch (error) {
            cell.fail(error);
          }
        })();
      };
      own(this, "async", (...values) => (cell.isAsync = values.length === 0 ? true : !!values[0]));
      own(this, "sendResult", resolving((value, keepAlive) => send(mimer(value), keepAlive, true)));
      own(this, "done", (value) => {
        if (value === undefined) settle(false);
        else this.sendResult(value);
      });
      own(this, "sendError", resolving((error) => cell.fail(error)));
      own(this, "mime", resolving((bundle, keepAlive) => send(bundle, keepAlive, true)));
      for (let index = 0; index < KIND_NAMES.length; index++) {
        const type = KINDS[KIND_NAMES[index]];
        const handle = (value, keepAlive) => send({ __proto__: null, [type]: value }, keepAlive, true);
        own(this, KIND_NAMES[index], resolving(handle));
      }
      own(this, "input", () => {
        throw new NativeError("$$.input() cannot be answered: this session is not interactive. Put the value into the code.");
      });
      own(this, "display", (name) => new Display(name));
      own(this, "clear", (options) => show({ ev: "clear", wait: !!options?.wait }, ""));
      defineProperty(this, "config", { __proto__: null, value: config });
    }
  }

  class Display {
    constructor(name) {
      const options = { __proto__: null, name };
      own(this, "mime", (bundle) => output(bundle, options));
      for (let index = 0; index < KIND_NAMES.length; index++) {
        const type = KINDS[KIND_NAMES[index]];
        own(this, KIND_NAMES[index], (value) => output({ __proto__: null, [type]: value }, options));
      }
      own(this, "close", () => apply(forget, seen, [toText(name)]));
    }
  }

  const config = { awaitExecution: true };

  function define(name, property) {
    try {
      defineProperty(globalThis, name, { __proto__: null, configurable: true, enumerable: false, ...property });
    } catch {} // the code has defined it for good
  }

  define("$$mimer$$", { value: defaultMimer, writable: true });
  define("$$defaultMimer$$", { value: defaultMimer });

  /** Give a cell its own `$$`. */
  function begin(cell) {
    const context = new Context(cell);
    define("$$", { value: context, writable: true });
    for (let index = 0; index < SETTERS.length; index++) {
      define(`$$${SETTERS[index]}$$`, { set: context[SETTERS[index]] });
    }
    define("$$async$$", { get: () => cell.isAsync, set: (value) => context.async(value) });
    define("$$done$$", { value: context.done, writable: true });
  }

  return { begin, showResult: (value) => output(mimer(value), { __proto__: null, result: true }) };
}

/** The bundle of a value: from its own methods, as in IJavascript, and from Node's REPL. */
function defaultMimer(value) {
  const bundle = { __proto__: null };
  const call = (name) => {
    try {
      return typeof value?.[name] === "function" ? value[name]() : undefined;
    } catch {
      return undefined; // the value may still be displayed in another way
    }
  };
  if (!isProxy(value)) {
    const given = call("_toMime");
    const types_ = typeof given === "object" && given !== null ? keys(given) : [];
    for (let index = 0; index < types_.length; index++) bundle[types_[index]] = given[types_[index]];
    for (let index = 0; index < METHOD_NAMES.length; index++) {
      const name = METHOD_NAMES[index];
      const content = METHODS[name] in bundle ? undefined : call(name);
      if (content !== undefined) bundle[METHODS[name]] = content;
    }
  }
  if (!("text/plain" in bundle)) bundle["text/plain"] = inspect(value, { __proto__: null, showProxy: true });
  return bundle;
}

function content(type, value) {
  if (isUint8Array(value)) return apply(toBase64, value, [0, value.length]);
  if (typeof value === "string" || apply(test, isJson, [type])) return value;
  return toText(value);
}

function wellFormed(key, value) {
  return typeof value === "string" ? apply(toWellFormed, value, []) : value;
}

module.exports = { makeDisplays };
