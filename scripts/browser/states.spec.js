// What the page says in each state of the box. These tests need the test server, which can bring the states about.
import { test, expect, check, claim, code, control, dev, openAll, setState, shot } from './fixtures.js';

test.skip(!dev, 'a real box is in the state that it is in');
test.beforeEach(() => setState('well'));

const headline = {
  well: 'All is well',
  starting: 'Almost ready',
  crashing: '“Found on the LAN” keeps failing',
  hot: 'The box is too hot',
  conflict: 'Another device is called croft.local',
  many: 'The disk is full',
  bare: '“Network and time” does not answer',
  rescue: "Croft can't use its disk",
  'rescue-busy': "Croft can't use its disk",
  'rescue-checked': "Croft can't use its disk",
};

for (const [name, title] of Object.entries(headline)) {
  test(`state: ${name}`, async ({ page }, info) => {
    await setState(name);
    await claim(page);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText(title);
    await expect(page).toHaveTitle(`${title} · Croft`);
    await shot(page, info, `state-${name}`);
    await openAll(page);
    await check(page);
  });
}

test('follows the box without a reload, and keeps what is open', async ({ page }) => {
  await claim(page);
  await page.evaluate(() => { window.same = true; });
  const service = page.locator('#service-discovery');
  await service.locator('summary').click();
  await expect(service).toHaveAttribute('open');
  await setState('changed');
  await expect(page.locator('#vitals')).toContainText('61 °C');
  await expect(service).toContainText('and said so');
  await expect(service).toHaveAttribute('open');
  await setState('crashing');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('“Found on the LAN” keeps failing');
  await expect(page.getByRole('status').first()).toContainText('keeps failing');
  await expect(page).toHaveTitle('“Found on the LAN” keeps failing · Croft');
  await setState('many');
  await expect(page.locator('.concerns li')).not.toHaveCount(0);
  await setState('well');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('All is well');
  await expect(page.locator('.concerns')).toHaveCount(0);
  await expect(service).toHaveAttribute('open');
  expect(await page.evaluate(() => window.same)).toBe(true);
});

test('says since when it has not heard from the box, and recovers', async ({ page, allowed }, info) => {
  allowed.push(/ERR_|Failed to load resource/);
  await claim(page);
  await page.evaluate(() => { window.same = true; });
  await fetch(`${control}/cut`, { method: 'POST', body: new URLSearchParams({ on: 'yes' }) });
  try {
    await expect(page.locator('#offline')).toContainText(/Not heard from the box since \d\d:\d\d/, { timeout: 20_000 });
    await shot(page, info, 'offline');
    await check(page);
    await setState('changed');
  } finally {
    await fetch(`${control}/cut`, { method: 'POST', body: new URLSearchParams({ on: 'no' }) });
  }
  await expect(page.locator('#offline')).toBeEmpty({ timeout: 20_000 });
  await expect(page.locator('#vitals')).toContainText('61 °C');
  expect(await page.evaluate(() => window.same)).toBe(true);
});

test('goes to the gate when signed out elsewhere', async ({ page, context, allowed }) => {
  allowed.push(/ERR_/);
  await claim(page);
  const other = await context.newPage();
  await other.goto('/');
  await other.getByRole('button', { name: 'Sign out' }).click();
  await expect(other.getByLabel('Claim code')).toBeVisible();
  await setState('changed');
  await expect(page.getByLabel('Claim code')).toBeVisible({ timeout: 20_000 });
});

// On a box that was just switched on, the code that was scanned waits for the page that takes it.
for (const [state, title] of [['no-core', 'Almost there'], ['no-pages', 'This part of Croft is not answering yet.']]) {
  test(`a scanned code waits: ${state}`, async ({ page, allowed }, info) => {
    allowed.push(/status of 503/);
    await setState(state);
    await page.goto(`/#${code}`);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText(title);
    await shot(page, info, state);
    await setState('well');
    await expect(page.locator('#box')).toBeVisible({ timeout: 20_000 });
    expect(page.url()).not.toContain(code);
  });
}

test('slows down guessing', async ({ page }, info) => {
  await page.goto('/');
  for (let i = 0; i < 6; i++) {
    await page.getByLabel('Claim code').fill(`0000-000${i}`);
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page).toHaveURL(/problem=/);
    await expect(page.getByRole('alert')).toBeVisible();
    if (i < 5) await page.goto('/');
  }
  await expect(page.getByRole('alert')).toContainText(/Too many tries. Wait \d+ seconds/);
  await check(page);
  await shot(page, info, 'gate-wait');
});

test('rescue: try again shows what it does', async ({ page }) => {
  await setState('rescue');
  await claim(page);
  await expect(page.getByText('Your data was not touched.')).toBeVisible();
  await page.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByRole('progressbar', { name: 'Trying the disk again…' })).toBeVisible();
  const sent = await (await fetch(`${control}/rescues`)).json();
  expect(sent).toEqual([{ action: 'retry' }]);
  // Back to normal, the page becomes the usual one by itself.
  await setState('well');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('All is well');
});

test('rescue: progress and findings arrive by themselves', async ({ page }) => {
  await setState('rescue');
  await claim(page);
  await setState('rescue-busy');
  await expect(page.getByRole('progressbar')).toHaveAttribute('value', '0.42');
  await setState('rescue-checked');
  await expect(page.getByText('The list of files has 3 errors.')).toBeVisible();
});

for (const script of [true, false]) {
  test(`rescue: starting over asks for the word, script ${script ? 'on' : 'off'}`, async ({ browser, extraHTTPHeaders }, info) => {
    const context = await browser.newContext({ ...info.project.use, javaScriptEnabled: script, extraHTTPHeaders });
    const page = await context.newPage();
    await setState('rescue');
    await page.goto('/');
    await page.getByLabel('Claim code').fill('7k3mq9xa');
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.locator('#box')).toBeVisible();
    await expect(async () => { // core may say what it heard half a second ago, and without a script that stays
      await page.goto('/');
      await expect(page.getByText('Start over', { exact: true })).toBeVisible({ timeout: 1000 });
    }).toPass({ timeout: 20_000 });
    await page.getByText('Start over', { exact: true }).click();
    await expect(page.getByText('Nothing can bring it back.')).toBeVisible();
    await page.getByLabel('Type ERASE').fill('delete');
    await page.getByRole('button', { name: 'Erase and start over' }).click();
    await expect(page.getByText('Nothing was erased')).toBeVisible();
    expect(await (await fetch(`${control}/rescues`)).json()).toBe(null);
    await page.getByText('Start over', { exact: true }).click();
    await page.getByLabel('Type ERASE').fill('ERASE');
    // What is typed survives what arrives in the meantime.
    if (script) {
      await page.waitForTimeout(2500);
      await expect(page.getByLabel('Type ERASE')).toHaveValue('ERASE');
    }
    await page.getByRole('button', { name: 'Erase and start over' }).click();
    await expect(page.getByRole('progressbar', { name: 'Starting over…' })).toBeVisible();
    expect(await (await fetch(`${control}/rescues`)).json()).toEqual([{ action: 'start-over', confirm: 'ERASE' }]);
    await context.close();
  });
}
