// What a box shows to strangers, given its URL and claim code (CROFT_URL, CROFT_CODE), and what its page does for an owner.
import { test, expect, check, code, dev, fresh, nextClient, openAll, own, owner, shot, watch } from './fixtures.js';

test.describe('any box @box', () => {
  test.beforeEach(async () => { if (dev) await fresh(); });

  test('asks for the claim code', async ({ page }, info) => {
    await page.goto('/');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('Welcome to your Croft');
    await expect(page.getByLabel('Claim code')).toBeVisible();
    await check(page);
    await shot(page, info, 'gate');
  });

  test('says that a code is wrong', async ({ page, context, allowed }, info) => {
    allowed.push(/status of 4\d\d/);
    await page.goto('/');
    await page.getByLabel('Claim code').fill('0000-0000');
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.getByText("not this box's claim code")).toBeVisible();
    await expect(page.getByLabel('Claim code')).toBeFocused();
    await check(page);
    await shot(page, info, 'gate-wrong');
    await page.getByLabel('Claim code').fill('123');
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.getByText('has eight letters and digits')).toBeVisible();
    expect(await context.cookies()).toEqual([]);
  });

  test('tells nothing to who is not in', async ({ playwright }) => {
    const request = await playwright.request.newContext({ baseURL: process.env.CROFT_ADDR || process.env.CROFT_URL, ignoreHTTPSErrors: true });
    const health = await request.get('/api/v1/health');
    expect(await health.json()).toEqual({ ok: true });
    for (const path of ['box', 'session', 'events', 'config', 'people', 'logs', 'me', 'no-such-thing']) {
      const r = await request.get(`/api/v1/${path}`);
      expect([401, 404], path).toContain(r.status());
      expect(r.headers()['content-type']).toBe('application/problem+json');
    }
    for (const path of ['/people', '/box', '/logs', '/me', '/setup/account', '/setup/done']) {
      const r = await request.get(path, { maxRedirects: 0 });
      expect(r.status(), path).toBe(303);
    }
    const csrf = await request.post('/claim', { form: { code }, headers: { Origin: 'http://evil.example' } });
    expect(csrf.status()).toBe(403);
    const csp = (await request.get('/')).headers()['content-security-policy'];
    expect(csp).toContain("default-src 'none'");
    expect(csp).not.toContain('unsafe');
    await request.dispose();
  });

  test('has a page for what is not there', async ({ page, allowed }, info) => {
    allowed.push(/status of 404/);
    const r = await page.goto('/there/is/nothing');
    expect(r.status()).toBe(404);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('There is nothing here');
    await check(page);
    await shot(page, info, 'notfound');
  });
});

