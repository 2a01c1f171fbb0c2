// Builds the page into the Python package; `node build.mjs core` builds the core alone, as a module for the tests.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const target = fileURLToPath(new URL("../src/convolith/web/static/", import.meta.url));
const common = { bundle: true, target: "es2022", charset: "utf8", legalComments: "none", logLevel: "warning" };

/** Return the notices of every package whose code is in the bundle. */
async function notices(inputs) {
  const packages = new Set();
  for (const path of Object.keys(inputs)) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
    if (match) packages.add(match[1]);
  }
  const parts = ["explorer.js contains code of the packages below, under these licences.\n"];
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
  const result = await build({
    ...common,
    absWorkingDir: here,
    entryPoints: { explorer: "src/main.tsx" },
    outdir: target,
    format: "iife",
    minify: true,
    metafile: true,
    jsx: "automatic",
    jsxImportSource: "preact",
  });
  await build({ ...common, entryPoints: { explorer: `${here}src/style.css` }, outdir: target, minify: true });
  await copyFile(`${here}src/index.html`, `${target}index.html`);
  await writeFile(`${target}THIRD-PARTY-NOTICES.txt`, await notices(result.metafile.inputs));
}
