// The page of updates, in each state that the updater can be in. These tests need the test server, which can bring them about.
import { test, expect, check, control, dev, fits, fresh, nextClient, openAll, out, own, owner, tell, told, watch, words } from './fixtures.js';
import { createHash } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

test.skip(!dev, 'a real box is in the state that it is in');
test.beforeEach(() => fresh());

const setUpdates = name => tell('updates', { name });

// evidence is the one line of it that the stand-in's release has.
const evidence = t => `${t('evidence.signed', 3, 5)}, ${t('evidence.logged')}, ${t('evidence.witnesses.other', 3)}, ${t('time.ago', t('past.days.other', 2))}`;

// What each state has to say on the page; the words are the catalogue's.
const states = t => ({
  built: ['updates.nobody', t('evidence.built')],
  idle: ['updates.newest', evidence(t)],
  unlogged: ['updates.newest', `${t('evidence.signed', 1, 1)}, ${t('evidence.unlogged')}`],
  audited: ['updates.newest', `${evidence(t)}, ${t('evidence.auditor', 'Public Audit e.V.')}`],
  offer: [t('update.offer', '1.4.0'), t('update.auto', '02:00', '05:00'), t('update.now'), evidence(t)],
  'offer-stay': [t('update.offer', '1.4.0'), t('update.stay')],
  'offer-ask': [t('update.offer', '1.4.0'), t('update.tonight'), t('update.later')],
  checking: ['update-state.checking', t('update.leave')],
  downloading: ['update-state.downloading', t('update.step', 1, 5), t('update-source.neighbour'), t('update.left', t('time.seconds.other', 14)), t('update.leave')],
  writing: ['update-state.writing', t('update.step', 2, 5), t('update.bytes', t('size.mb').replace('%.0f', 31), t('size.mb').replace('%.0f', 61))],
  verifying: ['update-state.verifying', t('update.step', 3, 5)],
  ready: [t('update-state.ready').replace('{version}', '1.4.0'), t('update-state.ready.when', t('time.hours.other', 8)), t('update.restart')],
  'ready-ask': [t('update-state.ready').replace('{version}', '1.4.0'), t('update.restart')],
  restarting: ['update-state.restarting', t('update.step', 4, 5)],
  trial: ['update-state.trial', t('update.step', 5, 5), t('update.checks', 1, 3)],
  kept: ['updates.newest', t('update-outcome.kept').replace('{version}', '1.4.0'), t('update.down', t('time.seconds.other', 9)), t('update.by', 'Anna')],
  back: [t('update.offer', '1.4.0'), t('update-outcome.back').replace('{version}', '1.4.0').replace('{from}', '1.3.0'), t('update-cause.page'), t('update-cause.page.next')],
  'back-service': ['updates.newest', t('update-cause.service').replace('{service}', t('service-name.discovery'))],
  failed: ['updates.newest', t('update-outcome.failed').replace('{version}', '1.4.0'), t('update-cause.read-back')],
  'tried-twice': [t('update.offer', '1.4.0'), t('update-cause.tried-twice'), t('update.tried.other', 2)],
  stale: ['updates.unsure', t('update-cause.stale'), t('update-cause.stale.next')],
  'no-source': ['updates.unsure', t('update-cause.no-source')],
  'split-view': ['updates.stopped', t('update-cause.split-view'), t('update-cause.split-view.next')],
  usb: [t('update.offer.usb', '1.4.0', 'HOLIDAY 2024'), t('update.now')],
  file: [t('update.offer.file', '1.4.0'), t('update.stale')],
  away: ['updates.away', t('updates.away.text')],
});

