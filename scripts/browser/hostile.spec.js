// Everything that the box keeps and shows may come from somebody who wants to run a script in an owner's browser.
import { test, expect, ask, dev, fresh, nextClient, own, owner, setState } from './fixtures.js';

test.skip(!dev, 'the test server has hostile logs');

const evil = '"><img src=x onerror=alert(1)>';

test('nothing that is stored runs or breaks out', async ({ page, allowed, browser, playwright }) => {
  allowed.push(/status of 4\d\d|ERR_/);
  await fresh();
  await own(page);
  const base = process.env.CROFT_ADDR;
  // Names of people and tokens, devices, settings: whatever is taken is shown as it is.
  const taken = [];
  const { body: invite } = await ask(page, 'POST', '/invites', { role: 'member', hours: 1 }, 201);
  const guest = await playwright.request.newContext({ baseURL: base, extraHTTPHeaders: { ...nextClient(), 'User-Agent': `Mozilla/5.0 ${evil}` } });
  const r = await guest.post('/api/v1/join', { data: { code: invite.code, name: evil, password: owner.password } });
  if (r.status() === 201) taken.push('/people');
  else expect(r.status(), await r.text()).toBe(422);
  const agent = await playwright.request.newContext({ baseURL: base, extraHTTPHeaders: { ...nextClient(), 'User-Agent': evil, 'X-Forwarded-For': evil } });
  expect((await agent.post('/api/v1/session', { data: owner })).status()).toBe(201);
  if ((await ask(page, 'POST', '/me/tokens', { name: evil, scopes: ['box'], days: 7 }, [201, 422])).status === 201) taken.push('/me/tokens');
  await guest.post('/api/v1/session', { data: { name: evil, password: 'wrong one' } });
  const config = await ask(page, 'GET', '/config', undefined, 200);
  config.body.network.ntp = [evil];
  await ask(page, 'PUT', '/config', config.body, 422, { 'If-Match': config.etag });
  await setState('hostile');

  let shown = 0;
  for (const path of [
    '/', '/services', '/services/discovery', '/logs', '/logs?q=%22%3E%3Cimg+src%3Dx+onerror%3Dalert(1)%3E', '/people', '/me', '/me/sessions',
    '/me/tokens', '/activity', '/alerts', '/box', '/box/about', '/box/config', '/box/network', '/trust',
    '/?done=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E', '/activity?kind=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E', '/services/%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E',
    '/logs?service=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E&level=%22%3E%3Cimg%20src=x%3E',
  ]) {
    await page.goto(path);
    if (path === '/' || path.startsWith('/services/') || path === '/logs') await page.waitForTimeout(1500); // what arrives live
    expect(await page.locator('img').count(), path).toBe(0);
    expect(await page.locator('[onerror]').count(), path).toBe(0);
    if ((await page.locator('body').textContent()).includes('onerror=alert(1)')) shown++;
    else expect(taken, path).not.toContain(path);
  }
  expect(shown).toBeGreaterThan(3);
  // An address that leads elsewhere is not followed.
  for (const to of ['//evil.example', 'https://evil.example/', '/\\evil.example', 'javascript:alert(1)', '/%09/evil.example']) {
    const other = await browser.newContext({ extraHTTPHeaders: nextClient() });
    const p = await other.newPage();
    await p.goto(`/signin?to=${encodeURIComponent(to)}`);
    await p.getByLabel('Name').fill(owner.name);
    await p.getByLabel('Password', { exact: true }).fill(owner.password);
    await p.getByRole('button', { name: 'Sign in', exact: true }).click();
    await expect(p).not.toHaveURL(/signin/); // at home, or on a page that is not there
    expect(new URL(p.url()).hostname).toBe('croft.local');
    await other.close();
  }
  await guest.dispose();
  await agent.dispose();
});
