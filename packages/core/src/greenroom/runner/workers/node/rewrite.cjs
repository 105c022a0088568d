// Cells as V8 scripts. A cell's top-level declarations become properties of the global object, so that they can be
// declared again, even as another kind, and functions of earlier cells see the current binding. A cell that awaits
// becomes the body of an asynchronous function. No edit changes the number of a line.
"use strict";

const acorn = require("internal/deps/acorn/acorn/dist/acorn");
const walk = require("internal/deps/acorn/acorn-walk/dist/walk");
const vm = require("node:vm");
const { decorateErrorStack } = require("internal/util");

const HELPERS = "__greenroom";
const BEGIN = "(async () => {";
const END = "\n})()";
const LITERAL = /^\s*\{/;
const ENDS_A_STATEMENT = /;\s*$/;
const NEEDS_ASYNC = /^await is only valid|^Unexpected reserved word/;
const RETURNS = /^'return' outside of function/; // the parser's message
const NEEDS_A_MODULE = /^Cannot use import statement/;
const OPTIONS = {
  ecmaVersion: "latest",
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true, // in a script, which is not strict
};

const constants = new Set(); // the names that no code may assign to

/** Return `{scripts, names, asynchronous}`: what to run, in order, and what it declares; or throw a SyntaxError. */
function rewrite(source, filename) {
  if (source.startsWith("#!")) source = `//${source.slice(2)}`;
  if (LITERAL.test(source) && !ENDS_A_STATEMENT.test(source)) {
    // As an object rather than a block, if that is possible.
    try {
      return rewriteCode(`(${source}\n)`, filename);
    } catch {}
  }
  return rewriteCode(source, filename);
}

function rewriteCode(source, filename) {
  let cell;
  try {
    cell = new Cell(source, acorn.parse(source, OPTIONS));
  } catch (error) {
    return untouched(source, filename, RETURNS.test(error.message));
  }
  if (cell.isModule) return untouched(source, filename);
  const scripts = cell.scripts();
  try {
    for (const script of scripts) compile(script, filename);
  } catch (error) {
    untouched(source, filename); // V8's own error, for the unmodified code
    throw error;
  }
  for (const name of cell.names) constants.delete(name);
  for (const name of cell.constants) constants.add(name);
  return { scripts, names: [...cell.names], asynchronous: cell.asynchronous };
}

/** Let V8 judge what the parser does not understand; in a function, however, `return` would be allowed. */
function untouched(source, filename, returns = false) {
  try {
    compile(source, filename);
    return { scripts: [source], names: [], asynchronous: false };
  } catch (error) {
    if (NEEDS_A_MODULE.test(error.message)) throw asModule(source, filename, error);
    if (returns) throw asModule(source, filename, error);
    if (!NEEDS_ASYNC.test(error.message)) throw error;
    asFunction(source, filename, error);
  }
  return { scripts: [BEGIN + source + END], names: [], asynchronous: true };
}

/** Throw the error of a source that is not the body of an asynchronous function; the given one if it is the same. */
function asFunction(source, filename, original) {
  try {
    new vm.Script(`${BEGIN}\n${source}${END}`, { filename, lineOffset: -1 });
  } catch (error) {
    if (error.message === original.message) throw original;
    const line = /^Cell \d+:(\d+)/.exec(error.stack)?.[1];
    throw line > source.split("\n").length ? asModule(source, filename, error) : error;
  }
}

/** The error that a module with this source has, with its position; the given one if it has none. */
function asModule(source, filename, error) {
  try {
    new vm.SourceTextModule(source, { identifier: filename });
    return error;
  } catch (other) {
    decorateErrorStack(other);
    return other;
  }
}

function compile(source, filename) {
  return new vm.Script(source, { filename });
}

class Cell {
  constructor(source, tree) {
    this.source = source;
    this.tree = tree;
    this.isModule = false; // whether it contains something that only a module can have
    this.names = new Set();
    this.constants = new Set();
    this.asynchronous = false;
    this._variables = []; // declarations with `var`, each with the innermost loop around it
    this._functions = []; // functions in blocks, each with whether it is the whole branch of an `if`
    this._edits = [];
    this._imports = "";
    this._look();
  }

  scripts() {
    const functions = this.tree.body.filter((node) => node.type === "FunctionDeclaration");
    this._protectConstants();
    for (const node of this.tree.body) this._declare(node);
    if (!this.asynchronous) return [this._edited()];
    this._variables.forEach(({ node, loop }) => this._assign(node, loop));
    this._functions.forEach(({ node, isBranch }) => this._hoist(node, isBranch));
    this._return();
    if (functions.length === 0) return [this._wrapped(this._edited())];
    const others = this.tree.body.filter((node) => node.type !== "FunctionDeclaration" && !node.directive);
    return [this._edited(others), this._wrapped(this._edited(functions))];
  }

  _look() {
    const { base } = walk;
    const isStrict = this.tree.body.some((node) => node.directive === "use strict");
    const branches = new Set();
    const visitors = {
      Function: (node) => {
        if (node.type !== "FunctionDeclaration" || node.async || node.generator || isStrict) return;
        if (!this.tree.body.includes(node)) this._functions.push({ node, isBranch: branches.has(node) });
      },
      IfStatement: (node, loop, visit) => {
        branches.add(node.consequent).add(node.alternate);
        base.IfStatement(node, loop, visit);
      },
      StaticBlock() {},
      PropertyDefinition: (node, loop, visit) => node.computed && visit(node.key, loop),
      AwaitExpression: (node, loop, visit) => {
        this.asynchronous = true;
        visit(node.argument, loop);
      },
      ForOfStatement: (node, loop, visit) => {
        if (node.await) this.asynchronous = true;
        base.ForOfStatement(node, node, visit);
      },
      ForInStatement: (node, loop, visit) => base.ForInStatement(node, node, visit),
      ForStatement: (node, loop, visit) => base.ForStatement(node, node, visit),
      VariableDeclaration: (node, loop, visit) => {
        if (node.kind === "var") {
          this._variables.push({ node, loop });
          for (const each of node.declarations) this._name(each.id);
        }
        base.VariableDeclaration(node, loop, visit);
      },
    };
    walk.recursive(this.tree, null, visitors);
    walk.full(this.tree, (node) => {
      if (node.type.startsWith("Export") || node.type === "MetaProperty" && node.meta.name === "import") {
        this.isModule = true;
      }
    });
    for (const node of this.tree.body) {
      if (node.type === "ImportDeclaration") this.asynchronous = true;
    }
  }

  _name(pattern, isConstant = false) {
    for (const { node } of identifiers(pattern)) {
      this.names.add(node.name);
      if (isConstant) this.constants.add(node.name);
    }
  }

  _declare(node) {
    switch (node.type) {
      case "VariableDeclaration":
        if (node.kind === "var") return;
        for (const each of node.declarations) this._name(each.id, node.kind === "const");
        if (this.asynchronous) return this._assign(node);
        this._edit(node.start, node.start + node.kind.length, "var".padEnd(node.kind.length));
        for (const each of node.declarations) if (!each.init) this._insert(each.end, "=void 0");
        return;
      case "FunctionDeclaration":
        return this._name(node.id);
      case "ClassDeclaration":
        this._name(node.id);
        this._insert(node.start, this.asynchronous ? `void (${node.id.name} = ` : `var ${node.id.name}=`);
        return this._insert(node.end, this.asynchronous ? ");" : ";");
      case "ImportDeclaration":
        for (const each of node.specifiers) this._name(each.local, true);
        this._import(node);
        return this._blank(node);
    }
  }

  /** A declaration in an asynchronous cell becomes an assignment. */
  _assign(node, loop = null) {
    const first = node.declarations[0];
    if (loop?.left === node) return this._edit(node.start, first.start, "");
    this._edit(node.start, first.start, "void ");
    for (const each of node.declarations) {
      const isPattern = each.init || node.kind !== "var";
      this._insert(each.start, isPattern ? "(" : "(void ");
      this._insert(each.end, each.init ? ")" : isPattern ? "=void 0)" : ")");
    }
    if (loop?.init !== node && this.source[node.end - 1] !== ";") this._insert(node.end, ";");
  }

  /** As outside an asynchronous cell, a function in a block is also a variable, set where the block declares it. */
  _hoist(node, isBranch) {
    const { name } = node.id;
    if (!this._canBeVariable(node)) return;
    this.names.add(name);
    this._insert(node.start, `${isBranch ? "{ " : ""}this.${name} = ${name}; `);
    if (isBranch) this._insert(node.end, " }");
  }

  /** Whether a variable in place of a function would be allowed: the condition of ECMAScript's annex B.3.2. */
  _canBeVariable(node) {
    const before = this.source.slice(0, node.start);
    try {
      acorn.parse(`${before}var ${node.id.name};${this.source.slice(node.end)}`, OPTIONS);
      return true;
    } catch {
      return false;
    }
  }

  _import(node) {
    const [all] = node.specifiers.filter((each) => each.type === "ImportNamespaceSpecifier");
    const names = node.specifiers.filter((each) => each !== all).map((each) => [
      each.type === "ImportDefaultSpecifier" ? "default" : each.imported.name ?? each.imported.value,
      each.local.name,
    ]);
    const text = JSON.stringify;
    const attributes = (node.attributes ?? []).map((each) => `${text(each.key.name ?? each.key.value)}: ${each.value.raw}`);
    const options = attributes.length ? `, {with: {${attributes.join(", ")}}}` : "";
    let namespace = `await import(${node.source.raw}${options})`;
    if (all) namespace = `(${all.local.name} = ${namespace})`;
    if (names.length) {
      const wanted = names.map(([name]) => text(name)).join(", ");
      const pattern = names.map(([name, local]) => `${text(name)}: ${local}`).join(", ");
      namespace = `({${pattern}} = ${HELPERS}.exporting(${namespace}, ${node.source.raw}, [${wanted}]))`;
    }
    this._imports += `${namespace}; `;
  }

  /** Return the value of the last statement from the function. */
  _return() {
    const without = new Set(["FunctionDeclaration", "EmptyStatement", "ImportDeclaration"]);
    const last = this.tree.body.filter((node) => !without.has(node.type)).at(-1);
    if (last?.type !== "ExpressionStatement" || last.directive) return;
    this._insert(last.start, "return { __proto__: null, value: (");
    this._insert(this.source[last.end - 1] === ";" ? last.end - 1 : last.end, ") }");
  }

  /** Redirect an assignment to a constant to code that refuses it. */
  _protectConstants() {
    const own = new Set(this.tree.body);
    const declared = new Set(); // names within functions and blocks: a name among these may be another variable
    const targets = [];
    const inner = (pattern) => {
      for (const { node } of identifiers(pattern)) declared.add(node.name);
    };
    walk.full(this.tree, (node) => {
      switch (node.type) {
        case "VariableDeclaration":
          if (!own.has(node)) for (const each of node.declarations) inner(each.id);
          break;
        case "FunctionDeclaration":
        case "FunctionExpression":
        case "ArrowFunctionExpression":
          node.params.forEach(inner);
        // falls through
        case "ClassDeclaration":
        case "ClassExpression":
          if (node.id && !own.has(node)) inner(node.id);
          break;
        case "CatchClause":
          if (node.param) inner(node.param);
          break;
        case "AssignmentExpression":
          targets.push(...identifiers(node.left));
          break;
        case "UpdateExpression":
          targets.push(...identifiers(node.argument));
          break;
        case "ForInStatement":
        case "ForOfStatement":
          if (node.left.type !== "VariableDeclaration") targets.push(...identifiers(node.left));
      }
    });
    if (targets.length === 0) return;
    const here = new Map(); // top-level names of this cell: whether they are constant
    for (const node of this.tree.body) {
      const patterns = node.type === "VariableDeclaration" ? node.declarations.map((each) => each.id) : [];
      if (node.type === "ClassDeclaration" || node.type === "FunctionDeclaration") patterns.push(node.id);
      if (node.type === "ImportDeclaration") patterns.push(...node.specifiers.map((each) => each.local));
      const isConstant = node.kind === "const" || node.type === "ImportDeclaration";
      for (const pattern of patterns) for (const each of identifiers(pattern)) here.set(each.node.name, isConstant);
    }
    for (const { node, shorthand } of targets) {
      if (declared.has(node.name) || !(here.get(node.name) ?? constants.has(node.name))) continue;
      this._edit(node.start, node.end, `${shorthand ? `${node.name}: ` : ""}${HELPERS}.constant`);
    }
  }

  _edit(start, end, text) {
    this._edits.push({ start, end, text });
  }

  _insert(position, text) {
    this._edit(position, position, text);
  }

  _blank(node) {
    this._edit(node.start, node.end, blank(this.source.slice(node.start, node.end)));
  }

  /** The source with the edits, and without some of its statements. */
  _edited(without = []) {
    const isWithin = (edit) => without.some((node) => node.start <= edit.start && edit.end <= node.end);
    const edits = this._edits.filter((edit) => !isWithin(edit));
    for (const node of without) {
      edits.push({ start: node.start, end: node.end, text: blank(this.source.slice(node.start, node.end)) });
    }
    let text = "";
    let position = 0;
    for (const edit of edits.sort((one, other) => one.start - other.start || one.end - other.end)) {
      text += this.source.slice(position, edit.start) + edit.text;
      position = edit.end;
    }
    return text + this.source.slice(position);
  }

  _wrapped(body) {
    const directives = this.tree.body.filter((node) => node.directive).map((node) => `"${node.directive}"; `);
    return BEGIN + directives.join("") + this._imports + body + END;
  }
}

/** The identifiers that a pattern binds or assigns to. */
function* identifiers(pattern, shorthand = false) {
  switch (pattern?.type) {
    case "Identifier":
      yield { node: pattern, shorthand };
      break;
    case "ObjectPattern":
      for (const each of pattern.properties) yield* identifiers(each.value ?? each.argument, each.shorthand);
      break;
    case "ArrayPattern":
      for (const each of pattern.elements) yield* identifiers(each);
      break;
    case "AssignmentPattern":
      yield* identifiers(pattern.left, shorthand);
      break;
    case "RestElement":
      yield* identifiers(pattern.argument);
  }
}

function blank(text) {
  return text.replace(/[^\n\r\u2028\u2029]/g, " ");
}

module.exports = { rewrite };
