// The library in Chromium against the real server: tabs that share a session, a bad network, a thief. demo-strict has no
// leeway: one request that is sent twice without its proof signs out.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { start } from '../../test/peers/node/server.js'

// The peers have it; a second lock file would only be a second version.
const { chromium } = createRequire(new URL('../../test/peers/node/package.json', import.meta.url))('playwright-core')

let server, browser

before(async () => {
  server = await start('--access-ttl', '5s')
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // No sandbox: the tests run as root, on our own pages. The rest keeps Chromium from calling home.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  })
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

/** Serves the app on an origin of its own. */
async function serveApp(t, settings, page) {
  const html = ['text/html', page ?? await readFile(join(import.meta.dirname, 'app.html'))]
  const files = {
    '/': html,
    '/callback': html,
    '/heirloom.js': ['text/javascript', await readFile(join(import.meta.dirname, '../dist/heirloom.js'))],
    '/settings.json': ['application/json', JSON.stringify({ issuer: server.issuer, api: server.api_url, ...settings })],
  }
  const l = createServer((req, resp) => {
    const [type, body] = files[new URL(req.url, 'http://app').pathname] ?? []
    if (!type) return resp.writeHead(404).end()
    resp.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(body)
  })
  await new Promise((done) => l.listen(0, '127.0.0.1', done))
  t.after(() => { l.closeAllConnections(); l.close() })
  return `http://127.0.0.1:${l.address().port}`
}

/** A browser profile that notes what is sent to the token endpoint. */
async function profile(t) {
  const p = await browser.newContext()
  t.after(() => p.close())
  p.setDefaultTimeout(20_000)
  p.sent = []
  p.on('request', (r) => {
    if (!r.url().endsWith('/oauth2/token') || r.method() !== 'POST') return
    const form = new URLSearchParams(r.postData())
    p.sent.push({ key: r.headers()['idempotency-key'], token: form.get('refresh_token') ?? form.get('code') })
  })
  return p
}

async function open(p, url) {
  const tab = await p.newPage()
  await tab.goto(url)
  await tab.waitForFunction(() => window.story?.ready)
  return tab
}

async function signIn(tab) {
  await tab.evaluate(() => { void client.signIn({ state: 'kept' }) })
  await tab.waitForSelector('[name=username]')
  await tab.fill('[name=username]', server.user.username)
  await tab.fill('[name=password]', server.user.password)
  await tab.keyboard.press('Enter')
  await tab.waitForFunction(() => window.story?.user)
  assert.equal(new URL(tab.url()).search, '', 'the code is still in the address')
}

const story = (tab) => tab.evaluate(() => ({ ...story, tokens: [...story.tokens] }))

test('RT_I01, RT_G02, RT_J16: five tabs, one frozen, a bad network and lost answers: forty seconds without a sign-out', async (t) => {
  const app = await serveApp(t, { clientId: 'demo-strict', storage: 'local' })
  const p = await profile(t)
  const tabs = [await open(p, app)]
  await signIn(tabs[0])
  for (let i = 1; i < 5; i++) tabs.push(await open(p, app))
  assert.equal(p.sent.length, 1, 'the new tabs renewed although a live access token was at hand')

  let lost = 0, answers = 0
  await p.route('**/oauth2/token', async (route) => {
    if (route.request().method() !== 'POST' || ++answers % 3) return route.continue()
    await route.fetch().catch(() => {}) // the server has committed
    lost++
    await route.abort('connectionreset').catch(() => {})
  })

  const cdp = await p.newCDPSession(tabs[4])
  const end = Date.now() + 36_000
  for (let round = 0; Date.now() < end; round++) {
    await cdp.send('Page.setWebLifecycleState', { state: 'frozen' })
    await pause(5500)
    if (round % 2) {
      await p.setOffline(true)
      await pause(2500)
      await cdp.send('Page.setWebLifecycleState', { state: 'active' }) // wakes with no network
      await pause(500)
      await p.setOffline(false)
    } else {
      await cdp.send('Page.setWebLifecycleState', { state: 'active' })
      // All at once, the woken one among them.
      await Promise.all(tabs.map((tab) => tab.evaluate(() => client.getAccessToken({ minValidity: 1e9 }).catch(() => {}))))
    }
    await pause(500)
  }

  const kept = await tabs[0].evaluate(() => JSON.stringify(localStorage))
  const all = await Promise.all(tabs.map(story))
  for (const [i, s] of all.entries()) {
    assert.deepEqual(s.ends, [], `tab ${i}: a session ended`)
    assert.equal(s.user.sub, all[0].user.sub)
    assert.ok(s.statuses[200] > 5, `tab ${i}: ${JSON.stringify(s.statuses)}`)
    assert.equal(s.statuses[401], undefined, `tab ${i}: an API said no`)
    for (const token of s.tokens) assert.ok(!kept.includes(token) && !kept.includes(token.split('.')[2]), 'an access token is in the storage')
  }
  assert.match(kept, /hrt_/)
  assert.ok(lost >= 2, `${lost} answers were lost of ${answers}: this tested nothing`)
  assert.ok(p.sent.length >= 8, `${p.sent.length} renewals: this tested nothing`)
  assert.ok(p.sent.every((s) => s.key), 'a request had no Idempotency-Key')
  const keys = new Map()
  for (const s of p.sent) {
    assert.equal(s.key, keys.get(s.token) ?? s.key, 'one token was sent under two keys')
    keys.set(s.token, s.key)
  }
  t.diagnostic(`${p.sent.length} requests, ${keys.size} tokens, ${lost} answers lost`)

  await p.unroute('**/oauth2/token')
  await tabs[2].reload()
  await tabs[2].waitForFunction(() => window.story?.user && story.statuses[200], null)

  await t.test('sign-out in one tab signs out all, and the issuer', async () => {
    const token = (await story(tabs[1])).tokens.at(-1)
    await tabs[0].evaluate(() => client.signOut({ navigate: false }))
    for (const tab of tabs.slice(1)) await tab.waitForFunction(() => story.ends.length === 1 && story.ends[0].reason === 'signed_out')
    assert.equal(await tabs[1].evaluate(() => JSON.stringify(localStorage)), '{}')
    assert.equal((await fetch(server.api_url, { headers: { authorization: `Bearer ${token}` } })).status, 401)
  })
})

test('a tab waits for the lock, and goes ahead when whoever has it does not let go', async (t) => {
  const app = await serveApp(t, { clientId: 'demo-strict', storage: 'local', quiet: true, lockTimeout: 1500 })
  const p = await profile(t)
  const [one, two] = [await open(p, app), await open(p, app)]
  await signIn(one)
  const name = await one.evaluate(() => Object.keys(localStorage)[0])
  await two.evaluate((name) => { client.close(); void navigator.locks.request(name, () => new Promise((done) => { window.letGo = done })) }, name)
  const took = () => one.evaluate(async () => {
    const at = performance.now()
    await client.getAccessToken({ minValidity: 1e9 })
    return performance.now() - at
  })
  const before = p.sent.length
  assert.ok(await took() >= 1400, 'it did not wait for the lock')
  assert.equal(p.sent.length, before + 1, JSON.stringify(p.sent))
  await two.evaluate(() => letGo())
  assert.ok(await took() < 1400, 'it waited for a lock that nobody had')
  assert.deepEqual((await story(one)).ends, [])
})

test('RT_I03: a thief with a copy of localStorage is cut off, and so is the owner', async (t) => {
  const app = await serveApp(t, { clientId: 'demo-strict', storage: 'local' })
  const owner = await open(await profile(t), app)
  await signIn(owner)
  const copy = await owner.evaluate(() => ({ ...localStorage }))
  await owner.evaluate(() => client.getAccessToken({ minValidity: 1e9 }))

  const elsewhere = await profile(t)
  await elsewhere.addInitScript((copy) => { Object.assign(localStorage, copy) }, copy)
  const thief = await elsewhere.newPage()
  await thief.goto(app)
  await thief.waitForFunction(() => story.ends.length === 1)
  assert.deepEqual((await story(thief)).tokens, [], 'the thief got an access token')
  const token = (await story(owner)).tokens.at(-1)
  assert.equal((await fetch(server.api_url, { headers: { authorization: `Bearer ${token}` } })).status, 401)
  await owner.waitForFunction(() => story.ends.length === 1)
  assert.equal((await story(owner)).ends[0].reason, 'rejected')
})

test('in memory and session mode the storage holds what it should, and a tab lives through a reload in the latter', async (t) => {
  for (const storage of ['memory', 'session']) {
    const app = await serveApp(t, { clientId: 'demo-browser', storage })
    const p = await profile(t)
    const tab = await open(p, app)
    await signIn(tab)
    await tab.waitForFunction(() => story.statuses[200])
    const kept = await tab.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]))
    if (storage === 'memory') assert.equal(kept, '[{},{}]')
    else assert.match(kept, /^\[\{\},.*hrt_/)
    for (const token of (await story(tab)).tokens) assert.ok(!kept.includes(token))
    await tab.reload()
    await tab.waitForFunction(() => story.ready)
    assert.equal(!!(await story(tab)).user, storage === 'session')
    if (storage === 'memory') continue
    // A duplicated tab begins with a copy of the session storage: two stores, one family.
    const [twin] = await Promise.all([p.waitForEvent('page'), tab.evaluate((url) => { window.open(url) }, app)])
    await twin.waitForFunction(() => window.story?.user)
    for (let i = 0; i < 6; i++) {
      await Promise.all([tab, twin].map((x) => x.evaluate(() => client.getAccessToken({ minValidity: 1e9 }))))
    }
    for (const x of [tab, twin]) {
      assert.deepEqual((await story(x)).ends, [])
      const [token, kept] = await x.evaluate(async () => [await client.getAccessToken(), JSON.stringify({ ...sessionStorage })])
      assert.ok(!kept.includes(token), 'an access token is in the storage')
    }
  }
})