test.describe('a box of the test server', () => {
  test.skip(!dev, 'a real box is claimed once');
  test.beforeEach(async () => {
    await fresh();
  });

  test('takes the right code', async ({ page, context }) => {
    await page.goto('/');
    // As a person might type it.
    await page.getByLabel('Claim code').fill(` ${code.toLowerCase().replace('-', ' ')} `);
    await page.keyboard.press('Enter');
    await expect(page).toHaveURL(/\/setup\/name$/);
    const [cookie, ...more] = await context.cookies();
    expect(more).toEqual([]);
    const secure = page.url().startsWith('https:');
    const name = secure ? '__Host-croft_session' : 'croft_session';
    expect(cookie).toMatchObject({ name, secure, httpOnly: true, sameSite: 'Lax', path: '/' });
    // The account is another session, so that what somebody knew of the one before is worth nothing.
    await page.getByRole('button', { name: 'Next' }).click();
    await page.getByLabel('Your name').fill(owner.name);
    await page.getByLabel('Password', { exact: true }).fill(owner.password);
    await page.getByRole('button', { name: 'Next' }).click();
    await expect(page).toHaveURL(/\/setup\/time-zone$/);
    expect((await context.cookies())[0].value).not.toBe(cookie.value);
  });

  test('lets exactly one of two phones claim it', async ({ browser, bad }, info) => {
    const pages = [];
    for (let i = 0; i < 2; i++) {
      const context = await browser.newContext({ ...info.project.use, extraHTTPHeaders: nextClient() });
      pages.push(await context.newPage());
      watch(pages[i], bad);
      await pages[i].goto('/');
      await pages[i].getByLabel('Claim code').fill(code);
    }
    await Promise.all(pages.map(p => p.getByRole('button', { name: 'Open' }).click()));
    await Promise.all(pages.map(p => expect(p.locator('h1')).not.toHaveText('Welcome to your Croft')));
    const titles = await Promise.all(pages.map(p => p.locator('h1').textContent()));
    expect(titles.toSorted()).toEqual(['Another phone is setting this box up', 'What should the box be called?']);
    bad.splice(0, bad.length, ...bad.filter(b => !/status of 409/.test(b)));
    for (const p of pages) await p.context().close();
  });

  test('shows its state to its owner, and is light', async ({ page }, info) => {
    let bytes = 0;
    const cdp = await page.context().newCDPSession(page);
    await cdp.send('Network.enable');
    cdp.on('Network.loadingFinished', e => { bytes += e.encodedDataLength; });
    await page.goto('/');
    const gate = bytes;
    await own(page);
    await page.goto('/');
    for (const name of ['How it is doing', 'Where to find it', 'Right now']) {
      await expect(page.getByRole('heading', { name, exact: true })).toBeVisible();
    }
    for (const name of ['Memory', 'Disk', 'Temperature', 'Processor', 'Network']) {
      await expect(page.locator('#vitals').getByRole('heading', { name })).toBeVisible();
    }
    await expect(page.locator('.address a')).toHaveAttribute('href', /^https?:\/\//);
    await shot(page, info, 'home');
    await check(page);
    await openAll(page);
    await shot(page, info, 'home-details');
    await check(page);
    console.log(`${info.project.name}: gate: ${gate} bytes, with the home page: ${bytes} bytes`);
    expect(gate).toBeGreaterThan(1000);
    expect(bytes).toBeLessThan(100_000);
  });

  test('keeps the page current', async ({ page }) => {
    await own(page);
    const live = page.waitForResponse(r => new URL(r.url()).pathname === '/live');
    await page.goto('/');
    const response = await live;
    expect(response.status()).toBe(200);
    expect(response.headers()['content-type']).toBe('text/event-stream');
    // The page's own words, from a second stream like the first.
    const event = await page.evaluate(() => new Promise((ok, no) => {
      const query = new URLSearchParams({ version: document.body.dataset.version, page: '/', rescue: document.getElementById('box').dataset.rescue, problem: '' });
      const s = new EventSource(`/live?${query}`);
      s.addEventListener('view', e => { s.close(); ok(Object.keys(JSON.parse(e.data))); });
      s.addEventListener('reload', () => { s.close(); no(new Error('reload')); });
      setTimeout(() => no(new Error('no event')), 10_000);
    }));
    expect(event).toContain('vitals');
    await expect(page.locator('#offline')).toBeEmpty();
  });

  test('works by keyboard alone', async ({ page }) => {
    await page.goto('/');
    await page.keyboard.press('Tab');
    await expect(page.getByRole('link', { name: 'Skip to the content' })).toBeFocused();
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    await expect(page.getByLabel('Claim code')).toBeFocused();
    await page.keyboard.type(code);
    await page.keyboard.press('Enter');
    await expect(page).toHaveURL(/\/setup\/name$/);
    await page.getByLabel('Name of the box').focus();
    await page.keyboard.press('Enter');
    await page.getByLabel('Your name').focus();
    await page.keyboard.type(owner.name);
    await page.keyboard.press('Tab');
    await page.keyboard.type(owner.password);
    await page.keyboard.press('Enter');
    await expect(page).toHaveURL(/\/setup\/time-zone$/);
    await page.getByRole('button', { name: 'Next' }).focus();
    await page.keyboard.press('Enter');
    await expect(page).toHaveURL(/\/setup\/done$/);
    await page.goto('/');
    const first = page.locator('#network summary');
    await first.focus();
    await page.keyboard.press('Enter');
    await expect(page.locator('#network')).toHaveAttribute('open');
    await page.getByRole('button', { name: 'Sign out' }).focus();
    await page.keyboard.press('Enter');
    await expect(page.getByLabel('Password', { exact: true })).toBeVisible();
  });
});
