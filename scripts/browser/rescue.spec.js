// Rescue mode on a box that is in it, from the code on its screen to what a check finds: CROFT_URL, CROFT_CODE.
import { test, expect, check, code, dev, fits, fresh, nextClient, out, setState, words } from './fixtures.js';

for (const [lang, script] of [['en', true], ['en', false], ['de', true], ['de', false]]) {
  const t = words(lang);
  test(`rescue ${lang}${script ? '' : ' no script'} @rescue`, async ({ browser }, info) => {
    test.setTimeout(240_000); // an emulated box reads its disk
    if (dev) {
      await fresh();
      await setState('rescue');
    }
    const context = await browser.newContext({
      ...info.project.use, locale: lang === 'de' ? 'de-DE' : 'en-GB', javaScriptEnabled: script, extraHTTPHeaders: nextClient(),
    });
    const page = await context.newPage();
    const looks = async name => {
      await (script ? check : fits)(page);
      await page.screenshot({ path: `${out}/${dev ? 'page' : 'box'}-rescue-${name}-${lang}${script ? '' : '-noscript'}-${info.project.name}.png`, fullPage: true });
    };
    const button = key => page.getByRole('button', { name: t(key), exact: true });

    await expect(async () => { // core may say what it heard half a second ago
      await page.goto('/');
      await expect(page.getByLabel(t('gate.rescue.label'))).toBeVisible({ timeout: 1000 });
    }).toPass();
    await looks('gate');
    await page.getByLabel(t('gate.rescue.label')).fill(code);
    await page.keyboard.press('Enter');
    await expect(page.getByRole('heading', { level: 1, name: t('rescue.title') })).toBeVisible();
    await expect(page.getByText(t('rescue.safe'))).toBeVisible();
    await looks('mode');

    await page.getByText(t('rescue.over'), { exact: true }).click();
    await page.locator('#confirm').fill('erase');
    await button('rescue.over.submit').click();
    await expect(page.getByText(t('rescue.not-confirmed'))).toBeVisible();
    await looks('not-confirmed');

    await button('rescue.check').click();
    if (dev) await setState('rescue-checked');
    await expect(async () => {
      if (!script) await page.goto('/');
      await expect(page.getByRole('heading', { name: t('rescue.checked') })).toBeVisible({ timeout: 5000 });
    }).toPass({ timeout: 180_000 });
    await looks('checked');
    await context.close();
  });
}
