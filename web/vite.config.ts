import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

/**
 * Writes dist/licenses.txt: the licences of the libraries whose code is in the bundle ask to travel with it, and
 * minifying drops their comments. Which libraries those are, the bundle itself says.
 */
function licenses(): Plugin {
  return {
    name: 'licenses',
    generateBundle(_options, bundle) {
      const folders = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== 'chunk') continue;
        for (const module of Object.keys(chunk.modules)) {
          // The last node_modules of the path: a library inside another one has its own licence.
          const found = /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(module.replaceAll('\\', '/'));
          if (found) folders.add(found[0].replace(/^\0/, ''));
        }
      }
      const texts = [...folders].map((folder) => {
        const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
          name: string;
          version: string;
        };
        const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
        if (!file) throw new Error(`${about.name} has no licence file`);
        return `${about.name} ${about.version}\n\n${readFileSync(join(folder, file), 'utf8').trim()}\n`;
      });
      const rule = `\n${'-'.repeat(78)}\n\n`;
      this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: texts.sort().join(rule) });
    },
  };
}

export default defineConfig({
  // Relative, so that the page works behind a proxy that serves it under a prefix.
  base: './',
  plugins: [licenses()],
  build: {
    outDir: 'dist',
    // Browsers of 2024 and later; light-dark() and dialog stay as they are written.
    target: ['chrome123', 'firefox125', 'safari17.5'],
    modulePreload: { polyfill: false },
    cssCodeSplit: false,
    // Fonts and images as data: URLs would be outside what the program's content policy lets style sheets load.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 300,
  },
  test: {
    include: ['tests/unit/**/*.test.ts'],
    // jsdom takes seconds for what a browser does in milliseconds, and the machine may be busy.
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
