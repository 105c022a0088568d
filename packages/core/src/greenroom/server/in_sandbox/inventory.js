// Node's version, and the packages that code finds: in /node_modules, and where NODE_PATH leads.
(() => {
  const { readdirSync, readFileSync } = require("node:fs");
  const packages = {};
  const look = (directory, prefix = "") => {
    let names = [];
    try {
      names = readdirSync(directory);
    } catch {}
    for (const name of names) {
      if (name.startsWith("@")) look(`${directory}/${name}`, `${name}/`);
      try {
        packages[prefix + name] ??= JSON.parse(readFileSync(`${directory}/${name}/package.json`, "utf8")).version;
      } catch {}
    }
  };
  for (const directory of ["/node_modules", ...(process.env.NODE_PATH ?? "").split(":")]) if (directory) look(directory);
  $$.mime({ "application/vnd.greenroom.answer+json": { node: process.versions.node, packages } });
})();
