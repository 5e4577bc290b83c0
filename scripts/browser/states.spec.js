// What the page says in each state of the box. These tests need the test server, which can bring the states about.
import { test, expect, check, code, control, dev, fresh, nextClient, openAll, own, owner, setState, shot, told } from './fixtures.js';

test.skip(!dev, 'a real box is in the state that it is in');
test.beforeEach(() => fresh());

// enter opens the page as the owner.
async function enter(page) {
  await own(page);
  await page.goto('/');
  await expect(page.locator('#box')).toBeVisible();
}

// open opens the page of a box in rescue mode.
async function open(page, state = 'rescue') {
  await setState(state);
  await expect(async () => { // core may say what it heard half a second ago
    await page.goto('/');
    await expect(page.getByText('enter the code that is on the box')).toBeVisible({ timeout: 1000 });
  }).toPass({ timeout: 20_000 });
  await page.getByLabel('Code on the screen').fill(code);
  await page.getByRole('button', { name: 'Open' }).click();
  await expect(page.locator('#box')).toBeVisible();
}

// What core learns comes a little later than a page, and headlines with it.
const headline = {
  well: 'All is well',
  starting: 'Almost ready',
  crashing: '“Name on your network” keeps failing',
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
    if (name.startsWith('rescue')) await open(page, name);
    else {
      await own(page);
      await setState(name);
      await page.goto('/');
    }
    await expect(page.getByRole('heading', { level: 1 })).toHaveText(title);
    await expect(page).toHaveTitle(`${title} · Croft`);
    await shot(page, info, `state-${name}`);
    await openAll(page);
    await check(page);
  });
}

test('follows the box without a reload, and keeps what is open', async ({ page }) => {
  await enter(page);
  await page.evaluate(() => { window.same = true; });
  const network = page.locator('#network');
  await network.locator('summary').click();
  await expect(network).toHaveAttribute('open');
  await setState('changed');
  await expect(page.locator('#vitals')).toContainText('61 °C');
  await expect(network).toHaveAttribute('open');
  await setState('crashing');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('“Name on your network” keeps failing');
  await expect(page.getByRole('status').first()).toContainText('keeps failing');
  await expect(page).toHaveTitle('“Name on your network” keeps failing · Croft');
  await setState('many');
  await expect(page.locator('.concerns li')).not.toHaveCount(0);
  await expect(network).toHaveAttribute('open');
  // What happened stays until somebody has seen it, and is over only once it has been so for a while.
  await setState('well');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(/kept failing|All is well now/);
  await expect(page.locator('#vitals')).toContainText('48 °C');
  expect(await page.evaluate(() => window.same)).toBe(true);
});

test('says since when it has not heard from the box, and recovers', async ({ page, allowed }, info) => {
  allowed.push(/ERR_|Failed to load resource/);
  await enter(page);
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

test('goes to the door when signed out elsewhere', async ({ page, context, allowed }) => {
  allowed.push(/ERR_|status of 401/);
  await enter(page);
  const other = await context.newPage();
  await other.goto('/');
  await other.getByRole('button', { name: 'Sign out' }).click();
  await expect(other.getByLabel('Password', { exact: true })).toBeVisible();
  await setState('changed');
  await expect(page.getByLabel('Password', { exact: true })).toBeVisible({ timeout: 20_000 });
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
    await expect(page).toHaveURL(/\/setup\/name$/, { timeout: 20_000 });
  });
}

test('slows down guessing', async ({ page, allowed }, info) => {
  allowed.push(/status of 4\d\d/);
  await page.goto('/');
  for (let i = 0; i < 6; i++) {
    await page.getByLabel('Claim code').fill(`0000-000${i}`);
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.locator('.problem')).toBeVisible();
  }
  await expect(page.getByRole('alert')).toContainText(/Too many tries. Wait \d+ seconds/);
  await check(page);
  await shot(page, info, 'gate-slow');
});

test('rescue: try again shows what it does', async ({ page }) => {
  await open(page);
  await expect(page.getByText('Your data was not touched.')).toBeVisible();
  await page.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByRole('progressbar', { name: 'Trying the disk again…' })).toBeVisible();
  expect(await told()).toContain('POST /v1/rescue {"action":"retry"}');
});

test('rescue: progress and findings arrive by themselves', async ({ page }) => {
  await open(page);
  await setState('rescue-busy');
  await expect(page.getByRole('progressbar')).toHaveAttribute('value', '0.42');
  await setState('rescue-checked');
  await expect(page.getByText('The list of files has 3 errors.')).toBeVisible();
});

for (const script of [true, false]) {
  test(`rescue: starting over asks for the word, script ${script ? 'on' : 'off'}`, async ({ browser }, info) => {
    const context = await browser.newContext({ ...info.project.use, javaScriptEnabled: script, extraHTTPHeaders: nextClient() });
    const page = await context.newPage();
    await open(page);
    await page.getByText('Start over', { exact: true }).click();
    await expect(page.getByText('Nothing can bring it back.')).toBeVisible();
    await page.getByLabel('Type ERASE').fill('delete');
    await page.getByRole('button', { name: 'Erase and start over' }).click();
    await expect(page.getByText('Nothing was erased')).toBeVisible();
    expect((await told()).join()).not.toContain('/v1/rescue');
    await page.getByText('Start over', { exact: true }).click();
    await page.getByLabel('Type ERASE').fill('ERASE');
    // What is typed survives what arrives in the meantime.
    if (script) {
      await page.waitForTimeout(2500);
      await expect(page.getByLabel('Type ERASE')).toHaveValue('ERASE');
    }
    await page.getByRole('button', { name: 'Erase and start over' }).click();
    await expect(page.getByRole('progressbar', { name: 'Starting over…' })).toBeVisible();
    expect(await told()).toContain('POST /v1/rescue {"action":"start-over","confirm":"ERASE"}');
    await context.close();
  });
}
