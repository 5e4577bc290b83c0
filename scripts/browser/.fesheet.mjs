import { chromium } from '@playwright/test'; import {readFileSync} from 'node:fs';
const b=await chromium.launch({executablePath:'/usr/bin/chromium',args:['--no-sandbox']});
const args=process.argv.slice(2); // groups separated by --
let g=[[]]; for(const a of args) a==='--'?g.push([]):g.at(-1).push(a);
for(const [o,...fs] of g){const p=await b.newPage({viewport:{width:100,height:100}});
await p.setContent(`<body style="margin:0;background:#888;display:inline-flex;gap:6px;align-items:flex-start">${fs.map(f=>`<img src="data:image/png;base64,${readFileSync('/tmp/fe/'+f+'.png').toString('base64')}" style="max-height:1500px">`).join('')}`);
await p.waitForTimeout(100);const s=await p.evaluate(()=>[document.body.scrollWidth,document.body.scrollHeight]);await p.setViewportSize({width:s[0],height:s[1]});await p.screenshot({path:`/tmp/fe/${o}.png`});await p.close();}
await b.close();
