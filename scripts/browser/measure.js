// Measures how heavy the pages are and how long they take on a slow phone, and prints it as one JSON object: bytes over
// the wire, milliseconds. CROFT_URL is the box; CROFT_CODE its claim code, which is used up if nobody has claimed it yet;
// CROFT_ADDR its address, if the URL's name needs one.
import { chromium } from '@playwright/test';
import { owner } from './fixtures.js';

const { CROFT_URL: url, CROFT_CODE: code, CROFT_ADDR: addr, CROFT_CHROMIUM: executablePath = '/usr/bin/chromium' } = process.env;
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update'];
if (addr) args.push(`--host-resolver-rules=MAP *.local ${addr.replace(/^.*:\/\/|:\d+$/g, '')}`);
const browser = await chromium.launch({ executablePath, args });

// A phone six times slower than this machine, on a line of 400 kbit/s and 400 ms.
const slow = { offline: false, latency: 400, downloadThroughput: 400e3 / 8, uploadThroughput: 400e3 / 8 };

// open opens a page with an empty cache, and waits for what marks the end: live data, or the page itself.
async function open(cookies, throttled, live) {
  const context = await browser.newContext({ baseURL: url, viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, ignoreHTTPSErrors: true });
  await context.addCookies(cookies);
  const page = await context.newPage();
  const cdp = await context.newCDPSession(page);
  await cdp.send('Network.enable');
  const requests = new Map();
  let live_ms = 0, began = 0;
  cdp.on('Network.requestWillBeSent', e => requests.set(e.requestId, { url: e.request.url, bytes: 0 }));
  cdp.on('Network.loadingFinished', e => { if (requests.has(e.requestId)) requests.get(e.requestId).bytes = e.encodedDataLength; });
  const arrived = new Promise(ok => cdp.on('Network.eventSourceMessageReceived', e => {
    if (e.eventName !== 'view') return;
    live_ms ||= performance.now() - began;
    ok();
  }));
  if (throttled) {
    await cdp.send('Emulation.setCPUThrottlingRate', { rate: 6 });
    await cdp.send('Network.emulateNetworkConditions', slow);
  }
  began = performance.now();
  await page.goto('/', { waitUntil: 'load' });
  if (live) await arrived;
  const paint = await page.waitForFunction(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  const first_paint_ms = await paint.jsonValue();
  await page.waitForTimeout(300); // for the icon
  const all = [...requests.values()].filter(r => !r.url.includes('/live') && !r.url.startsWith('data:'));
  await context.close();
  return {
    requests: all.length, bytes: all.reduce((n, r) => n + r.bytes, 0), first_paint_ms: Math.round(first_paint_ms),
    ...(live ? { live_ms: Math.round(live_ms) } : {}),
  };
}

const gate = { ...await open([], false, false), slow: await open([], true, false) };

// The owner, by the API.
const context = await browser.newContext({ baseURL: url, ignoreHTTPSErrors: true });
const ask = async (method, path, data) => {
  const r = await context.request.fetch(`/api/v1${path}`, { method, data });
  if (!r.ok()) throw new Error(`${method} ${path}: ${r.status()} ${await r.text()}`);
  return r;
};
const { step } = await (await ask('GET', '/setup')).json();
if (step === 'claim') {
  await ask('POST', '/claim', { code });
  await ask('PUT', '/setup/name', { name: 'croft' });
  await ask('POST', '/setup/account', owner);
  await ask('PUT', '/setup/time-zone', { time_zone: 'Europe/Berlin' });
  await ask('POST', '/setup/done');
} else {
  await ask('POST', '/session', owner);
}
const cookies = await context.cookies();
const home = { ...await open(cookies, false, true), slow: await open(cookies, true, true) };
await browser.close();
console.log(JSON.stringify({ gate, home }));
