// Errors as the protocol describes them: the traceback as Node prints it, and a summary with the session's own frames.
"use strict";

const fs = require("node:fs");
const { fileURLToPath } = require("node:url");

const LIMITS = { name: 200, value: 10_000, traceback: 50_000, summary: 10_000 };
const FRAME = /^ {4,}at (?:async )?(?:(.*?) \()?(?:async )?(Cell \d+|(?:file:\/\/)?\/.+?):(\d+):\d+\)?$/;
const ANY_FRAME = /^ {4,}at .+/;
const OURS = ["node:internal/", "node:vm:", `${__dirname}/`].flatMap((place) => [`(${place}`, `at ${place}`]);
const SYNTAX = /^(Cell \d+|(?:file:\/\/)?\/[^\n]+):(\d+)\n([^\n]*)\n( *\^*)\n/;
const COLORS = /\x1b\[[0-9;?]*[ -/]*[@-~]/g;
const MAX_FRAMES = 12;
const MAX_LINE = 3_000; // characters of an error's own text
const MAX_SOURCE = 300; // characters of a line of code
const MAX_FILE = 1 << 20;
const MAX_CELLS = 200;
const MAX_CELL = 1 << 20;
const CAUSE = "\n\nThe above error was the cause of the following error:\n\n";

const sources = new Map(); // the lines of cells, by name

/** Remember the code of a cell, for its frames. */
function remember(name, source) {
  if (source.length > MAX_CELL) return;
  sources.set(name, source.split(/\r\n|[\n\r\u2028\u2029]/));
  if (sources.size > MAX_CELLS) sources.delete(sources.keys().next().value);
}

/** Describe an error, as the main thread has read it: `{name, value, stack, shown, cause, errors}`. */
function describe(error) {
  const parts = {
    name: error.name || "Error",
    value: error.value,
    traceback: traceback(error),
    summary: error.isBare ? "" : cut(summary(error), LIMITS.summary),
  };
  for (const [part, limit] of Object.entries(LIMITS)) {
    parts[part] = parts[part].replace(COLORS, "").slice(0, limit).toWellFormed();
  }
  return parts;
}

function traceback(error) {
  if (error.stack === null) return `Uncaught ${error.shown}`;
  const lines = [];
  for (const line of error.shown.split("\n")) {
    if (!isOurs(line)) lines.push(line);
    else if (line.endsWith(" {")) lines.push(`${lines.pop() ?? ""} {`); // the properties of the error follow
  }
  const shown = lines.join("\n");
  const [first] = frames(error.stack);
  const header = first && !SYNTAX.test(error.stack) ? `${first.place}:${first.line}\n${first.source}\n\n` : "";
  return header + shown;
}

function summary(error) {
  const before = error.cause ? summary(error.cause) + CAUSE : "";
  const lines = [...places(error.stack ?? ""), cut(`${error.name}: ${error.value}`.trim(), MAX_LINE)];
  (error.errors ?? []).forEach((each, index) => {
    lines.push(`  error ${index + 1}:\n    ${summary(each).replaceAll("\n", "\n    ")}`);
  });
  if (error.omitted) lines.push(`  … ${error.omitted} more errors …`);
  return before + lines.join("\n");
}

/** The frames of the session's own code, the innermost one last. */
function places(stack) {
  const syntax = SYNTAX.exec(stack);
  if (syntax && isOfTheUser(toPath(syntax[1]))) {
    const source = syntax[3].slice(0, MAX_SOURCE);
    return [`${toPath(syntax[1])}, line ${syntax[2]}\n    ${source}\n    ${syntax[4].slice(0, MAX_SOURCE)}`];
  }
  const found = frames(stack)
    .reverse()
    .map(({ name, place, line, source }) => {
      const where = `${place}, line ${line}${name ? `, in ${name}` : ""}`;
      return source.trim() ? `${where}\n    ${cut(source.trim(), MAX_SOURCE)}` : where;
    });
  if (found.length > MAX_FRAMES) found.splice(4, found.length - 8, `… ${found.length - 8} more frames …`);
  return found;
}

function frames(stack) {
  const found = [];
  for (const text of stack.split("\n")) {
    const match = FRAME.exec(text);
    const place = match && toPath(match[2]);
    if (place && isOfTheUser(place)) {
      found.push({ name: match[1] ?? "", place, line: Number(match[3]), source: lineOf(place, Number(match[3])) });
    }
  }
  return found;
}

function isOfTheUser(place) {
  return place.startsWith("Cell ") || (/^\/(?:mnt\/data|tmp)\//.test(place) && !place.includes("/node_modules/"));
}

function isOurs(line) {
  return ANY_FRAME.test(line) && OURS.some((place) => line.includes(place));
}

function toPath(place) {
  try {
    return place.startsWith("file://") ? fileURLToPath(place) : place;
  } catch {
    return place;
  }
}

function lineOf(place, number) {
  let lines = sources.get(place);
  if (!lines && place.startsWith("/")) {
    try {
      const status = fs.statSync(place);
      if (status.isFile() && status.size <= MAX_FILE) lines = fs.readFileSync(place, "utf8").split("\n");
    } catch {}
  }
  return (lines?.[number - 1] ?? "").slice(0, MAX_SOURCE * 2);
}

function cut(text, limit) {
  const half = Math.floor(limit / 2);
  return text.length <= limit ? text : `${text.slice(0, half)} … ${text.slice(3 - half)}`;
}

module.exports = { describe, remember };
