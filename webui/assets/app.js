// What the pages do by themselves. Without it everything works by forms and links.
'use strict';
const body = document.body;
const by = id => document.getElementById(id);

// A code in the fragment (scanned from the screen of the box, or from an invitation) leaves the history at once and goes
// in by itself; while the box starts, it waits for the page that takes it.
const scanned = /^#((?:[0-9a-z]{4}-?){2,3})$/i.exec(location.hash);
if (scanned && body.dataset.kind !== 'starting') {
  history.replaceState(null, '', location.pathname);
  const form = document.querySelector('[data-scan]');
  if (form) {
    form.elements.code.value = scanned[1];
    form.requestSubmit();
  }
}

// A form that may be taken later goes out again.
for (const form of document.querySelectorAll('[data-again]')) {
  setInterval(() => { if (!document.hidden) form.requestSubmit(); }, form.dataset.again * 1000);
}

// Setting up goes on at the address where it began also after the box got another name: the connection stays open. It
// also shows other phones that this one is still at it.
if (body.dataset.kind.startsWith('setup-')) {
  setInterval(() => { if (!document.hidden) fetch(location.pathname, {method: 'HEAD', cache: 'no-store'}).catch(() => {}); }, 45000);
}

// Passwords can be looked at.
for (const field of document.querySelectorAll('input[data-show]')) {
  const button = document.createElement('button');
  const show = yes => {
    field.type = yes ? 'text' : 'password';
    button.textContent = yes ? field.dataset.hide : field.dataset.show;
    button.setAttribute('aria-pressed', yes);
  };
  button.type = 'button';
  button.className = 'quiet';
  button.setAttribute('aria-controls', field.id);
  button.onclick = () => show(field.type === 'password');
  field.form.addEventListener('submit', () => show(false));
  field.after(button);
  show(false);
}

// How hard a new password is to guess, roughly: as hard as so many random characters, where those that repeat or count on
// are worth nothing. Only a hint; what is refused the box decides.
for (const field of document.querySelectorAll('[data-strength]')) {
  const words = field.dataset.strength.split('|');
  const says = document.createElement('p');
  says.className = 'hint';
  says.setAttribute('role', 'status');
  field.parentElement.after(says);
  field.addEventListener('input', () => {
    const codes = [...field.value].map(c => c.codePointAt());
    let worth = 0, last;
    codes.forEach((c, i) => {
      const step = c - codes[i - 1];
      if (!(Math.abs(step) < 2 && step === last)) worth++;
      last = step;
    });
    const kinds = [[/[a-z]/, 26], [/[A-Z]/, 26], [/[0-9]/, 10], [/[^a-zA-Z0-9]/, 33]];
    const bits = worth * Math.log2(kinds.reduce((n, [kind, size]) => n + kind.test(field.value) * size, 0));
    says.textContent = codes.length && words[codes.length < 8 ? 0 : bits < 40 ? 1 : bits < 55 ? 2 : bits < 75 ? 3 : 4] || '';
  });
}

// The time zone of the phone is the first guess at that of the box.
for (const field of document.querySelectorAll('[data-zone] select')) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && field.value === 'UTC') {
    if (![...field.options].some(o => o.value === zone)) field.add(new Option(zone.split('/').pop().replace(/_/g, ' '), zone), 0);
    field.value = zone;
  }
}

// Whether this device trusts the box: it does if it loads a picture over HTTPS.
for (const says of document.querySelectorAll('[data-check]')) {
  const picture = new Image();
  says.textContent = says.dataset.wait;
  picture.onload = () => { says.textContent = says.dataset.yes; };
  picture.onerror = () => { says.textContent = says.dataset.no; };
  picture.src = says.dataset.check + '?' + Date.now();
}

// Each form goes out once.
addEventListener('submit', e => e.defaultPrevented || setTimeout(() => e.target.querySelectorAll('button').forEach(b => { b.disabled = true; })));
addEventListener('pageshow', e => { if (e.persisted) location.reload(); });

// A box that starts is asked until its page is there.
if (body.dataset.kind === 'starting') {
  const again = () => location.hash ? location.reload() : location.replace(location.href);
  const ask = () => fetch('/', {cache: 'no-store'}).then(r => r.ok ? again() : wait(), () => wait());
  const wait = () => setTimeout(ask, 2000);
  wait();
}