for (const [lang, script] of [['en', true], ['de', true], ['de', false]]) {
  test(`updates: every state ${lang}${script ? '' : ' no script'}`, async ({ browser }, info) => {
    test.skip((info.project.name === 'desk') !== (lang === 'de' && script), 'each of the three in one size');
    test.setTimeout(300_000);
    const t = words(lang), bad = [];
    const context = await browser.newContext({
      ...info.project.use, locale: lang === 'de' ? 'de-DE' : 'en-GB', extraHTTPHeaders: nextClient(),
    });
    const first = await context.newPage();
    await own(first);
    const state = await context.storageState();
    await context.close();
    const visitor = await browser.newContext({
      ...info.project.use, locale: lang === 'de' ? 'de-DE' : 'en-GB', javaScriptEnabled: script, extraHTTPHeaders: nextClient(), storageState: state,
    });
    const page = await visitor.newPage();
    watch(page, bad);
    for (const [name, [title, ...rest]] of Object.entries(states(t))) {
      await setUpdates(name);
      await expect(async () => { // core may say what it heard half a second ago
        await page.goto('/updates');
        await expect(page.locator('#update-title')).toHaveText(title.includes(' ') ? title : t(title), { timeout: 500 });
        for (const text of rest) await expect(page.locator('main')).toContainText(text, { timeout: 100 });
      }).toPass({ timeout: 20_000 });
      if (script) {
        await openAll(page);
        await check(page);
      } else {
        await fits(page);
      }
      const picture = `${out}/page-updates-${name}-${lang}${script ? '' : '-noscript'}-${info.project.name}`;
      await page.screenshot({ path: `${picture}.png`, fullPage: true });
      if (lang === 'en' && info.project.name === 'phone') {
        await page.emulateMedia({ colorScheme: 'dark' });
        await page.screenshot({ path: `${picture}-dark.png`, fullPage: true });
        await page.emulateMedia({ colorScheme: 'light' });
      }
    }
    expect(bad).toEqual([]);
    await visitor.close();
  });
}

test('updates: from the offer over the restart to what came of it', async ({ page, allowed }, info) => {
  test.setTimeout(180_000);
  allowed.push(/ERR_|Failed to load resource/);
  const t = words('en');
  await own(page);
  await setUpdates('offer');
  await expect(async () => {
    await page.goto('/updates');
    await expect(page.getByRole('button', { name: t('update.now') })).toBeVisible({ timeout: 500 });
  }).toPass();
  await expect(page.getByText('Pages open faster on slow phones.')).toBeVisible();
  await page.getByRole('button', { name: t('update.now') }).click();
  await expect(page.getByRole('progressbar')).toBeVisible();
  expect((await told()).join()).toContain('POST /v1/action {"action":"install","number":17,"by":"Anna"}');
  await page.evaluate(() => { window.same = true; });
  await setUpdates('writing');
  await expect(page.locator('#update-title')).toHaveText(t('update-state.writing'));
  await expect(page.getByRole('progressbar')).toHaveAttribute('value', '51');
  await setUpdates('verifying');
  await expect(page.locator('#update-title')).toHaveText(t('update-state.verifying'));

  // The box goes away and comes back: the page is the same one all the time.
  await tell('cut', { on: 'yes' });
  try {
    await expect(page.locator('#offline')).toHaveText(t('update.away.page'), { timeout: 30_000 });
    await page.screenshot({ path: `${out}/page-updates-gone-en-${info.project.name}.png` });
    await setUpdates('trial');
    await page.waitForTimeout(9000);
  } finally {
    await tell('cut', { on: 'no' });
  }
  await expect(page.locator('#update-title')).toHaveText(t('update-state.trial'), { timeout: 30_000 });
  await expect(page.locator('#offline')).toBeEmpty();
  await setUpdates('kept');
  await expect(page.locator('#updates-now')).toContainText(t('update-outcome.kept').replace('{version}', '1.4.0'));
  expect(await page.evaluate(() => window.same)).toBe(true);

  await setUpdates('trial'); // the start page tells of it, too
  await page.goto('/');
  await expect(page.getByRole('heading', { name: t('update-state.trial') })).toBeVisible();
  await setUpdates('back');
  await expect(page.getByText(t('alert.update-back'))).toBeVisible();
  await expect(page.locator('main')).toContainText(t('update-cause.page'));
  await page.screenshot({ path: `${out}/page-updates-home-back-en-${info.project.name}.png`, fullPage: true });
  await check(page);
});

