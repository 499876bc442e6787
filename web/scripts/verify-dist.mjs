// Builds the page anew and compares it with web/dist byte for byte; then checks that it is as small as it is meant to be.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const mostGzippedBytes = 250_000;
const web = fileURLToPath(new URL('..', import.meta.url));
const dist = join(web, 'dist');

const filesOf = (folder) =>
  readdirSync(folder, { recursive: true })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
    .map((path) => relative(folder, path))
    .sort();

const built = mkdtempSync(join(tmpdir(), 'fathom-web-'));
try {
  const vite = join(web, 'node_modules/vite/bin/vite.js');
  execFileSync(process.execPath, [vite, 'build', '--outDir', built, '--emptyOutDir', '--logLevel', 'warn'], { cwd: web, stdio: 'inherit' });
  const [kept, fresh] = [filesOf(dist), filesOf(built)];
  const problems = [
    ...fresh.filter((name) => !kept.includes(name)).map((name) => `${name} is built, but not in web/dist`),
    ...kept.filter((name) => !fresh.includes(name)).map((name) => `${name} is in web/dist, but not built`),
    ...fresh
      .filter((name) => kept.includes(name) && !readFileSync(join(dist, name)).equals(readFileSync(join(built, name))))
      .map((name) => `${name} differs`),
  ];
  const size = fresh.reduce((sum, name) => sum + gzipSync(readFileSync(join(built, name)), { level: 9 }).length, 0);
  if (size > mostGzippedBytes) problems.push(`the page has ${size} bytes gzipped, more than ${mostGzippedBytes}`);
  if (problems.length > 0) {
    console.error(`${problems.join('\n')}\nRun "npm run build" and commit web/dist.`);
    process.exitCode = 1;
  } else {
    console.log(`web/dist is what the sources give: ${fresh.length} files, ${size} bytes gzipped.`);
  }
} finally {
  rmSync(built, { recursive: true });
}
