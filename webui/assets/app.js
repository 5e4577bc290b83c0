// What the pages do by themselves. Without it everything works by forms and links.
'use strict';
const body = document.body;
const by = id => document.getElementById(id);

// A claim code in the fragment (scanned from the screen of the box) leaves the history at once and goes in by itself;
// while the box starts, it waits for the page that takes it.
const scanned = /^#([0-9a-z]{4}-?[0-9a-z]{4})$/i.exec(location.hash);
if (scanned && body.dataset.kind !== 'starting') {
  history.replaceState(null, '', '/');
  if (by('code')) {
    by('code').value = scanned[1];
    by('code').form.requestSubmit();
  }
}

// Each form goes out once.
addEventListener('submit', e => setTimeout(() => e.target.querySelectorAll('button').forEach(b => { b.disabled = true; })));
addEventListener('pageshow', e => { if (e.persisted) location.reload(); });

// A box that starts is asked until its page is there.
if (body.dataset.kind === 'starting') {
  const ask = () => fetch('/', {cache: 'no-store'}).then(r => r.ok ? location.reload() : wait(), () => wait());
  const wait = () => setTimeout(ask, 2000);
  wait();
}

// Times in the phone's own zone.
function localTimes(root) {
  for (const t of root.querySelectorAll('time[datetime]')) {
    const d = new Date(t.dateTime);
    if (!isNaN(d)) t.textContent = d.toLocaleString([], {dateStyle: 'medium', timeStyle: 'short'});
  }
}
localTimes(document);

// morph makes the node a like b and keeps what people did to it: open details, typed text, focus.
function morph(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName || a.id !== b.id) return a.replaceWith(b);
  if (a.nodeType !== Node.ELEMENT_NODE) {
    if (a.data !== b.data) a.data = b.data;
    return;
  }
  for (const {name} of [...a.attributes]) if (!b.hasAttribute(name) && name !== 'open') a.removeAttribute(name);
  for (const {name, value} of b.attributes) if (a.getAttribute(name) !== value) a.setAttribute(name, value);
  const from = [...b.childNodes];
  const to = [...a.childNodes];
  to.slice(from.length).forEach(n => n.remove());
  from.forEach((n, i) => to[i] ? morph(to[i], n) : a.append(n));
}

// The box page follows the box.
if (body.dataset.kind === 'box') {
  const offline = by('offline');
  let stream, heard = Date.now(), wait = 1000, timer;

  const hear = () => {
    heard = Date.now();
    wait = 1000;
    if (offline.textContent) offline.textContent = '';
  };
  const lost = () => {
    if (offline.textContent) return;
    const time = new Date(heard).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'});
    offline.textContent = offline.dataset.text.replace('{time}', time);
  };
  const connect = () => {
    clearTimeout(timer);
    if (stream) stream.close();
    const {rescue, problem = ''} = by('box').dataset;
    stream = new EventSource('/live?' + new URLSearchParams({version: body.dataset.version, rescue, problem}));
    stream.addEventListener('beat', hear);
    stream.addEventListener('reload', () => { stream.close(); location.reload(); });
    stream.addEventListener('view', e => {
      hear();
      for (const [id, html] of Object.entries(JSON.parse(e.data))) {
        const fresh = new DOMParser().parseFromString(html, 'text/html').body.firstElementChild;
        localTimes(fresh);
        if (by(id)) morph(by(id), fresh);
      }
      document.title = (by('head-title') || {textContent: ''}).textContent + ' · Croft';
    });
    stream.onerror = () => {
      stream.close();
      if (wait > 1000) lost(); // not at the first failure: the box may just have restarted its page
      clearTimeout(timer);
      timer = setTimeout(connect, wait);
      wait = Math.min(wait * 2, 8000);
    };
  };
  setInterval(() => {
    if (document.hidden || Date.now() - heard < 25000) return;
    lost();
    connect();
  }, 5000);
  // A page that nobody looks at costs the box and the phone nothing.
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) return connect();
    clearTimeout(timer);
    stream.close();
  });
  addEventListener('pagehide', () => stream.close());
  connect();
}

// What only a script can do is hidden until there is one.
for (const e of document.querySelectorAll('[data-script]')) e.hidden = false;
for (const b of document.querySelectorAll('[data-share]')) {
  if (navigator.share) b.onclick = () => navigator.share({text: b.dataset.text, url: b.dataset.share}).catch(() => {});
  else b.remove();
}
for (const b of document.querySelectorAll('[data-print]')) b.onclick = () => print();
for (const b of document.querySelectorAll('[data-copy]')) {
  b.onclick = () => {
    getSelection().selectAllChildren(by(b.dataset.copy)); // navigator.clipboard is not there over plain HTTP
    if (document.execCommand('copy')) b.textContent = b.dataset.done;
  };
}

// The phone's own time zone, where none was chosen yet.
const zone = document.querySelector('[data-zone] select');
if (zone && zone.value === 'UTC') {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (own && ![...zone.options].some(o => o.value === own)) zone.prepend(new Option(own.replaceAll('_', ' '), own));
  if (own) zone.value = own;
}

// A network on trial: how long still, whether the box answers here, and what came of it.
const timer = document.querySelector('[data-left]');
if (timer) {
  const end = Date.now() + timer.dataset.left * 1000;
  const ask = () => fetch(location.href, {cache: 'no-store', signal: AbortSignal.timeout(2500)}).then(r => {
    by('lost').textContent = '';
    if (r.redirected) location.replace(r.url); // it ended: kept elsewhere, or gone back
  }, () => { by('lost').textContent = by('lost').dataset.text; });
  const tick = () => {
    const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    timer.textContent = left ? timer.dataset.text.replace('{n}', left) : timer.dataset.over;
  };
  setInterval(tick, 500);
  setInterval(ask, 3000);
}

// A box that restarts is away first, and then there again.
const away = document.querySelector('[data-away]');
if (away) {
  const begun = Date.now();
  let gone = false;
  const look = () => fetch('/', {cache: 'no-store', signal: AbortSignal.timeout(3000)}).then(r => {
    if (r.ok && (gone || Date.now() - begun > 45000)) location.replace('/');
    if (r.status >= 500) gone = true;
  }, () => { gone = true; });
  setInterval(look, 3000);
}
