// Runs cells in Node's own REPL: stories of cells as JSON on standard input, what came of each on standard output.
"use strict";

const { PassThrough } = require("node:stream");
const repl = require("node:repl");

async function story(cells) {
  const output = new PassThrough();
  const server = repl.start({ input: new PassThrough(), output, prompt: "", terminal: false, useGlobal: false });
  const results = [];
  let resolve;
  const fail = (error) => {
    // Code that is not complete is one that the REPL would wait for.
    const { name, message } = Object(error?.constructor?.name === "Recoverable" ? error.err : error);
    resolve({ error: name ? [name, message] : [null, server.writer(error)] });
  };
  const { _domain: domain } = server; // errors of code that runs go to it
  domain?.removeAllListeners("error");
  domain?.on("error", fail);
  for (const cell of cells) {
    output.read();
    const result = await new Promise((settle) => {
      resolve = settle;
      server.eval(`${cell}\n`, server.context, "REPL", (error, value) => {
        if (error) fail(error);
        else resolve({ result: value === undefined ? null : server.writer(value) });
      });
    });
    await new Promise(setImmediate);
    results.push({ result: null, error: null, ...result, stdout: String(output.read() ?? "") });
  }
  server.close();
  return results;
}

async function main() {
  let input = "";
  for await (const piece of process.stdin) input += piece;
  const results = {};
  for (const [name, cells] of Object.entries(JSON.parse(input))) results[name] = await story(cells);
  process.stdout.write(JSON.stringify(results));
}

main();
