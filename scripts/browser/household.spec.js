// The story of a household, from the scanned code to starting over, with every page that it meets. It needs nothing but a
// box that nobody has claimed, and leaves one; so it runs on a booted image too.
import { test, expect, check, code, dev, fits, fresh, nextClient, openAll, out, owner, setState, shot, told, totp, watch, words } from './fixtures.js';

const joerg = { name: 'Jörg', password: 'three ducks on the pond' };

// A story is told in a language, with or without a script.
for (const [lang, script] of [['en', true], ['de', true], ['de', false]]) {
  const title = `household ${lang}${script ? '' : ' no script'}`;
  test(`${title} @box`, async ({ browser }, info) => {
    test.skip(dev && info.project.name === 'desk' && lang === 'de' && script, 'told on the phone');
    test.setTimeout(480_000);
    const t = words(lang), bad = [], contexts = [];
    const visitor = async () => {
      const context = await browser.newContext({
        ...info.project.use, locale: lang === 'de' ? 'de-DE' : 'en-GB', javaScriptEnabled: script, extraHTTPHeaders: nextClient(),
      });
      contexts.push(context);
      const page = await context.newPage();
      watch(page, bad);
      return page;
    };
    // see is for every page: it is named, it holds what holds everywhere, and there is a picture of it.
    const see = async (page, name, h1) => {
      if (h1) await expect(page.getByRole('heading', { level: 1 })).toHaveText(h1);
      await expect(page.locator('html')).toHaveAttribute('lang', lang);
      if (script) {
        await openAll(page);
        await check(page);
      } else {
        await fits(page);
      }
      const picture = `${dev ? 'page' : 'box'}-${name}-${lang}${script ? '' : '-noscript'}-${info.project.name}`;
      await page.screenshot({ path: `${out}/${picture}.png`, fullPage: true });
      if (script && lang === 'en' && info.project.name === 'phone') {
        await page.emulateMedia({ colorScheme: 'dark' });
        await page.screenshot({ path: `${out}/${picture}-dark.png`, fullPage: true });
        await page.emulateMedia({ colorScheme: 'light' });
      }
    };
    const press = (page, name) => page.getByRole('button', { name, exact: true }).click();
    const follow = (page, name) => page.locator('main').getByRole('link', { name }).first().click();
    const done = (page, name) => expect(page.locator('.done')).toHaveText(t(`done.${name}`));
    const problem = (page, text) => expect(page.locator('.problem').filter({ hasText: text }).first()).toBeVisible();
    let base = process.env.CROFT_URL;
    const at = process.env.CROFT_ADDR || base; // for what does not ask the browser where the name leads
    const to = (page, path) => page.goto(base + path);
    // field by its label; labels of fields with a hint hold nothing else.
    const field = (page, label) => page.getByLabel(label, { exact: true });

    if (dev) await fresh();
    const anna = await visitor();

    await test.step('claim', async () => {
      await anna.goto('/');
      await see(anna, 'gate', t('gate.claim.title'));
      if (script) {
        await anna.goto(`/#${code}`);
        await anna.reload(); // a fragment alone loads nothing
      } else {
        await field(anna, t('gate.label')).fill(code);
        await press(anna, t('gate.submit'));
      }
      await expect(anna).toHaveURL(/\/setup\/name$/);
      const other = await visitor();
      await other.goto('/');
      await see(other, 'gate-busy', t('gate.busy.title'));
      await field(other, t('gate.label')).fill(code);
      await press(other, t('gate.submit'));
      await expect(other.getByRole('button', { name: t('gate.busy.again') })).toBeVisible();
      await see(other, 'gate-wait', t('gate.busy.title'));
      await other.context().close();
    });

    await test.step('set up', async () => {
      await see(anna, 'setup-name', t('setup-name.title'));
      await expect(anna.getByText(t('setup.progress', 1, 4))).toBeVisible();
      await field(anna, t('setup-name.label')).fill('our box!');
      await press(anna, t('form.next'));
      await problem(anna, t('field.host-name'));
      await expect(field(anna, t('setup-name.label'))).toHaveValue('our box!');
      await see(anna, 'setup-name-wrong');
      await field(anna, t('setup-name.label')).fill('hof');
      await press(anna, t('form.next'));
      await see(anna, 'setup-account', t('setup-account.title'));
      await follow(anna, t('form.back'));
      await expect(field(anna, t('setup-name.label'))).toHaveValue('hof');
      await anna.reload();
      await press(anna, t('form.next'));
      await field(anna, t('account.name')).fill(owner.name);
      await field(anna, t('account.password')).fill('abc');
      await press(anna, t('form.next'));
      await problem(anna, t('field.password-short'));
      await expect(field(anna, t('account.name'))).toHaveValue(owner.name);
      await expect(field(anna, t('account.password'))).toHaveValue('');
      await see(anna, 'setup-account-wrong');
      // Interrupted, it goes on where it was.
      await anna.goto('/');
      await expect(anna).toHaveURL(/\/setup\/account$/);
      await field(anna, t('account.name')).fill(owner.name);
      await field(anna, t('account.password')).fill(owner.password);
      await press(anna, t('form.next'));
      await see(anna, 'setup-zone', t('setup-zone.title'));
      const zone = field(anna, t('setup-zone.label'));
      if (script) await expect(zone).toHaveValue('Europe/Berlin');
      else await zone.selectOption('Europe/Berlin');
      await follow(anna, t('form.back'));
      await see(anna, 'setup-account-there', t('setup-account.title'));
      await follow(anna, t('form.next'));
      if (!script) await zone.selectOption('Europe/Berlin');
      await press(anna, t('form.next'));
      await see(anna, 'setup-done', t('setup-done.title'));
    });

    const signIn = async (password = owner.password) => {
      await field(anna, t('signin.name')).fill(owner.name);
      await field(anna, t('signin.password')).fill(password);
      await press(anna, t('signin.submit'));
    };
    const signOut = async () => {
      await press(anna, t('page.signout'));
      await done(anna, 'signed-out');
    };

    await test.step('sign in', async () => {
      const there = anna.getByRole('link', { name: t('setup-done.there') });
      if (await there.isVisible()) {
        await there.click();
        base = new URL(anna.url()).origin;
        expect(base).toContain('//hof.local');
      } else {
        await follow(anna, t('setup-done.go'));
        await expect(anna.locator('#box')).toBeVisible();
        await signOut();
      }
      await see(anna, 'signin', t('signin.at', 'hof'));
      await signIn('not my password');
      await problem(anna, t('problem.wrong-password'));
      await see(anna, 'signin-wrong');
      await signIn();
      await expect(anna.locator('#box')).toBeVisible();
      if (dev) await expect(anna.getByRole('heading', { level: 1 })).toHaveText(t('head.ok.title'));
      await see(anna, 'home');
    });

    await test.step('services and logs', async () => {
      await anna.getByRole('navigation').getByRole('link', { name: t('nav.services') }).click();
      await see(anna, 'services', t('services-page.title'));
      const [file] = await Promise.all([anna.waitForEvent('download'), follow(anna, t('diagnosis.get'))]);
      const zip = Buffer.concat(await (await file.createReadStream()).toArray());
      expect(zip.subarray(0, 2).toString(), zip.toString().slice(0, 2000)).toBe('PK');
      await follow(anna, t('service-name.discovery'));
      await see(anna, 'service', t('service-name.discovery'));
      await follow(anna, t('service-restart.submit'));
      await see(anna, 'service-restart', t('service-restart.title'));
      await press(anna, t('service-restart.submit'));
      await done(anna, 'service-restarted');
      if (dev) expect(await told()).toContain('POST /v1/services/discovery/restart');
      await expect(async () => {
        await to(anna, '/services/discovery');
        await expect(anna.getByText(t('state.running')).first()).toBeVisible({ timeout: 2000 });
      }).toPass();
      await to(anna, '/logs');
      await expect(anna.locator('#lines li').first()).toBeVisible();
      if (script && dev) await expect(anna.locator('#lines')).toContainText('of the stream');
      await see(anna, 'logs', t('logs.title'));
      if (!await field(anna, t('logs.query')).isVisible()) await anna.locator('#search > summary').click();
      await field(anna, t('logs.query')).fill('<b>nothing like that');
      await press(anna, t('logs.show'));
      await expect(anna.getByText(t('logs.nothing'))).toBeVisible();
      await field(anna, t('logs.query')).fill('');
      await field(anna, t('logs.level')).selectOption('debug');
      await press(anna, t('logs.show'));
      const from = async () => (await anna.locator('#lines li small').first().textContent()).split(' · ')[1];
      const service = await from();
      await field(anna, t('logs.service')).selectOption({ label: service });
      await press(anna, t('logs.show'));
      await expect(anna).toHaveURL(/service=\w/);
      expect(await from()).toBe(service);
    });

    const ducks = await visitor();
    await test.step('invite and join', async () => {
      await to(anna, '/people');
      await see(anna, 'people', t('people.title'));
      await follow(anna, t('people.invite'));
      await see(anna, 'invite', t('invite.title'));
      await press(anna, t('invite.submit'));
      await see(anna, 'invited', t('invited.title'));
      const link = (await anna.locator('#link').textContent()).trim();
      const typed = (await anna.locator('.secret.code').textContent()).trim();
      const spare = link.replace(/^.*#/, '');
      expect(spare).toBe(typed);
      await to(ducks, '/join');
      await see(ducks, 'join', t('join.title'));
      await field(ducks, t('join.label')).fill('0000-0000-0000');
      await press(ducks, t('join.submit'));
      await problem(ducks, t('problem.invite-void'));
      await see(ducks, 'join-wrong');
      if (script) {
        await to(ducks, `/people#${spare}`); // and not only at the right place
        await to(ducks, `/join#${spare}`);
        await ducks.reload();
      } else {
        await field(ducks, t('join.label')).fill(spare.toLowerCase().replaceAll('-', ' '));
        await press(ducks, t('join.submit'));
      }
      await see(ducks, 'join-account', t('join.head', 'hof'));
      await field(ducks, t('account.name')).fill(owner.name);
      await field(ducks, t('account.password')).fill(joerg.password);
      await press(ducks, t('join.account.submit'));
      await problem(ducks, t('field.name-taken'));
      await see(ducks, 'join-account-wrong');
      await field(ducks, t('account.name')).fill(joerg.name);
      await field(ducks, t('account.password')).fill(joerg.password);
      await press(ducks, t('join.account.submit'));
      await done(ducks, 'joined');
      await see(ducks, 'home-member');
      // What is for owners is not there for a member, and not behind its address either.
      for (const path of ['/people', '/box', '/logs', '/activity', '/alerts']) {
        await expect(ducks.locator(`a[href="${path}"]`)).toHaveCount(0);
        expect((await to(ducks, path)).status(), path).toBe(403);
      }
      await see(ducks, 'owners', t('owners.title'));
      await to(ducks, '/services');
      await expect(ducks.getByText(t('diagnosis.get'))).toHaveCount(0);
      await see(ducks, 'services-member', t('services-page.title'));
      await to(ducks, '/me');
      await see(ducks, 'me-member', joerg.name);
      // Used up.
      const late = await visitor();
      await to(late, '/join');
      await field(late, t('join.label')).fill(spare);
      await press(late, t('join.submit'));
      await problem(late, t('problem.invite-void'));
      await late.context().close();

      await to(anna, '/people/invite');
      await anna.getByLabel(t('role.owner')).first().check();
      await press(anna, t('invite.submit'));
      await to(anna, '/people');
      await see(anna, 'people-two', t('people.title'));
      await press(anna, t('invites.withdraw'));
      await done(anna, 'invite-withdrawn');
      await follow(anna, joerg.name);
      await see(anna, 'person', joerg.name);
      await press(anna, t('person.password.submit'));
      await see(anna, 'invited-password', t('invited.title'));
      await to(anna, '/people');
      await press(anna, t('invites.withdraw'));
      await follow(anna, joerg.name);
      await press(anna, t('person.sessions.submit'));
      await done(anna, 'person-signed-out');
      await to(ducks, '/');
      await expect(ducks).toHaveURL(/\/signin/);
      await to(anna, '/people');
      await follow(anna, joerg.name);
      await follow(anna, t('person.remove.go', joerg.name));
      await see(anna, 'person-remove', t('person-remove.title', joerg.name));
      await press(anna, t('person-remove.submit'));
      await done(anna, 'person-removed');
      await follow(anna, owner.name);
      await see(anna, 'person-last', owner.name);
    });

    await test.step('second factor', async () => {
      await to(anna, '/me');
      await see(anna, 'me', owner.name);
      await to(anna, '/me/name');
      await see(anna, 'me-name', t('me-name.title'));
      await to(anna, '/me/password');
      await see(anna, 'me-password', t('my-password.title'));
      await field(anna, t('my-password.old')).fill('not my password');
      await field(anna, t('my-password.new')).fill('another meadow');
      await press(anna, t('my-password.submit'));
      await problem(anna, t('my-password.wrong'));
      await see(anna, 'me-password-wrong');
      await to(anna, '/me/second-factor');
      await see(anna, 'factor', t('factor.title'));
      await field(anna, t('my-password.yours')).fill(owner.password);
      await press(anna, t('factor.submit'));
      await see(anna, 'factor-new', t('factor-new.title'));
      const secret = await anna.locator('#secret').textContent();
      await field(anna, t('factor.code')).fill('000000');
      await press(anna, t('factor-new.submit'));
      await problem(anna, t('problem.wrong-second-factor'));
      await see(anna, 'factor-new-wrong');
      await field(anna, t('factor.code')).fill(totp(secret));
      await press(anna, t('factor-new.submit'));
      await see(anna, 'codes', t('codes.title'));
      const codes = (await anna.locator('#codes').textContent()).trim().split(/\s+/);
      expect(codes).toHaveLength(10);
      await follow(anna, t('codes.done'));
      await to(anna, '/me/second-factor');
      await see(anna, 'factor-on', t('factor.title'));
      await to(anna, '/me/second-factor/codes');
      await see(anna, 'codes-new', t('codes-new.title'));
      await signOut();
      await signIn();
      await see(anna, 'signin-code', t('signin-code.title'));
      await field(anna, t('signin-code.label')).fill('000000');
      await press(anna, t('signin.submit'));
      await problem(anna, t('problem.wrong-second-factor'));
      await see(anna, 'signin-code-wrong');
      await field(anna, t('signin-code.label')).fill(totp(secret, 1)); // the one from before is used up
      await press(anna, t('signin.submit'));
      await expect(anna.locator('#box')).toBeVisible();
      await signOut();
      await signIn();
      await follow(anna, t('signin-code.lost'));
      await see(anna, 'signin-recovery', t('signin-code.title'));
      await field(anna, t('signin-code.recovery')).fill(codes[0].toLowerCase());
      await press(anna, t('signin.submit'));
      await expect(anna.locator('#box')).toBeVisible();
      // Another device, signed in with another code, and signed out from here.
      const away = await visitor();
      const r = await away.request.post(`${at}/api/v1/session`, { data: { ...owner, second_factor: codes[1] } });
      expect(r.status(), await r.text()).toBe(201);
      await to(anna, '/me/sessions');
      await see(anna, 'sessions', t('sessions.title'));
      await anna.locator('form[action$="/end"] button').click();
      await done(anna, 'session-ended');
      expect((await away.request.get(`${at}/api/v1/session`)).status()).toBe(401);
      await see(anna, 'sessions-one', t('sessions.title'));
      await away.context().close();
      await to(anna, '/me/second-factor/off');
      await see(anna, 'factor-end', t('factor-end.title'));
      await field(anna, t('my-password.yours')).fill(owner.password);
      await press(anna, t('factor-end.submit'));
      await done(anna, 'factor-off');
    });

    await test.step('token', async () => {
      await to(anna, '/me/tokens');
      await see(anna, 'tokens-none', t('tokens.title'));
      await follow(anna, t('tokens.new'));
      await see(anna, 'token-new', t('token-new.title'));
      await field(anna, t('tokens.name')).fill('backup script');
      await press(anna, t('token-new.submit'));
      await see(anna, 'token', t('token.title'));
      const token = (await anna.locator('#token').textContent()).trim();
      const ask = await visitor();
      const headers = { Authorization: `Bearer ${token}` };
      expect((await ask.request.get(`${at}/api/v1/box`, { headers })).status()).toBe(200);
      expect((await ask.request.get(`${at}/api/v1/people`, { headers })).status()).toBe(403);
      await to(anna, '/me/tokens');
      await see(anna, 'tokens', t('tokens.title'));
      await anna.locator('form[action$="/end"] button').click();
      await done(anna, 'token-ended');
      expect((await ask.request.get(`${at}/api/v1/box`, { headers })).status()).toBe(401);
      await ask.context().close();
    });

    await test.step('configuration', async () => {
      await to(anna, '/box/config');
      const [file] = await Promise.all([anna.waitForEvent('download'), follow(anna, t('config.export'))]);
      const stream = await file.createReadStream();
      const doc = JSON.parse(Buffer.concat(await stream.toArray()));
      expect(doc).toMatchObject({ format: 'croft-config/1', name: 'hof', time_zone: 'Europe/Berlin' });
      await follow(anna, t('config.import'));
      await see(anna, 'import', t('import.title'));
      await field(anna, t('import.paste')).fill(JSON.stringify({ ...doc, colour: 'green' }));
      await press(anna, t('import.submit'));
      await expect(anna.getByText('/colour')).toBeVisible();
      await see(anna, 'import-wrong', t('import.title'));
      await to(anna, '/box/config/import');
      await field(anna, t('import.file')).setInputFiles({
        name: 'croft-config.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify({ ...doc, time_zone: 'Asia/Tokyo' })),
      });
      await press(anna, t('import.submit'));
      await see(anna, 'import-check', t('import-check.title'));
      await expect(anna.locator('.diffs')).toContainText('Asia/Tokyo');
      await press(anna, t('import-check.submit'));
      await done(anna, 'config-imported');
      await see(anna, 'config', t('config.title'));
      await anna.locator('form[action$="/undo"] button').first().click();
      await done(anna, 'config-undone');
      await to(anna, '/box/time-zone');
      await see(anna, 'box-zone', t('box-zone.title'));
      await expect(field(anna, t('box-zone.label'))).toHaveValue('Europe/Berlin');
    });

    await test.step('network', async () => {
      const attempt = async server => {
        await to(anna, '/box/network');
        await anna.getByLabel(t('network.ntp')).fill(server);
        await press(anna, t('network.submit'));
        await expect(anna).toHaveURL(/\/box\/network\/trial$/);
      };
      await to(anna, '/box/network');
      await see(anna, 'network', t('network.title'));
      await attempt('time.example');
      await see(anna, 'trial', t('trial.title'));
      await press(anna, t('trial.keep'));
      await done(anna, 'network-kept');
      await expect(anna.getByLabel(t('network.ntp'))).toHaveValue('time.example');
      await attempt('other.example');
      await press(anna, t('trial.revert'));
      await done(anna, 'network-reverted');
      await expect(anna.getByLabel(t('network.ntp'))).toHaveValue('time.example');
      if (info.project.name === 'phone' && lang === 'en') { // nobody keeps it
        await attempt('lost.example');
        await to(anna, '/');
        await expect(anna.getByRole('timer')).toBeVisible();
        await see(anna, 'home-trial');
        await to(anna, '/box/network/trial');
        await expect(anna).toHaveURL(/\/box\/network(\?.*)?$/, { timeout: 75_000 });
        await expect(anna.getByLabel(t('network.ntp'))).toHaveValue('time.example');
      }
      await anna.getByLabel(t('network.ntp')).fill('time!example');
      await press(anna, t('network.submit'));
      await expect(anna.locator('main .problem').first()).toBeVisible();
      await see(anna, 'network-wrong', t('network.title'));
    });

    await test.step('the box', async () => {
      for (const [path, name, h1] of [
        ['/box', 'settings', 'settings.title'], ['/box/name', 'box-name', 'box-name.title'], ['/box/about', 'about', 'about.title'],
        ['/box/licences', 'licences', 'licences.title'], ['/box/restart', 'restart', 'box-restart.title'],
        ['/box/off', 'off', 'box-off.title'], ['/box/start-over', 'over', 'box-over.title'], ['/trust', 'trust', 'trust.title'],
        ['/activity', 'activity', 'activity.title'], ['/alerts', 'alerts', 'alerts.title'], ['/recover', 'recover', 'recover.title'],
        ['/there/is/nothing', 'notfound', 'notfound.title'],
      ]) {
        await to(anna, path);
        if (path === '/box/licences') await expect(anna.locator('a.row').first()).toBeVisible();
        // The real list is long; axe needs no more than its first screen.
        if (!dev && path === '/box/licences') continue;
        await see(anna, name, t(h1));
      }
      await to(anna, '/box/licences');
      await anna.locator('main .rows a.row').first().click();
      await expect(anna.locator('main h1')).not.toBeEmpty();
      if (dev) await see(anna, 'licence');
      await to(anna, '/box/name');
      await field(anna, t('box-name.label')).fill('garten');
      await press(anna, t('box-name.submit'));
      const there = anna.getByRole('link', { name: t('renamed.go') });
      if (base.includes('.local')) {
        await see(anna, 'renamed', t('renamed.title', 'garten'));
        await there.click();
        base = new URL(anna.url()).origin;
        expect(base).toContain('//garten.local');
        await signIn();
        await expect(anna.locator('#box')).toBeVisible();
      } else {
        await done(anna, 'box-renamed');
      }
      if (dev) expect(await told()).toContain('PUT /v1/name {"name":"garten"}');
    });

    if (dev) {
      await test.step('restart and lost password', async () => {
        await to(anna, '/box/restart');
        await press(anna, t('box-restart.submit'));
        await see(anna, 'restart-done', t('box-restart.done.title'));
        await to(anna, '/box/off');
        await press(anna, t('box-off.submit'));
        await see(anna, 'off-done', t('box-off.done.title'));
        const all = await told();
        expect(all).toContain('POST /v1/power {"action":"reboot"}');
        expect(all).toContain('POST /v1/power {"action":"poweroff"}');
        await setState('well');
        const again = await visitor();
        await to(again, '/recover');
        await field(again, t('recover.label')).fill('0000-0000');
        await field(again, t('account.name')).fill(owner.name);
        await field(again, t('recover.password')).fill('another meadow, and a barn');
        await press(again, t('recover.submit'));
        await problem(again, t('recover.wrong'));
        await see(again, 'recover-wrong', t('recover.title'));
        await field(again, t('recover.label')).fill('4t7w m2px');
        await field(again, t('recover.password')).fill('another meadow, and a barn');
        await press(again, t('recover.submit'));
        await done(again, 'recovered');
        await to(anna, '/');
        await expect(anna).toHaveURL(/\/signin/);
        await signIn('another meadow, and a barn');
        await expect(anna.locator('#box')).toBeVisible();
      });
      await test.step('alerts', async () => {
        await setState('many');
        await expect(async () => {
          await to(anna, '/alerts');
          await expect(anna.locator('#alert-cards li').first()).toBeVisible({ timeout: 1000 });
        }).toPass();
        await see(anna, 'alerts-some', t('alerts.title'));
        const n = await anna.locator('#alert-cards li').count();
        await anna.locator('#alert-cards form button').first().click();
        await expect(async () => {
          await to(anna, '/alerts');
          await expect(anna.locator('#alert-cards li')).toHaveCount(n - 1, { timeout: 1000 });
        }).toPass();
        await setState('well');
        await to(anna, '/activity');
        await expect(anna.locator('main')).toContainText(owner.name);
        await see(anna, 'activity-alerts', t('activity.title'));
      });
    }

    await test.step('start over', async () => {
      const password = dev ? 'another meadow, and a barn' : owner.password;
      await to(anna, '/box/start-over');
      await field(anna, t('box-over.word', 'ERASE')).fill('erase it');
      await field(anna, t('my-password.yours')).fill(password);
      await press(anna, t('box-over.submit'));
      await problem(anna, t('problem.not-confirmed'));
      await see(anna, 'over-wrong', t('box-over.title'));
      await field(anna, t('box-over.word', 'ERASE')).fill('ERASE');
      await field(anna, t('my-password.yours')).fill('not my password');
      await press(anna, t('box-over.submit'));
      await expect(anna.locator('main .problem').first()).toBeVisible();
      await field(anna, t('box-over.word', 'ERASE')).fill('ERASE');
      await field(anna, t('my-password.yours')).fill(password);
      await press(anna, t('box-over.submit'));
      await see(anna, 'over-done', t('box-over.done.title'));
      if (dev) expect((await told()).join('\n')).toContain('POST /v1/start-over');
    });

    for (const c of contexts) await c.close().catch(() => {});
    expect(bad.filter(b => !/status of (4\d\d|503)|ERR_|self-signed/.test(b))).toEqual([]);
  });
}
