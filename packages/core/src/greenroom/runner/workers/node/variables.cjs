// Environment variables of a session and of one cell.
"use strict";

const { env } = process; // code can replace it
const { keys } = Object;

let before = { __proto__: null }; // the values before the session's; undefined for a variable that was not set

/** Set variables; return their previous values. */
function change(variables) {
  const replaced = { __proto__: null };
  const names = keys(variables);
  for (let index = 0; index < names.length; index++) {
    const name = names[index];
    replaced[name] = env[name];
    if (variables[name] === undefined) delete env[name];
    else env[name] = variables[name]; // Node reacts to a change of TZ
  }
  return replaced;
}

/** Set the session's variables; its previous ones that are not among them are reset to their original values. */
function setForSession(variables) {
  change(before);
  before = change(variables);
}

module.exports = { change, setForSession };
