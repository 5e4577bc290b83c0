import {base,ctl,code,browser,ctx,tell,shot,own} from './.fe.mjs';
await tell('fresh'); await tell('state',{name:'well'});
const o=await ctx({lang:'de-DE'}), p=await o.newPage();
await own(p);
const pages=['/','/activity','/services','/services/discovery','/services/discovery/restart','/people','/people/invite','/me','/me/name','/me/password','/me/second-factor','/me/sessions','/me/tokens','/me/tokens/new','/box','/box/name','/box/time-zone','/box/network','/box/config','/box/config/import','/box/about','/box/licences','/box/restart','/box/off','/box/start-over','/trust','/logs','/diagnosis','/alerts','/nothing','/recover','/join'];
for(const u of pages){ if(u==='/diagnosis') continue; await p.goto(base+u).catch(e=>console.log(u,e.message)); await shot(p,'de'+u.replace(/\//g,'_')); }
// invite partner
await p.goto(base+'/people/invite'); await p.click('form .primary'); await p.waitForTimeout(300); await shot(p,'de_invited');
const txt=await p.locator('body').innerText(); const inv=(txt.match(/[0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4}/)||[])[0]; console.log('invite',inv);
const m=await ctx({lang:'de-DE'}), q=await m.newPage();
await q.goto(base+'/join#'+inv); await q.waitForTimeout(600); await shot(q,'de_join1');
await q.locator('form').first().evaluate(f=>f.noValidate=true);
await q.fill('[name=name]','Anna'); await q.fill('[name=password]','x'); await q.click('form .primary'); await q.waitForTimeout(400); await shot(q,'de_join2');
await q.fill('[name=name]','Ben'); await q.fill('[name=password]','korrekt pferd batterie'); await q.click('form .primary'); await q.waitForTimeout(600); await shot(q,'de_member_home');
for(const u of ['/people','/services','/services/core','/me','/box','/box/about','/logs','/trust','/nope']){await q.goto(base+u); await shot(q,'de_member'+u.replace(/\//g,'_'));}
await q.goto(base+'/join#'+inv); await q.waitForTimeout(600); await shot(q,'de_join_again');
// forgets
const f=await ctx({lang:'de-DE'}), r=await f.newPage();
await r.goto(base+'/'); await shot(r,'de_signin'); await r.fill('[name=name]',' ben '); await r.fill('[name=password]','falsch'); await r.click('form .primary'); await r.waitForTimeout(900); await shot(r,'de_signin_wrong');
await r.click('a[href^="/recover"]'); await shot(r,'de_recover');
await r.goto(base+'/join'); await r.fill('[name=code]','aaaa bbbb cccc'); await r.click('form .primary'); await r.waitForTimeout(300); await shot(r,'de_join_void');
await r.goto(base+'/join#'+inv); await r.waitForTimeout(600); await shot(r,'de_join_used');
await p.goto(base+'/people'); await shot(p,'de_people2'); await p.click('a[href^="/people/"]:has-text("Ben")'); await shot(p,'de_person'); 
await p.goto(p.url()+'/remove'); await shot(p,'de_person_remove');
await browser.close();
