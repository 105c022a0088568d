// Runs cells in nel: its directory is the argument, cells come as JSON on standard input.
"use strict";

const { Session } = require(process.argv[2]);

async function main() {
  let input = "";
  for await (const piece of process.stdin) input += piece;
  const session = new Session();
  const results = [];
  for (const cell of JSON.parse(input)) {
    const result = { shown: [], error: null, stdout: "" };
    await new Promise((resolve) => {
      session.execute(cell, {
        onSuccess: ({ mime }) => mime && result.shown.push(mime),
        onError: ({ error }) => (result.error = [error.ename, error.evalue]),
        onDisplay: ({ mime }) => mime && result.shown.push(mime),
        onStdout: (text) => (result.stdout += text),
        afterRun: resolve,
      });
    });
    results.push(result);
  }
  process.stdout.write(JSON.stringify(results), () => session.kill("SIGKILL", () => process.exit()));
}

main();
