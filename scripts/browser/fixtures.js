// What every test shares: a page that collects what must not happen, and the checks that hold on every page.
import { AxeBuilder } from '@axe-core/playwright';
import { test as base, expect } from '@playwright/test';

export { expect };

const env = process.env;
export const code = env.CROFT_CODE;
export const control = env.CROFT_CONTROL;
export const dev = !!control; // else a real box
export const out = env.CROFT_SCREENS || '../../out/screens';

if (!env.CROFT_URL || !code) throw new Error('set CROFT_URL and CROFT_CODE');

// Only the test server believes this header; it keeps the wrong codes of one test from locking out the next.
let client = Math.floor(Math.random() * 60_000);
const nextClient = () => { client++; return `10.7.${(client >> 8) & 255}.${client & 255}`; };

export const test = base.extend({
  extraHTTPHeaders: async ({}, use) => use(dev ? { 'X-Test-Client': nextClient() } : {}),
  // Errors that a test provokes; it may put in patterns.
  allowed: async ({}, use) => use([]),
  page: async ({ page, allowed }, use) => {
    const bad = [];
    page.on('console', m => { if (m.type() === 'error' || m.type() === 'warning') bad.push(`console: ${m.text()}`); });
    page.on('pageerror', e => bad.push(`script: ${e.message}`));
    page.on('request', r => {
      if (!r.url().startsWith(env.CROFT_URL) && !r.url().startsWith('data:')) bad.push(`foreign request: ${r.url()}`);
    });
    await use(page);
    expect(bad.filter(b => !allowed.some(a => a.test(b)))).toEqual([]);
  },
});

export async function setState(name) {
  const r = await fetch(`${control}/state`, { method: 'POST', body: new URLSearchParams({ name }) });
  expect(r.status, await r.text()).toBe(200);
}

// claim scans the code: it opens the page with the code in the fragment.
export async function claim(page) {
  await page.goto(`/#${code}`);
  await expect(page.locator('#box')).toBeVisible();
  expect(new URL(page.url()).hash).toBe('');
}

// check holds on every page: nothing for axe to complain about in light and dark, no sideways scrolling even on the
// narrowest phones and at 200 % zoom, targets large enough for a thumb.
export async function check(page) {
  const none = ({ violations }) => expect(
    violations.map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.target.join(' ')).join(', ')}`)).toEqual([]);
  await page.emulateMedia({ colorScheme: 'dark' });
  none(await new AxeBuilder({ page }).withRules(['color-contrast']).analyze());
  await page.emulateMedia({ colorScheme: 'light' });
  none(await new AxeBuilder({ page })
    .withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice']).analyze());

  const size = page.viewportSize();
  for (const width of new Set([size.width, Math.max(320, size.width / 2)])) {
    await page.setViewportSize({ width, height: size.height });
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), `sideways at ${width}`).toBeLessThanOrEqual(0);
  }
  await page.setViewportSize(size);

  const small = await page.evaluate(() => [...document.querySelectorAll('button, summary, input, header a, .address a, .plain a')]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 44).map(e => e.outerHTML));
  expect(small).toEqual([]);
}

export async function openAll(page) {
  await page.evaluate(() => document.querySelectorAll('details').forEach(d => { d.open = true; }));
}

export async function shot(page, info, name) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: `${out}/${dev ? 'page' : 'box'}-${name}-${info.project.name}-${colorScheme}.png`, fullPage: true });
  }
  await page.emulateMedia({ colorScheme: 'light' });
}
