import { chromium } from '@playwright/test';
export const base='http://127.0.0.1:44381', ctl='http://127.0.0.1:38837', code='7K3M-Q9XA';
export const browser = await chromium.launch({executablePath:'/usr/bin/chromium',args:['--no-sandbox']});
let c=Math.floor(Math.random()*60000);
export async function ctx(o={}){c++;return browser.newContext({viewport:o.wide?{width:1280,height:800}:{width:360,height:740},locale:o.lang||'en-GB',timezoneId:'Europe/Berlin',colorScheme:o.dark?'dark':'light',javaScriptEnabled:!o.nojs,hasTouch:!o.wide,deviceScaleFactor:1,extraHTTPHeaders:{'X-Test-Client':`10.9.${(c>>8)&255}.${c&255}`}});}
export const tell=(w,f={})=>fetch(`${ctl}/${w}`,{method:'POST',body:new URLSearchParams(f)});
let n=0;
export async function shot(p,name,full=true){await p.waitForTimeout(120);const f=`/tmp/fe/${name}.png`;await p.screenshot({path:f,fullPage:full});
 const t=await p.title();const fo=await p.evaluate(()=>document.activeElement?.outerHTML.slice(0,90));const sw=await p.evaluate(()=>document.documentElement.scrollWidth-innerWidth);
 console.log(name,'|',new URL(p.url()).pathname,'|',t,'| focus',fo,sw>0?'| SIDEWAYS '+sw:'');}
export const own=async p=>{await p.goto(base+'/');const a=async(m,u,d)=>p.evaluate(async([m,u,d])=>{const r=await fetch('/api/v1'+u,{method:m,headers:d?{'Content-Type':'application/json'}:{},body:d&&JSON.stringify(d)});return r.status+' '+await r.text()},[m,u,d]);
 await a('POST','/claim',{code});await a('PUT','/setup/name',{name:'croft'});await a('POST','/setup/account',{name:'Anna',password:'a meadow behind the barn'});await a('PUT','/setup/time-zone',{time_zone:'Europe/Berlin'});console.log(await a('POST','/setup/done'));};