test('a hidden tab renews nothing by its timer, and one that comes back does at once', async (t) => {
  const app = await serveApp(t, { clientId: 'demo-strict', storage: 'local', quiet: true })
  const p = await profile(t)
  await p.addInitScript(() => {
    // Headless Chromium hides no tab, so the document is told what to say.
    Object.defineProperty(document, 'visibilityState', { get: () => (window.away ? 'hidden' : 'visible') })
  })
  const tab = await open(p, app)
  await signIn(tab)
  await tab.evaluate(() => { window.away = true })
  const before = p.sent.length
  await pause(5500)
  assert.equal(p.sent.length, before, 'a hidden tab renewed')
  await tab.evaluate(() => { window.away = false; document.dispatchEvent(new Event('visibilitychange', { bubbles: true })) })
  for (let i = 0; i < 20 && p.sent.length === before; i++) await pause(100)
  assert.equal(p.sent.length, before + 1)
})

test('the page of the README works', async (t) => {
  const readme = await readFile(join(import.meta.dirname, '../README.md'), 'utf8')
  const example = /```html\n([^]*?)```/.exec(readme)?.[1] ?? ''
  assert.ok(example.split('\n').length <= 23, 'the example has grown')
  const page = ['https://api.example/', 'https://auth.example', 'my-app'].reduce((text, name, i) => {
    assert.ok(text.includes(name), `the example has no ${name}`)
    return text.replace(name, [server.api_url, server.issuer, 'demo-browser'][i])
  }, example)
  const p = await profile(t)
  const tab = await p.newPage()
  const app = await serveApp(t, {}, page)
  await tab.goto(app)
  await tab.click('#in')
  await tab.fill('[name=username]', server.user.username)
  await tab.fill('[name=password]', server.user.password)
  await tab.keyboard.press('Enter')
  const says = (words) => tab.waitForFunction((words) => document.querySelector('#said')?.textContent.includes(words), words)
  await says('this token is active')
  const other = await p.newPage()
  await other.goto(app)
  await other.waitForFunction(() => document.querySelector('#said').textContent.includes('this token is active'))
  await tab.click('#out')
  await other.waitForFunction(() => document.querySelector('#said').textContent === 'signed_out')
})
