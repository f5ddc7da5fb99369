// Bundles the page, opens it in Chromium for each dashboard, and takes a picture of it.
//
//   node shoot.mjs SETUP.json     {"url", "from", "to", "step", "chromium", "dashboards": {path: {variable: value}}, "out"}
//
// Ends with 1 if the page has an error, or a panel has one or has nothing to show. DEBUG=1 shows the browser's console.
import { build } from 'esbuild';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import UPNG from 'upng-js';

const here = dirname(fileURLToPath(import.meta.url));
const setup = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const require = createRequire(join(here, 'package.json'));
const faults = [];

const bundle = await build({
  entryPoints: [join(here, 'page.tsx')],
  bundle: true,
  write: false,
  outdir: 'out',
  format: 'iife',
  minify: true,
  keepNames: true,
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  // The ES module bundle of these two fails in the browser (React error 130); their CommonJS one does not.
  alias: { '@grafana/ui': require.resolve('@grafana/ui'), '@grafana/data': require.resolve('@grafana/data') },
  loader: { '.ttf': 'dataurl', '.woff': 'dataurl', '.woff2': 'dataurl', '.svg': 'dataurl', '.png': 'dataurl' },
  logLevel: 'error',
});
const file = (suffix) => bundle.outputFiles.find((each) => each.path.endsWith(suffix)).text;
// The page is of Prometheus's own origin, so that it may ask there. It is answered from here.
const place = `${setup.url}/dashboard`;
const html = `<!doctype html><meta charset="utf-8"><style>${file('.css')} *, *::before, *::after { box-sizing: border-box } body { margin: 0 }</style><div id="root"></div>`;

/** The same picture in 256 colours, which is a third of the size. */
function smaller(png) {
  const { width, height, ...rest } = UPNG.decode(png);
  return Buffer.from(UPNG.encode(UPNG.toRGBA8({ width, height, ...rest }), width, height, 256));
}

async function shoot(browser, path, chosen) {
  const name = basename(path, '.json');
  const page = await browser.newPage({ viewport: { width: 1432, height: 900 } });
  page.on('console', (said) => process.env.DEBUG && console.error(said.text()));
  page.on('pageerror', (error) => faults.push(`${name}: ${error.stack ?? error}`));
  await page.route(place, (route) => route.fulfill({ contentType: 'text/html', body: html }));
  await page.goto(place);
  await page.evaluate((given) => {
    window.setup = given;
  }, { ...setup, dashboard: JSON.parse(readFileSync(path, 'utf8')), chosen });
  await page.addScriptTag({ content: file('.js') });
  await page.waitForFunction(() => window.drawn && Object.keys(window.drawn).length >= window.expected, null, {
    timeout: 30000,
  });
  await page.evaluate(() => document.fonts.ready);
  await page.waitForTimeout(1500); // what is animated has come to rest
  for (const each of Object.values(await page.evaluate(() => window.drawn))) {
    if (each.error || (!each.series && each.type !== 'text')) {
      faults.push(`${name}: ${each.title} (${each.type}): ${each.error ?? 'nothing to show'}`);
    }
  }
  writeFileSync(join(setup.out, `${name}.png`), smaller(await page.locator('#dashboard').screenshot()));
  await page.close();
}

mkdirSync(setup.out, { recursive: true });
// As root in a container Chromium has no sandbox; it opens no page but ours.
const browser = await chromium.launch({ executablePath: setup.chromium, args: ['--no-sandbox'] });
try {
  for (const [path, chosen] of Object.entries(setup.dashboards)) {
    await shoot(browser, path, chosen).catch((error) => faults.push(`${basename(path)}: ${error.message}`));
  }
} finally {
  await browser.close();
}
faults.forEach((fault) => console.error(fault));
process.exit(faults.length ? 1 : 0);
