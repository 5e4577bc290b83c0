// What must hold on any box, given its URL and claim code: CROFT_URL, CROFT_CODE.
import { test, expect, check, claim, code, dev, openAll, out, setState, shot } from './fixtures.js';

test.beforeEach(async () => { if (dev) await setState('well'); });

test.describe('any box @box', () => {
  test('asks for the claim code', async ({ page }, info) => {
    await page.goto('/');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('Welcome to your Croft');
    await expect(page.getByLabel('Claim code')).toBeVisible();
    await check(page);
    await shot(page, info, 'gate');
  });

  test('says that a code is wrong, and takes the right one', async ({ page, context }, info) => {
    await page.goto('/');
    await page.getByLabel('Claim code').fill('0000-0000');
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.getByRole('alert')).toContainText("not this box's claim code");
    await expect(page.getByLabel('Claim code')).toBeFocused();
    await check(page);
    await shot(page, info, 'gate-wrong');

    await page.getByLabel('Claim code').fill('123');
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.getByRole('alert')).toContainText('eight letters and digits');
    expect(await context.cookies()).toEqual([]);

    // As a person might type it.
    await page.getByLabel('Claim code').fill(` ${code.toLowerCase().replace('-', ' ')} `);
    await page.keyboard.press('Enter');
    await expect(page.locator('#box')).toBeVisible();
    const [cookie, ...more] = await context.cookies();
    expect(more).toEqual([]);
    const secure = page.url().startsWith('https:');
    const name = secure ? '__Host-croft_session' : 'croft_session';
    expect(cookie).toMatchObject({ name, secure, httpOnly: true, sameSite: 'Strict', path: '/' });
    expect(page.url()).not.toContain(code);
  });

  test('shows its state to who scanned the code', async ({ page }, info) => {
    let bytes = 0;
    const cdp = await page.context().newCDPSession(page);
    await cdp.send('Network.enable');
    cdp.on('Network.loadingFinished', e => { bytes += e.encodedDataLength; });
    await claim(page);
    for (const name of ['How it is doing', 'What is running', 'Where to find it', 'Start', 'Protections that this box lacks', 'About this box']) {
      await expect(page.getByRole('heading', { name, exact: true })).toBeVisible();
    }
    for (const name of ['Memory', 'Disk', 'Temperature', 'Processor', 'Time']) {
      await expect(page.locator('#vitals').getByRole('heading', { name })).toBeVisible();
    }
    await expect(page.locator('#services li details')).not.toHaveCount(0);
    await expect(page.locator('.address a')).toHaveAttribute('href', /^https?:\/\//);
    await shot(page, info, 'home');
    await check(page);
    await openAll(page);
    await expect(page.locator('#services').getByText('Kept apart').first()).toBeVisible();
    await expect(page.locator('.phases li')).not.toHaveCount(0);
    await shot(page, info, 'home-details');
    await check(page);
    console.log(`${info.project.name}: gate, claim and box page together: ${bytes} bytes`);
    expect(bytes).toBeGreaterThan(1000);
    expect(bytes).toBeLessThan(100_000);
  });

  test('keeps the page current', async ({ page }) => {
    const live = page.waitForResponse(r => new URL(r.url()).pathname === '/live');
    await claim(page);
    const response = await live;
    expect(response.status()).toBe(200);
    expect(response.headers()['content-type']).toBe('text/event-stream');
    // The page's own words, from a second stream like the first.
    const event = await page.evaluate(() => new Promise((ok, no) => {
      const s = new EventSource(`/live?version=${document.body.dataset.version}&rescue=${document.getElementById('box').dataset.rescue}`);
      s.addEventListener('view', e => { s.close(); ok(Object.keys(JSON.parse(e.data))); });
      s.addEventListener('reload', () => { s.close(); no(new Error('reload')); });
      setTimeout(() => no(new Error('no event')), 10_000);
    }));
    expect(event).toContain('vitals');
    await expect(page.locator('#offline')).toBeEmpty();
  });

  test('needs no script', async ({ browser, extraHTTPHeaders }, info) => {
    const context = await browser.newContext({ ...info.project.use, javaScriptEnabled: false, extraHTTPHeaders });
    const page = await context.newPage();
    await page.goto('/');
    await page.getByLabel('Claim code').fill(code);
    await page.getByRole('button', { name: 'Open' }).click();
    await expect(page.getByRole('heading', { name: 'What is running' })).toBeVisible();
    await expect(page.getByRole('link', { name: 'Show the current state' })).toBeVisible();
    await page.locator('#services summary').first().click();
    await expect(page.locator('#services dl').first()).toBeVisible();
    await page.screenshot({ path: `${out}/${dev ? 'page' : 'box'}-noscript-${info.project.name}.png`, fullPage: true });
    await page.getByRole('button', { name: 'Sign out' }).click();
    await expect(page.getByLabel('Claim code')).toBeVisible();
    expect(await context.cookies()).toEqual([]);
    await context.close();
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
    await expect(page.locator('#box')).toBeVisible();
    const first = page.locator('#services summary').first();
    await first.focus();
    await page.keyboard.press('Enter');
    await expect(page.locator('#services details').first()).toHaveAttribute('open');
    await page.getByRole('button', { name: 'Sign out' }).focus();
    await page.keyboard.press('Enter');
    await expect(page.getByLabel('Claim code')).toBeVisible();
  });

  test('tells nothing to who is not in', async ({ playwright }) => {
    const request = await playwright.request.newContext({ baseURL: process.env.CROFT_ADDR || process.env.CROFT_URL, ignoreHTTPSErrors: true });
    const health = await request.get('/api/v1/health');
    expect(await health.json()).toEqual({ ok: true });
    for (const path of ['box', 'session', 'events']) {
      const r = await request.get(`/api/v1/${path}`);
      expect(r.status()).toBe(401);
      expect(r.headers()['content-type']).toBe('application/problem+json');
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