test('updates: a restart that is asked for shows a page that comes back', async ({ page, allowed }) => {
  test.setTimeout(120_000);
  allowed.push(/ERR_|Failed to load resource/);
  const t = words('en');
  await own(page);
  await setUpdates('ready');
  await expect(async () => {
    await page.goto('/updates');
    await expect(page.getByRole('button', { name: t('update.restart') })).toBeVisible({ timeout: 500 });
  }).toPass();
  await page.getByRole('button', { name: t('update.restart') }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(t('update.away'));
  await check(page);
  await tell('cut', { on: 'yes' });
  await page.waitForTimeout(7000);
  await setUpdates('back');
  await tell('cut', { on: 'no' });
  await expect(page).toHaveURL(/\/updates$/, { timeout: 30_000 });
  await expect(page.locator('main')).toContainText(t('update-cause.page'));
});

for (const script of [true, false]) {
  test(`updates: settings, trust, history and files, script ${script ? 'on' : 'off'}`, async ({ browser }, info) => {
    test.setTimeout(300_000);
    const lang = script ? 'en' : 'de';
    const t = words(lang), bad = [];
    const use = { ...info.project.use, locale: lang === 'de' ? 'de-DE' : 'en-GB', extraHTTPHeaders: nextClient() };
    const context = await browser.newContext(use);
    await own(await context.newPage());
    const state = await context.storageState();
    await context.close();
    const visitor = await browser.newContext({ ...use, javaScriptEnabled: script, storageState: state });
    const page = await visitor.newPage();
    watch(page, bad);
    const see = async name => {
      await (script ? check : fits)(page);
      await page.screenshot({ path: `${out}/page-updates-${name}-${lang}${script ? '' : '-noscript'}-${info.project.name}.png`, fullPage: true });
    };
    const press = name => page.getByRole('button', { name, exact: true }).click();
    const label = key => page.getByLabel(t(key), { exact: true });

    await test.step('from the box', async () => {
      await page.goto('/box');
      await page.getByRole('link', { name: t('updates.title') }).click();
      await expect(page.locator('#update-title')).toHaveText(t('updates.newest'));
    });
    await test.step('policy', async () => {
      await page.getByRole('link', { name: t('updates-policy.title') }).click();
      await expect(page.getByLabel(t('updates-policy.auto'))).toBeChecked();
      await see('policy');
      await page.getByLabel(t('updates-policy.ask')).check();
      await label('updates-policy.from').fill('01:30');
      await label('updates-policy.to').fill('01:30');
      await press(t('form.save'));
      await expect(page.locator('#to-problem')).toContainText(t('field.time'));
      await expect(page.getByLabel(t('updates-policy.ask'))).toBeChecked();
      await label('updates-policy.to').fill('04:15');
      await page.getByText(t('updates-policy.more'), { exact: true }).click();
      await label('updates-policy.mirrors').fill('not an address');
      await press(t('form.save'));
      await expect(page.locator('#mirrors-problem')).toContainText(t('field.url'));
      await see('policy-wrong');
      await label('updates-policy.mirrors').fill('https://a.example/croft\nhttps://b.example');
      await press(t('form.save'));
      await expect(page.locator('.done')).toHaveText(t('done.update-policy'));
      await expect(page.locator('main')).toContainText(t('updates-policy.ask'));
      expect((await told()).join()).toContain('PUT /v1/policy {"policy":{"mode":"ask","from":"01:30","to":"04:15","mirrors":["https://a.example/croft","https://b.example"]},"time_zone":"Europe/Berlin"}');
      await page.goto('/box/config');
      await expect(page.locator('.diffs').first()).toContainText('01:30');
      await see('config');
    });
    await test.step('not now, and tonight', async () => {
      await setUpdates('offer-ask');
      await expect(async () => {
        await page.goto('/');
        await expect(page.getByText(t('alert.update-available').replace('{version}', '1.4.0'))).toBeVisible({ timeout: 1000 });
      }).toPass();
      await see('home-available');
      await page.getByRole('link', { name: t('head.look') }).first().click();
      await press(t('update.later'));
      await expect(page.locator('.done')).toHaveText(t('done.update-later'));
      await expect(page.getByText(t('alert.update-available').replace('{version}', '1.4.0'))).toHaveCount(0);
      await page.goto('/updates');
      await press(t('update.tonight'));
      await expect(page.locator('.done')).toHaveText(t('done.update-tonight'));
      expect((await told()).join()).toContain('"action":"tonight","number":17');
    });
    await test.step('back', async () => {
      await setUpdates('idle');
      await expect(async () => {
        await page.goto('/updates');
        await page.getByRole('link', { name: t('updates-back.title') }).click({ timeout: 1000 });
      }).toPass();
      await expect(page.getByRole('heading', { level: 1 })).toHaveText(t('updates-back.ask', '1.2.4'));
      await see('back-ask');
      await press(t('updates-back.submit'));
      await expect(page.getByRole('heading', { level: 1 })).toHaveText(t('updates-back.done'));
      await see('back-away');
      expect((await told()).join()).toContain('"action":"back"');
    });
    await test.step('history', async () => {
      await setUpdates('kept');
      await page.goto('/updates/history');
      await expect(page.locator('ol.rows > li')).toHaveCount(30);
      await see('history');
      await page.getByRole('link', { name: t('list.older') }).click();
      await expect(page.locator('ol.rows > li').first()).toBeVisible();
    });
    await test.step('trust', async () => {
      await setUpdates('idle');
      await page.goto('/updates/trust');
      await expect(page.getByText(t('updates-trust.builtin'))).toBeVisible();
      await see('trust');
      await page.getByRole('link', { name: t('updates-root.project.title') }).click();
      await expect(page.getByText(t('updates-warning.project'))).toBeVisible();
      await see('trust-fork');
      const root = '{"signed":{"_type":"root"}}';
      const print = createHash('sha256').update(root).digest('hex');
      const fill = async (fingerprint, password) => {
        await label('updates-root.name').fill('The fork');
        await label('updates-root.fingerprint').fill(fingerprint);
        await page.locator('#root').setInputFiles({ name: 'root.json', mimeType: 'application/json', buffer: Buffer.from(root) });
        await label('my-password.yours').fill(password);
        await press(t('updates-root.submit'));
      };
      await fill('5e1f'.repeat(16), owner.password);
      await expect(page.locator('#fingerprint-problem')).toContainText(t('field.fingerprint'));
      await see('trust-fingerprint');
      await fill('12 34', owner.password);
      await expect(page.locator('#fingerprint-problem')).toContainText(t('field.format'));
      await fill(print, 'not this one');
      await expect(page.locator('#password-problem')).toContainText(t('my-password.wrong'));
      expect((await told()).join()).not.toContain('/v1/trust');
      await fill(print.toUpperCase().replace(/(.{4})/g, '$1 '), owner.password);
      await expect(page.locator('.done')).toHaveText(t('done.update-trust'));
      await expect(page.getByRole('heading', { level: 2, name: 'The fork' })).toBeVisible();
      await see('trust-own');
      await page.getByRole('link', { name: t('updates-root.auditor.title') }).click();
      await see('trust-auditor');
      await fill(print, owner.password);
      await expect(page.getByText(t('updates-trust.auditor'))).toBeVisible();
      await page.getByRole('link', { name: t('updates-alone.title') }).click();
      await label('my-password.yours').fill(owner.password);
      await press(t('updates-alone.submit'));
      await expect(page.getByText(t('updates-trust.auditor'))).toHaveCount(0);
      await page.getByRole('link', { name: t('updates-builtin.title') }).click();
      await see('trust-builtin');
      await label('my-password.yours').fill(owner.password);
      await press(t('updates-builtin.submit'));
      await expect(page.getByText(t('updates-trust.builtin'))).toBeVisible();
    });
    await test.step('file', async () => {
      await page.goto('/updates/file');
      await see('file');
      const dir = mkdtempSync(join(tmpdir(), 'croft'));
      const zip = (name, size) => { const p = join(dir, name); writeFileSync(p, Buffer.alloc(size)); return p; };
      const send = async file => {
        await page.locator('#file').setInputFiles(file);
        await press(t('updates-file.submit'));
      };
      const problem = text => expect(page.locator(script ? '#upload-says' : '.problem')).toContainText(text);
      for (const [cause, name] of [['bad-file', 'bad-file'], ['wrong-board', 'wrong-board'], ['disk-full', 'no-room']]) {
        await setUpdates(`refuse-${cause}`);
        await send(zip(`${cause}.zip`, 2000));
        await problem(t(`problem.${name}`));
      }
      await see('file-wrong');
      if (script) {
        await send(zip('huge.zip', 420e6));
        await problem(t('updates-file.large'));
      }
      await send(zip('croft-pi.zip', 30e6)); // thirty times what any other page takes
      await expect(page).toHaveURL(/\/updates\?done=update-uploaded$/, { timeout: 60_000 });
      await expect(page.locator('.done')).toHaveText(t('done.update-uploaded'));
      expect((await told()).join()).toContain('30000000 bytes of croft-pi.zip');
      await expect(async () => {
        if (!script) await page.reload();
        await expect(page.locator('#update-title')).toHaveText(t('update.offer.file', '1.4.0'), { timeout: 1000 });
      }).toPass();
      await page.goto('/updates/file');
      await expect(page.getByRole('heading', { name: t('updates-file.given') })).toBeVisible();
      await press(t('updates-file.remove'));
      await expect(page.locator('.done')).toHaveText(t('done.update-removed'));
    });
    await test.step('activity', async () => {
      await page.goto('/activity');
      for (const key of ['audit.update-trust.auditor.remove', 'audit.update-trust.project.builtin']) {
        await expect(page.getByText(t(key).replace('{who}', owner.name))).toBeVisible();
      }
      await see('activity');
    });
    expect(bad.filter(b => !/status of 4\d\d|status of 503/.test(b))).toEqual([]);
    await visitor.close();
  });
}

test('updates: words of others stay words', async ({ page }) => {
  await own(page);
  await setUpdates('hostile');
  await expect(async () => {
    await page.goto('/updates');
    await expect(page.locator('main')).toContainText('onerror', { timeout: 500 });
  }).toPass();
  for (const path of ['/updates/history', '/updates/trust', '/updates/back', '/', '/updates']) {
    await page.goto(path);
    expect(await page.locator('img[src=x]').count(), path).toBe(0);
    await check(page);
  }
});

for (const script of [true, false]) {
  test(`updates: a witness for others, script ${script ? 'on' : 'off'}`, async ({ browser }, info) => {
    test.setTimeout(120_000);
    const lang = script ? 'en' : 'de';
    const t = words(lang), bad = [];
    const visitor = await browser.newContext({
      ...info.project.use, locale: lang === 'de' ? 'de-DE' : 'en-GB', extraHTTPHeaders: nextClient(), javaScriptEnabled: script,
    });
    const page = await visitor.newPage();
    await own(page);
    watch(page, bad);
    const see = async name => {
      await (script ? check : fits)(page);
      await page.screenshot({ path: `${out}/page-witness-${name}-${lang}${script ? '' : '-noscript'}-${info.project.name}.png`, fullPage: true });
    };
    const press = name => page.getByRole('button', { name, exact: true }).click();
    const label = key => page.getByLabel(t(key), { exact: true });
    const log = 'PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW';
    await setUpdates('idle');
    await page.goto('/updates/trust');
    await page.getByRole('link', { name: t('witness.title') }).click();
    await expect(page.locator('.note')).toContainText(t('witness.off'));
    await see('off');
    await label('witness.name').fill('witness.example.org');
    await label('witness.logs').fill('no key');
    await press(t('witness.submit'));
    await expect(page.locator('#logs-problem')).toContainText(t('witness.logs.wrong'));
    await see('wrong');
    await label('witness.logs').fill(log);
    await press(t('witness.submit'));
    await expect(async () => { // the clock is asked at once, but not before the answer
      await page.goto('/updates/witness');
      await expect(page.locator('.note')).toContainText(t('witness.on.one', 1), { timeout: 500 });
    }).toPass();
    await expect(page.locator('#witness-key')).toContainText('witness.example.org+');
    await expect(page.locator('main')).toContainText(t('witness-log.none'));
    await see('on');
    const key = await page.locator('#witness-key').textContent();
    await page.getByRole('link', { name: t('witness-key.title') }).click();
    await see('key');
    await press(t('witness-key.submit'));
    await expect(page.locator('.done')).toHaveText(t('done.witness-key'));
    await expect(page.locator('#witness-key')).not.toHaveText(key);
    await page.goto('/box/config');
    await expect(page.locator('.diffs').first()).toContainText(log);
    await page.goto('/updates/witness');
    await press(t('witness.end'));
    await expect(page.locator('.note')).toContainText(t('witness.off'));
    expect(bad.filter(b => !/status of 422/.test(b))).toEqual([]);
    await visitor.close();
  });
}
