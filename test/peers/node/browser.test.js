// oidc-client-ts in Chromium: a single-page app on an origin of its own, with two tabs that renew behind the scenes.

import assert from 'node:assert/strict'
import { readFile, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'
import { start } from './server.js'

const here = import.meta.dirname
let server, app, profile, browser

before(async () => {
  server = await start('--access-ttl', '5s')
  app = await serveApp()
  profile = await mkdtemp(join(tmpdir(), 'heirloom-chromium-'))
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // No sandbox: the tests run as root, on our own pages. The rest keeps Chromium from calling home.
    args: ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  })
  browser.setDefaultTimeout(20_000)
})

after(async () => {
  await browser?.close()
  app?.close()
  if (profile) await rm(profile, { recursive: true, force: true })
  await server?.stop()
})

/** Serves the app on a free port: another origin than the server's, so every call of the app is a CORS one. */
async function serveApp() {
  const files = {
    '/': ['text/html', await readFile(join(here, 'app.html'))],
    '/app.js': ['text/javascript', await readFile(join(here, 'app.js'))],
    '/oidc.js': ['text/javascript', await readFile(join(here, 'node_modules/oidc-client-ts/dist/browser/oidc-client-ts.min.js'))],
    '/settings.json': ['application/json', JSON.stringify({ authority: server.issuer, client_id: 'demo-browser' })],
  }
  files['/callback'] = files['/']
  const l = createServer((req, resp) => {
    const [type, body] = files[new URL(req.url, 'http://app').pathname] ?? []
    if (!type) return resp.writeHead(404).end()
    resp.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(body)
  })
  await new Promise((done) => l.listen(0, '127.0.0.1', done))
  return { origin: `http://127.0.0.1:${l.address().port}`, close: () => { l.closeAllConnections(); l.close() } }
}

/** A tab that fails the test when a script of a page throws or is blocked. */
async function openTab() {
  const tab = await browser.newPage()
  tab.troubles = []
  tab.on('pageerror', (err) => tab.troubles.push(`${tab.url()}: ${err}`))
  tab.on('console', (m) => {
    if (m.type() === 'error' && /Content Security|CORS|Refused to/.test(m.text())) tab.troubles.push(`${tab.url()}: ${m.text()}`)
  })
  return tab
}

async function signIn(tab) {
  await tab.fill('[name=username]', server.user.username)
  await tab.fill('[name=password]', server.user.password)
  await tab.keyboard.press('Enter')
}

const story = (tab) => tab.evaluate(() => window.story)

const axe = await readFile(join(here, 'node_modules/axe-core/axe.min.js'), 'utf8')

/** Fails when a page breaks an accessibility rule of WCAG 2.2 AA. */
async function assertAccessible(tab) {
  // A colour half-way through a transition is nobody's contrast.
  await tab.evaluate(async () => {
    for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame)
    await Promise.all(document.getAnimations().map((a) => a.finished))
  })
  await tab.evaluate(axe)
  const { violations, passes } = await tab.evaluate(() =>
    axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }))
  assert.ok(passes.length > 5, 'axe looked at nothing')
  assert.deepEqual(violations.map((v) => `${tab.url()}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html)}`), [])
}

