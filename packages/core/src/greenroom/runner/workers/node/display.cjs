// What code can show: the value of a cell as Node's REPL prints it, and IJavascript's interface `$$`.
"use strict";

const { inspect, types } = require("node:util");

const { apply } = Reflect;
const { isPromise, isUint8Array } = types;
const { defineProperty } = Object;
const { keys } = Object;
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

/** Return the functions that a worker needs for displays; `show` sends an output and returns when it is in order. */
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
    const header = { ev: "output", result: result && data["text/plain"] !== undefined };
    if (name !== undefined) {
      header.display_id = apply(slice, toText(name), [0, MAX_NAME]);
      header.update = seen.has(header.display_id);
      seen.add(header.display_id);
    }
    show(header, apply(stringify, JSON, [{ __proto__: null, data, metadata: { __proto__: null } }, wellFormed]));
  }

  function mimer(value) {
    const custom = globalThis.$$mimer$$;
    return typeof custom === "function" ? custom(value) : defaultMimer(value);
  }

  /** What `$$` is for one cell, as in nel 1.3. */
  class Context {
    constructor(cell) {
      const send = (bundle, keepAlive, isResult) => {
        output(bundle, { result: isResult && !keepAlive });
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
      this.async = (...values) => (cell.isAsync = values.length === 0 ? true : Boolean(values[0]));
      this.sendResult = resolving((value, keepAlive) => send(mimer(value), keepAlive, true));
      this.done = (value) => {
        if (value === undefined) settle(false);
        else this.sendResult(value);
      };
      this.sendError = resolving((error) => cell.fail(error));
      this.mime = resolving((bundle, keepAlive) => send(bundle, keepAlive, true));
      for (const [kind, type] of Object.entries(KINDS)) {
        this[kind] = resolving((value, keepAlive) => send({ [type]: value }, keepAlive, true));
      }
      this.input = () => {
        throw new Error("$$.input() cannot be answered: no person is at this session. Put the value into the code.");
      };
      this.display = (name) => new Display(name);
      this.clear = (options) => show({ ev: "clear", wait: Boolean(options?.wait) }, "");
      defineProperty(this, "config", { value: config });
    }
  }

  class Display {
    constructor(name) {
      this.mime = (bundle) => output(bundle, { name });
      for (const [kind, type] of Object.entries(KINDS)) this[kind] = (value) => output({ [type]: value }, { name });
      this.close = () => {
        seen.delete(toText(name));
      };
    }
  }

  const config = { awaitExecution: true };

  function define(name, property) {
    defineProperty(globalThis, name, { configurable: true, enumerable: false, ...property });
  }

  define("$$mimer$$", { value: defaultMimer, writable: true });
  define("$$defaultMimer$$", { value: defaultMimer });

  /** Give a cell its own `$$`. */
  function begin(cell) {
    const context = new Context(cell);
    define("$$", { value: context, writable: true });
    for (const kind of ["mime", "html", "svg", "png", "jpeg"]) define(`$$${kind}$$`, { set: context[kind] });
    define("$$async$$", { get: () => cell.isAsync, set: (value) => context.async(value) });
    define("$$done$$", { value: context.done, writable: true });
  }

  return { begin, showResult: (value) => output(mimer(value), { result: true }) };
}

/** The bundle of a value: its own methods' as in IJavascript, and what Node's REPL prints. */
function defaultMimer(value) {
  const bundle = { __proto__: null };
  const call = (name) => {
    try {
      return typeof value?.[name] === "function" ? value[name]() : undefined;
    } catch {
      return undefined; // a value that cannot be shown so can be shown otherwise
    }
  };
  if (!types.isProxy(value)) {
    const own = call("_toMime");
    if (typeof own === "object" && own !== null) for (const type of keys(own)) bundle[type] = own[type];
    for (const name of keys(METHODS)) {
      const content = METHODS[name] in bundle ? undefined : call(name);
      if (content !== undefined) bundle[METHODS[name]] = content;
    }
  }
  if (!("text/plain" in bundle)) bundle["text/plain"] = inspect(value, { showProxy: true });
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
