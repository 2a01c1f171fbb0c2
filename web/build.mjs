// Builds the page into the Python package; `node build.mjs core` builds the core alone, as a module for the tests.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const source = `${here}src`;
const target = fileURLToPath(new URL("../src/convolith/web/static/", import.meta.url));
const common = { bundle: true, target: "es2022", charset: "utf8", legalComments: "none", logLevel: "warning" };
const page = {
  ...common,
  absWorkingDir: here,
  format: "iife",
  minify: true,
  metafile: true,
  jsx: "automatic",
  jsxImportSource: "preact",
};

/** Scripts that are loaded when a view of theirs is opened, by name. */
const LATER = { server: "./server/main.tsx", more: "./views/more.tsx" };
/** Modules of explorer.js that these use too; of each there is one copy, which explorer.js hands over. */
const SHARED = [
  "preact",
  "preact/hooks",
  "preact/jsx-runtime",
  "@preact/signals",
  "./core",
  "./parts/code",
  "./parts/controls",
  "./parts/cost_terms",
  "./parts/figure",
  "./parts/formula",
  "./parts/keys",
  "./parts/numbers",
  "./server/token",
  "./state",
  "./state/store",
  "./views/layer/layer_arrays",
  "./views/layer/layer_controls",
  "./views/layer/layer_parts",
  "./views/lazy_view",
  "./views/make_board",
  "./views/python",
];

/** Take shared modules from explorer.js, where a later script imports them; or leave the imports as they are, to be read. */
function sharing(isKept) {
  const options = { resolveDir: source, kind: "import-statement", pluginData: "as usual" };
  return {
    name: "sharing",
    setup({ onStart, onResolve, onLoad, resolve }) {
      const names = new Map();
      onStart(async () => {
        for (const name of SHARED) names.set((await resolve(name, options)).path, name);
      });
      onResolve({ filter: /.*/ }, async ({ path, kind, resolveDir, pluginData }) => {
        if (pluginData === "as usual" || kind === "entry-point") return undefined;
        const found = await resolve(path, { ...options, kind, resolveDir });
        const name = names.get(found.path);
        if (!name) return found;
        return isKept ? { path: name, external: true } : { path: name, namespace: "shared" };
      });
      onLoad({ filter: /.*/, namespace: "shared" }, ({ path }) => ({
        contents: `module.exports = globalThis.convolith[${JSON.stringify(path)}];`,
      }));
    },
  };
}

/** Return the names that the later scripts import from each shared module. */
async function sharedNames() {
  const names = new Map(SHARED.map((name) => [name, new Set()]));
  const entryPoints = Object.values(LATER).map((path) => `${source}/${path}`);
  const options = { ...page, format: "esm", minify: false, write: false, outdir: target, entryPoints, plugins: [sharing(true)] };
  for (const { text } of (await build(options)).outputFiles) {
    for (const [, imported, path] of text.matchAll(/^import \{([^}]*)\} from "([^"]+)";$/gm)) {
      for (const name of imported.split(",")) names.get(path).add(name.trim().split(" as ")[0]);
    }
  }
  return names;
}

/** Return the module that starts the page, and hands over what is shared. */
async function explorer() {
  const lines = [];
  const parts = [];
  for (const [path, names] of await sharedNames()) {
    const place = parts.length;
    const taken = [...names].sort();
    lines.push(`import { ${taken.map((name) => `${name} as ${name}${place}`).join(", ")} } from ${JSON.stringify(path)};`);
    parts.push(`${JSON.stringify(path)}: { ${taken.map((name) => `${name}: ${name}${place}`).join(", ")} }`);
  }
  return [...lines, 'import "./main";', `globalThis.convolith = { ${parts.join(", ")} };`].join("\n");
}

/** Return the notices of every package whose code is in the bundle. */
async function notices(inputs) {
  const packages = new Set();
  for (const path of Object.keys(inputs)) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
    if (match) packages.add(match[1]);
  }
  const parts = ["The scripts beside this file contain code of the packages below, under these licences.\n"];
  for (const name of [...packages].sort()) {
    const folder = `${here}node_modules/${name}`;
    const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
    parts.push(`${name} ${version} (${license})\n\n${(await readFile(`${folder}/LICENSE`, "utf8")).trim()}\n`);
  }
  return parts.join(`\n${"-".repeat(80)}\n\n`);
}

if (process.argv[2] === "core") {
  const entries = { core: `${here}src/core/index.ts`, state: `${here}src/state/index.ts` };
  await build({ ...common, entryPoints: entries, outdir: `${here}build`, format: "esm", outExtension: { ".js": ".mjs" } });
} else {
  await mkdir(target, { recursive: true });
  const stdin = { contents: await explorer(), resolveDir: source, sourcefile: "explorer.ts", loader: "ts" };
  const { inputs } = (await build({ ...page, stdin, outfile: `${target}explorer.js` })).metafile;
  const all = { ...inputs };
  for (const [name, path] of Object.entries(LATER)) {
    const options = { ...page, entryPoints: [`${source}/${path}`], outfile: `${target}${name}.js`, plugins: [sharing(false)] };
    const later = (await build(options)).metafile.inputs;
    const twice = Object.keys(later).filter((file) => file in inputs);
    if (twice.length) throw new Error(`${twice.join(", ")}: in explorer.js and in ${name}.js; add them to SHARED in build.mjs`);
    Object.assign(all, later);
  }
  await build({ ...common, entryPoints: { explorer: `${source}/style.css`, server: `${source}/server/style.css` }, outdir: target, minify: true });
  await build({ ...common, entryPoints: { widget: `${source}/widget.ts` }, outdir: target, format: "esm", minify: true });
  await copyFile(`${here}src/index.html`, `${target}index.html`);
  await writeFile(`${target}THIRD-PARTY-NOTICES.txt`, await notices(all));
}