test('RT_B24, RT_I01, RT_I03: two tabs renew for twenty generations without a sign-out, until a thief shows an old token', async (t) => {
  const one = await openTab()
  await one.goto(app.origin)
  await one.click('#sign-in')
  await one.waitForSelector('[name=username]')
  assert.equal(new URL(one.url()).origin, server.issuer)
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [360, 1280]) {
      await one.emulateMedia({ colorScheme })
      await one.setViewportSize({ width, height: 800 })
      await assertAccessible(one)
      assert.ok(await one.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `the page is wider than ${width} pixels`)
    }
  }
  await signIn(one)
  await one.waitForFunction(() => window.story?.user)
  assert.equal(new URL(one.url()).origin, app.origin)
  const first = (await story(one)).refreshTokens[0]

  const two = await openTab()
  await two.goto(app.origin)
  await two.waitForFunction(() => window.story?.user)

  await t.test('the timers of both tabs renew', async () => {
    for (const tab of [one, two]) await tab.waitForFunction(() => window.story.renewed >= 5, null, { timeout: 60_000 })
  })

  await t.test('both tabs at the same moment, again and again', async () => {
    for (let round = 0; round < 25; round++) {
      const got = await Promise.all([one, two].map((tab) => tab.evaluate(() =>
        window.mgr.signinSilent().then((u) => u?.refresh_token ?? 'no user', (err) => String(err)))))
      for (const g of got) assert.match(g, /^hrt_/, `round ${round}`)
    }
  })

  for (const tab of [one, two]) {
    const s = await story(tab)
    assert.deepEqual(s.errors, [])
    assert.equal(s.signedOut, 0)
    assert.ok(s.refreshTokens.length >= 20, `${s.refreshTokens.length} generations seen`)
    assert.ok(s.user.profile.sub)
  }

  await t.test('a refused refresh is an answer that the app can read', async () => {
    const got = await one.evaluate(async ({ issuer, origin }) => {
      const { token_endpoint } = await (await fetch(issuer + '/.well-known/openid-configuration')).json()
      const resp = await fetch(token_endpoint, { method: 'POST', headers: { 'Idempotency-Key': 'k' + origin.length },
        body: new URLSearchParams({ grant_type: 'refresh_token', client_id: 'demo-browser', refresh_token: 'hrt_nonsense' }) })
      return { status: resp.status, ...(await resp.json()) }
    }, { issuer: server.issuer, origin: app.origin })
    assert.equal(got.status, 400)
    assert.equal(got.error, 'invalid_grant')
  })

  await t.test('a thief with the first token kills the family, and the tabs are told', async () => {
    const { token_endpoint } = await (await fetch(server.issuer + '/.well-known/openid-configuration')).json()
    // Another User-Agent than the tabs': the leeway of preset browser does not excuse it.
    const resp = await fetch(token_endpoint, { method: 'POST', headers: { 'user-agent': 'thief/1' },
      body: new URLSearchParams({ grant_type: 'refresh_token', client_id: 'demo-browser', refresh_token: first }) })
    assert.equal(resp.status, 400)
    assert.equal((await resp.json()).error, 'invalid_grant')
    for (const tab of [one, two]) {
      const err = await tab.evaluate(() => window.mgr.signinSilent().then(() => 'renewed', (err) => err.error))
      assert.equal(err, 'invalid_grant')
    }
  })

  await t.test('the account page of the signed-in person is accessible', async () => {
    await two.goto(server.issuer + '/account')
    await two.waitForSelector('h1')
    assert.equal(new URL(two.url()).pathname, '/account')
    await assertAccessible(two)
  })

  assert.deepEqual([...one.troubles, ...two.troubles], [])
})

test('RT_F04: a third-party app asks for consent each time, is denied, is allowed, and signs out', async () => {
  const added = await fetch(server.admin_url + '/admin/v1/clients', {
    method: 'POST',
    headers: { authorization: `Bearer ${server.admin_token}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      client_id: 'guest-app', name: 'Guest app', auth: 'none', preset: 'browser',
      redirect_uris: [app.origin + '/callback'], post_logout_redirect_uris: [app.origin + '/'],
      grant_types: ['authorization_code', 'refresh_token'], scopes: ['openid', 'profile', 'email'],
    }),
  })
  assert.ok(added.ok, `add a client: ${added.status} ${await added.text()}`)

  const tab = await openTab()
  await browser.clearCookies()
  await tab.goto(app.origin + '/?client=guest-app')
  await tab.click('#sign-in')
  await tab.waitForSelector('[name=username]')
  await signIn(tab)
  await tab.waitForSelector('[name=decision][value=deny]')
  assert.match(await tab.textContent('main'), /Guest app/)
  await assertAccessible(tab)
  await tab.click('[name=decision][value=deny]')
  await tab.waitForFunction(() => window.story?.errors.length)
  assert.deepEqual((await story(tab)).errors, ['access_denied'])

  await tab.click('#sign-in')
  await tab.click('[name=decision][value=allow]')
  await tab.waitForFunction(() => window.story?.user)
  const kept = (await story(tab)).refreshTokens[0]
  assert.match(kept, /^hrt_/)

  // Allowed once, and asked again: whoever listens on a loopback port could pretend to be this app (RFC 8252 §8.6).
  await tab.click('#sign-in')
  await tab.click('[name=decision][value=allow]')
  await tab.waitForFunction((old) => window.story?.user && !window.story.refreshTokens.includes(old), kept)
  const last = (await story(tab)).refreshTokens.at(-1)

  await tab.click('#sign-out')
  const confirm = tab.locator('[name=decision][value=sign_out]')
  await Promise.race([confirm.click(), tab.waitForFunction((origin) => location.origin === origin && window.story, app.origin)])
  await tab.waitForFunction((origin) => location.origin === origin && window.story && !window.story.user, app.origin)

  // The session is over: the app's families are dead, and the next sign-in asks for the password.
  const { token_endpoint } = await (await fetch(server.issuer + '/.well-known/openid-configuration')).json()
  for (const refresh_token of [kept, last]) {
    const resp = await fetch(token_endpoint, { method: 'POST', headers: { 'user-agent': await tab.evaluate(() => navigator.userAgent) },
      body: new URLSearchParams({ grant_type: 'refresh_token', client_id: 'guest-app', refresh_token }) })
    assert.equal(resp.status, 400)
    assert.equal((await resp.json()).error, 'invalid_grant')
  }
  await tab.click('#sign-in')
  await tab.waitForSelector('[name=username]')
  assert.deepEqual(tab.troubles, [])
})
