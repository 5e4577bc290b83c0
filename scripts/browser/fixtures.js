// What every test shares: a page that collects what must not happen, the ways into a box, and the checks that hold on
// every page.
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test as base, expect } from '@playwright/test';
import axe from 'axe-core';

export { expect };

const env = process.env;
export const code = env.CROFT_CODE;
export const control = env.CROFT_CONTROL;
export const dev = !!control; // else a real box
export const out = env.CROFT_SCREENS || '../../out/screens';
export const owner = { name: 'Anna', password: 'a meadow behind the barn' };

if (!env.CROFT_URL || !code) throw new Error('set CROFT_URL and CROFT_CODE');

// Only the test server believes this header; it keeps the wrong codes of one test from locking out the next.
let client = Math.floor(Math.random() * 60_000);
export const nextClient = () => { client++; return dev ? { 'X-Test-Client': `10.7.${(client >> 8) & 255}.${client & 255}` } : {}; };

// A box may change its name; its port stays.
const url = new URL(env.CROFT_URL);
const ours = u => u.port === url.port && (u.hostname === url.hostname || u.hostname.endsWith('.local'));

// watch collects what must not happen on a page.
export function watch(page, bad) {
  page.on('console', m => { if (m.type() === 'error' || m.type() === 'warning') bad.push(`console: ${m.text()}`); });
  page.on('pageerror', e => bad.push(`script: ${e.message}`));
  page.on('dialog', d => { bad.push(`dialog: ${d.message()}`); d.dismiss(); });
  page.on('request', r => {
    const u = new URL(r.url());
    if (u.protocol !== 'data:' && !ours(u) && u.pathname !== '/trust-check.svg') bad.push(`foreign request: ${u}`);
  });
}

export const test = base.extend({
  extraHTTPHeaders: async ({}, use) => use(nextClient()),
  // Errors that a test provokes; it may put in patterns.
  allowed: async ({}, use) => use([]),
  bad: async ({ allowed }, use) => {
    const bad = [];
    await use(bad);
    expect(bad.filter(b => !allowed.some(a => a.test(b)))).toEqual([]);
  },
  page: async ({ page, bad }, use) => {
    watch(page, bad);
    await use(page);
  },
});

export async function tell(what, form = {}) {
  const r = await fetch(`${control}/${what}`, { method: 'POST', body: new URLSearchParams(form) });
  expect(r.status, await r.text()).toBe(200);
}

export const setState = name => tell('state', { name });

// fresh makes the test server's box one that nobody has claimed.
export const fresh = () => tell('fresh');

// told is what the processes beside core were asked to do.
export const told = async () => (await (await fetch(`${control}/told`)).json()) || [];

// claim scans the code: it opens the page with the code in the fragment.
export async function claim(page, to = '#setup-name, input[name=name]') {
  await page.goto(`/#${code}`);
  await expect(page.locator(to).first()).toBeVisible();
  expect(new URL(page.url()).hash).toBe('');
}

// ask asks the API as the page does, so that the browser finds the box's name and keeps its cookies.
export async function ask(page, method, path, data, want, headers = {}) {
  if (page.url() === 'about:blank') await page.goto('/');
  const r = await page.evaluate(async ([method, path, data, headers]) => {
    if (data) headers['Content-Type'] = 'application/json';
    const r = await fetch(`/api/v1${path}`, { method, headers, body: data && JSON.stringify(data) });
    return { status: r.status, text: await r.text(), etag: r.headers.get('ETag') };
  }, [method, path, data, headers]);
  expect([want].flat(), `${method} ${path}: ${r.text}`).toContain(r.status);
  return { ...r, body: r.text && JSON.parse(r.text) };
}

// own makes the browser that of the owner of a box that is set up.
export async function own(page) {
  await ask(page, 'POST', '/claim', { code }, 201);
  await ask(page, 'PUT', '/setup/name', { name: 'croft' }, 200);
  await ask(page, 'POST', '/setup/account', owner, 201);
  await ask(page, 'PUT', '/setup/time-zone', { time_zone: 'Europe/Berlin' }, 200);
  await ask(page, 'POST', '/setup/done', undefined, 200);
}

// words reads the catalogue of a language, so that no sentence stands twice.
export function words(lang) {
  const text = readFileSync(new URL(`../../webui/text_${lang}.go`, import.meta.url), 'utf8');
  const all = new Map([...text.matchAll(/^\s*"([^"]+)":\s*(".*"),$/gm)].map(m => [m[1], JSON.parse(m[2])]));
  return (key, ...args) => {
    if (!all.has(key)) throw new Error(`no sentence ${key} in ${lang}`);
    let i = 0;
    return all.get(key).replace(/%(?:\[(\d)\])?[sd]/g, (_, n) => args[n ? n - 1 : i++]).replaceAll('%%', '%');
  };
}

// totp is the code of a second factor (RFC 6238), later by some steps of 30 s.
export function totp(secret, later = 0) {
  const bits = [...secret.replace(/[\s=]/g, '')].map(c => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map(b => parseInt(b, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + later));
  const mac = createHmac('sha1', key).update(step).digest();
  const at = mac[19] & 15;
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1e6).padStart(6, '0');
}

// check holds on every page: nothing for axe to complain about in light and dark, no sideways scrolling even on the
// narrowest phones and at 200 % zoom, targets large enough for a thumb.
export async function check(page) {
  const at = new URL(page.url()).pathname;
  await page.evaluate(axe.source);
  const none = async runOnly => expect(await page.evaluate(async runOnly => (await window.axe.run(document, { runOnly })).violations
    .map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.target.join(' ')).join(', ')}`), runOnly), at).toEqual([]);
  await page.emulateMedia({ colorScheme: 'dark' });
  await none({ type: 'rule', values: ['color-contrast'] });
  await page.emulateMedia({ colorScheme: 'light' });
  await none({ type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice'] });
  await fits(page);
  const small = await page.evaluate(() => [...document.querySelectorAll('button, summary, input, select, textarea, header a, .address a, .plain a, a.button, a.link, a.row, .up a, .tabs a')]
    .map(e => ['radio', 'checkbox'].includes(e.type) ? e.closest('label') : e)
    .filter(e => e.checkVisibility() && !e.closest('.unseen') && !e.matches('.unseen') && e.getBoundingClientRect().height < 43.9).map(e => e.outerHTML.slice(0, 200)));
  expect(small, at).toEqual([]);
}

// fits is what needs no script of the page's: no sideways scrolling.
export async function fits(page) {
  const size = page.viewportSize();
  for (const width of new Set([size.width, Math.max(320, size.width / 2)])) {
    await page.setViewportSize({ width, height: size.height });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(wide, `${new URL(page.url()).pathname}: sideways at ${width}`).toBeLessThanOrEqual(0);
  }
  await page.setViewportSize(size);
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
