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