// Times in the phone's own zone, but for those that stand below a day of the household.
function localTimes(root) {
  for (const t of root.querySelectorAll('time[datetime]:not([data-keep])')) {
    const d = new Date(t.dateTime);
    if (isNaN(d)) continue;
    const precise = 'precise' in t.dataset; // a line of the logs
    t.textContent = d.toLocaleString([], precise ? {day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit'} : {dateStyle: 'medium', timeStyle: 'short'});
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

// Pages that follow the box say so with the address of their stream. A page that nobody looks at costs the box and the
// phone nothing.
const offline = document.querySelector('[data-live]');
if (offline) {
  const box = by('box'), pause = by('pause');
  let stream, heard = Date.now(), wait = 1000, timer, paused = false;

  const hear = () => {
    heard = Date.now();
    wait = 1000;
    if (offline.textContent) offline.textContent = '';
  };
  const lost = () => {
    if (offline.textContent) return;
    const time = new Date(heard).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'});
    const now = document.querySelector('[data-away-text]'); // a box that is away because it restarts
    offline.textContent = now && now.dataset.awayText || offline.dataset.text.replace('{time}', time);
  };
  const close = () => {
    clearTimeout(timer);
    if (stream) stream.close();
  };
  const parse = html => {
    const fresh = new DOMParser().parseFromString(html, 'text/html').body;
    localTimes(fresh);
    return fresh;
  };
  const connect = () => {
    close();
    if (paused) return;
    const {rescue = '', problem = ''} = box ? box.dataset : {};
    const page = location.pathname + location.search;
    let first = true;
    stream = new EventSource(offline.dataset.live + '?' + new URLSearchParams({version: body.dataset.version, page, rescue, problem}));
    stream.addEventListener('beat', hear);
    stream.addEventListener('reload', () => { stream.close(); location.reload(); });
    stream.addEventListener('view', e => {
      hear();
      for (const [id, html] of Object.entries(JSON.parse(e.data))) {
        if (by(id)) morph(by(id), parse(html).firstElementChild);
      }
      if (by('head-title')) document.title = by('head-title').textContent + ' · Croft';
    });
    stream.addEventListener('lines', e => {
      hear();
      const list = by('lines'), fresh = parse(`<ol>${JSON.parse(e.data)}</ol>`).firstChild;
      const known = [...fresh.children].filter(l => l.id && by(l.id));
      if (first && !known.length) list.replaceChildren(); // too much was missed
      first = false;
      known.forEach(l => {
        if (l.nextElementSibling && !l.nextElementSibling.id) l.nextElementSibling.remove();
        l.remove();
      });
      list.prepend(...fresh.childNodes);
      while (list.childElementCount > 500) list.lastElementChild.remove();
    });
    stream.onerror = () => {
      close();
      if (wait > 1000) lost(); // not at the first failure: the box may just have restarted its page
      timer = setTimeout(connect, wait);
      wait = Math.min(wait * 2, 8000);
    };
  };
  setInterval(() => {
    if (document.hidden || paused || Date.now() - heard < 25000) return;
    lost();
    connect();
  }, 5000);
  document.addEventListener('visibilitychange', () => document.hidden ? close() : connect());
  addEventListener('pagehide', close);
  addEventListener('submit', close); // what comes of it, such as the end of the session, must not load this page instead
  if (pause) {
    pause.onclick = () => {
      paused = !paused;
      heard = Date.now();
      pause.textContent = paused ? pause.dataset.on : pause.dataset.pause;
      connect();
    };
  }
  // A link that only changes what the page follows needs no other page.
  document.addEventListener('click', e => {
    const a = e.target.closest('a[data-live-link]');
    if (!a || e.metaKey || e.ctrlKey || e.shiftKey) return;
    e.preventDefault();
    history.replaceState(null, '', a.href);
    connect();
  });
  // Seconds that run out, until the box says it anew.
  setInterval(() => {
    for (const t of document.querySelectorAll('[data-seconds]')) {
      t.dataset.seconds = Math.max(0, t.dataset.seconds - 1);
      t.textContent = t.dataset.text.replace('{n}', t.dataset.seconds);
    }
  }, 1000);
  connect();
}

// A large file goes straight to the box, so that the page can say how far it is.
for (const form of document.querySelectorAll('[data-upload]')) {
  const says = by('upload-says'), bar = by('upload-bar'), words = JSON.parse(form.dataset.words);
  form.addEventListener('submit', e => {
    const file = form.elements.file.files[0];
    if (!file) return;
    e.preventDefault();
    const began = Date.now(), ask = new XMLHttpRequest();
    const busy = yes => form.querySelectorAll('button').forEach(b => { b.disabled = yes; });
    const mb = n => (n / 1e6).toFixed(n < 1e7 ? 1 : 0);
    const failed = name => {
      says.textContent = words[name] || words[''];
      bar.hidden = true;
      busy(false);
    };
    if (file.size > form.dataset.most) return failed('too-large');
    busy(true);
    ask.upload.onprogress = e => {
      const left = Math.round((Date.now() - began) / e.loaded * (e.total - e.loaded) / 1000);
      bar.value = e.loaded / e.total;
      says.textContent = form.dataset.says.replace('{done}', mb(e.loaded)).replace('{all}', mb(e.total)).replace('{n}', left);
    };
    ask.onload = () => {
      if (ask.status < 300) return location.assign(form.dataset.to);
      let name = '';
      try { name = JSON.parse(ask.responseText).type.split('/').pop(); } catch {}
      failed(name);
    };
    ask.onerror = () => failed('');
    bar.hidden = false;
    ask.open('PUT', '/api/v1/updates/file?' + new URLSearchParams({name: file.name}));
    ask.setRequestHeader('Content-Type', 'application/zip');
    ask.send(file);
  });
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
    if (r.ok && (gone || Date.now() - begun > 45000)) location.replace(away.dataset.away);
    if (r.status >= 500) gone = true;
  }, () => { gone = true; });
  setInterval(look, 3000);
}
