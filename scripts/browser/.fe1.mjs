import {base,ctl,code,browser,ctx,tell,shot} from './.fe.mjs';
// parent
for (const [tag,o] of [['en',{}],['de',{lang:'de-DE'}],['nojs',{nojs:true,lang:'de-DE'}]]) {
 await tell('fresh');
 const c=await ctx(o), p=await c.newPage();
 await p.goto(base+'/'); await shot(p,tag+'-01-gate');
 const tryCode=async(v,n)=>{await p.fill('[name=code]',v);await p.click('form [class=primary]');await p.waitForTimeout(300);await shot(p,tag+'-'+n)};
 await p.evaluate(()=>{}).catch(()=>{});
 await p.locator('form').first().evaluate(f=>f.noValidate=true);
 await tryCode('','02-empty');
 await tryCode('😀<b>x','03-emoji');
 await tryCode('AAAA-AAAA','04-wrong');
 await tryCode(tag=='de'?' 7k3mq9xa ':tag=='en'?'７Ｋ３Ｍ–Ｑ９ＸＡ':'7k 3m q9 xa','05-good');
 await p.locator('form').first().evaluate(f=>f.noValidate=true);
 const go=async(n)=>{await p.locator('form').first().evaluate(f=>f.noValidate=true);await p.click('form .primary');await p.waitForTimeout(500);await shot(p,tag+'-'+n)};
 if(await p.locator('[name=name]').count()==0){await p.fill('[name=code]',code);await go('05b')}
 await p.fill('[name=name]','');await go('06-name-empty');
 await p.fill('[name=name]','مرحبا <b>😀');await go('07-name-bad');
 await p.fill('[name=name]','x'.repeat(10000));await go('08-name-long');
 await p.fill('[name=name]',' Unser-Haus ');await go('09-account');
 await p.fill('[name=name]','');await p.fill('[name=password]','short');await go('10-account-bad');
 await p.fill('[name=name]','<script>alert(1)</script>');await p.fill('[name=password]','password');await go('11-account-common');
 if(await p.locator('[name=password]').count()){await p.fill('[name=name]','  Anna  ');await p.fill('[name=password]','a meadow behind the barn');await go('12-zone');}
 if(await p.locator('select').count()) await go('13-done');
 await shot(p,tag+'-13b');
 await c.close();
}
await browser.close();
