import { defineConfig } from '@playwright/test';

// The browser finds every name below local at the address in CROFT_ADDR: the box may get another.
const addr = process.env.CROFT_ADDR && process.env.CROFT_ADDR.replace(/^.*:\/\/|:\d+$/g, '');
const resolve = addr ? [`--host-resolver-rules=MAP *.local ${addr}`] : [];

export default defineConfig({
  testDir: '.',
  workers: 1, // the box under test has one state
  retries: 0,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  reporter: 'list',
  use: {
    baseURL: process.env.CROFT_URL,
    actionTimeout: 20_000,
    ignoreHTTPSErrors: true,
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
    launchOptions: {
      executablePath: process.env.CROFT_CHROMIUM || '/usr/bin/chromium',
      args: [
        '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', ...resolve,
      ],
    },
  },
  projects: [
    { name: 'phone', use: { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true } },
    { name: 'desk', use: { viewport: { width: 1280, height: 800 } } },
  ],
});
