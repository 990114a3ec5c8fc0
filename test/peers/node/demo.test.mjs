// The demo's single-page app in Chromium: it renews, loses answers, meets thieves, and only ever ends when it should.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, beforeEach, afterEach, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { chromium } from 'playwright-core'
import { start } from './server.js'

const axe = await readFile(join(import.meta.dirname, 'node_modules/axe-core/axe.min.js'), 'utf8')
let server, chrome, browser

before(async () => {
  server = await start('--access-ttl', '10s')
  chrome = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // No sandbox: the tests run as root, on our own pages. The rest keeps Chromium from calling home.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  })
})

after(async () => {
  await chrome?.close()
  await server?.stop()
})

beforeEach(async () => {
  browser = await chrome.newContext()
  browser.setDefaultTimeout(20_000)
})

afterEach(() => browser.close())

/** A tab that notes what its scripts complain about, and what it sends to the token endpoint. */
async function openTab(path = '/demo/') {
  const tab = await browser.newPage()
  tab.troubles = []
  tab.sent = []
  tab.on('pageerror', (err) => tab.troubles.push(String(err)))
  tab.on('console', (m) => { if (/Content Security|CORS|Refused to/.test(m.text())) tab.troubles.push(m.text()) })
  tab.on('request', (r) => {
    if (!r.url().endsWith('/oauth2/token')) return
    const form = new URLSearchParams(r.postData())
    tab.sent.push({ key: r.headers()['idempotency-key'], token: form.get('refresh_token') ?? form.get('code') })
  })
  await tab.goto(server.issuer + path)
  return tab
}

async function signIn(tab) {
  await tab.click('#sign-in')
  await tab.fill('[name=username]', server.user.username)
  await tab.fill('[name=password]', server.user.password)
  await tab.keyboard.press('Enter')
  await tab.waitForSelector('body[data-state=live]')
  assert.equal(tab.url(), server.issuer + '/demo/', 'the code is still in the address')
}

const text = (tab, id) => tab.locator(`#${id}`).textContent()
const number = async (tab, id) => Number(await text(tab, id))
const story = async (tab) => (await tab.locator('#timeline').innerText()).replaceAll('\n', ' ')
const shows = (tab, id, words) => tab.waitForFunction(([id, words]) => document.getElementById(id).textContent.includes(words), [id, words])
const above = (tab, id, n) => tab.waitForFunction(([id, n]) => Number(document.getElementById(id).textContent) >= n, [id, n], { timeout: 60_000 })

/** Takes the token out of the command that the page prints. */
async function stolen(tab) {
  const command = await text(tab, 'curl')
  assert.ok(command.startsWith(`curl -sS ${server.issuer}/oauth2/token `), command)
  return /refresh_token=(hrt_[\w-]+)/.exec(command)[1]
}

/** Shows a token from another program: another User-Agent than the browser's. */
async function showFromElsewhere(token) {
  const resp = await fetch(server.issuer + '/oauth2/token', {
    method: 'POST', body: new URLSearchParams({ grant_type: 'refresh_token', client_id: 'demo-browser', refresh_token: token }),
  })
  return { status: resp.status, ...(await resp.json()) }
}

/** Fails when the page breaks an accessibility rule of WCAG 2.2 AA, or is wider than its window, in any of its looks. */
async function assertGoodLooks(tab) {
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [360, 1280]) {
      await tab.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      await tab.setViewportSize({ width, height: 800 })
      await tab.evaluate(axe)
      const { violations, passes } = await tab.evaluate(() =>
        axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }))
      assert.ok(passes.length > 5, 'axe looked at nothing')
      assert.deepEqual(violations.map((v) => `${colorScheme} ${width}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html)}`), [])
      assert.ok(await tab.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `the page is wider than ${width} pixels`)
    }
  }
}

test('a family lives through silent renewals and a lost answer, until a thief shows an old token', async (t) => {
  const tab = await openTab()
  await tab.waitForSelector('#sign-in:visible')
  await assertGoodLooks(tab)
  await signIn(tab)

  await t.test('three silent renewals, and the API never says no', async () => {
    await above(tab, 'silent', 3)
    assert.equal(await number(tab, 'generation'), 4)
    assert.equal(await text(tab, 'api-status'), '200')
    assert.doesNotMatch(await story(tab), /refused/)
    assert.equal(new Set(tab.sent.map((s) => s.token)).size, tab.sent.length, 'a token was shown twice')
    assert.ok(tab.sent.every((s) => s.key), 'a request had no Idempotency-Key')
  })

  await t.test('a lost answer is asked for again, with the same key', async () => {
    const sent = tab.sent.length
    await tab.click('#lose')
    await tab.waitForFunction(() => /same generation \d+ came back/.test(document.querySelector('#timeline').textContent))
    const [first, second] = tab.sent.slice(sent)
    assert.equal(second.token, first.token)
    assert.equal(second.key, first.key)
    assert.equal(await tab.getAttribute('body', 'data-state'), 'live')
  })

  await tab.click('#steal')
  const token = await stolen(tab)
  await assertGoodLooks(tab)
  await tab.click('#renew')
  await tab.waitForFunction(() => /is retired|was used/.test(document.querySelector('#weather').textContent))

  await t.test('the thief is refused, and the page knows within two seconds', async () => {
    const before = Date.now()
    const answer = await showFromElsewhere(token)
    assert.equal(answer.status, 400)
    assert.equal(answer.error, 'invalid_grant')
    await tab.waitForSelector('body[data-state=ended]')
    assert.ok(Date.now() - before < 2000, `it took ${Date.now() - before} ms`)
    assert.equal(await text(tab, 'verdict-heading'), 'Somebody used the stolen token, and the family is dead')
    assert.equal(await text(tab, 'api-status'), '401')
    assert.match(await text(tab, 'verdict-facts'), /API refused your access token.*refresh was refused/)
    await assertGoodLooks(tab)
  })
  assert.deepEqual(tab.troubles, [])
})

test('a thief with the newest token comes first, and the owner who comes second ends the family', async () => {
  const tab = await openTab()
  await signIn(tab)
  await tab.click('#steal')
  const answer = await showFromElsewhere(await stolen(tab))
  assert.equal(answer.status, 200)
  await tab.waitForSelector('body[data-state=ended]')
  assert.equal(await text(tab, 'verdict-heading'), 'You came second: the family is dead')
  assert.equal((await showFromElsewhere(answer.refresh_token)).error, 'invalid_grant')
  const resp = await fetch(server.api_url, { headers: { authorization: `Bearer ${answer.access_token}` } })
  assert.equal(resp.status, 401)
  assert.deepEqual(tab.troubles, [])
})

test('a thief in the same browser passes for a retry as long as the leeway lasts, and is caught after it', async () => {
  const tab = await openTab()
  await signIn(tab)
  await tab.click('#renew')
  await shows(tab, 'generation', '2')
  await tab.click('#steal')
  await tab.click('#renew')
  await shows(tab, 'generation', '3')
  const [thief] = await Promise.all([browser.waitForEvent('page'), tab.click('#thief-tab')])
  await shows(thief, 'weather', 'passes for a retry')
  await assertGoodLooks(thief)
  await thief.click('#use')
  await shows(thief, 'deeds', 'given generation 3')
  assert.equal(await tab.getAttribute('body', 'data-state'), 'live')
  assert.match(await story(tab), /The thief: Showed generation 2 from this browser, inside the leeway window/)
  await thief.waitForFunction(() => document.querySelector('#weather').textContent.includes('retired for good'), null, { timeout: 40_000 })
  await thief.click('#use')
  await shows(thief, 'deeds', 'a retired one: refused')
  const refused = Date.now()
  await tab.waitForSelector('body[data-state=ended]')
  assert.ok(Date.now() - refused < 2000, `it took ${Date.now() - refused} ms`)
  assert.equal(await text(tab, 'verdict-heading'), 'The thief was refused, and the family is dead')
  await shows(tab, 'deeds', 'Tried the access token of generation 3 at the API: refused, too')
  assert.deepEqual(tab.troubles, [])
})

test('two tabs share one family and one renewal, and one sign-out ends both', async () => {
  const one = await openTab()
  await signIn(one)
  const two = await openTab()
  await two.waitForSelector('body[data-state=live]')
  assert.equal(await text(two, 'family'), await text(one, 'family'))
  // A slow network, so that the two overlap.
  await browser.route('**/oauth2/token', async (route) => { await setTimeout(400); await route.continue() })
  for (const at of [2, 3]) {
    await Promise.all([one, two].map((tab) => tab.evaluate(() => document.querySelector('#renew').click())))
    await above(one, 'generation', at)
    await above(two, 'generation', at)
  }
  await above(one, 'generation', 4)
  await above(two, 'generation', 4)
  const tokens = [...one.sent, ...two.sent].map((s) => s.token)
  assert.equal(new Set(tokens).size, tokens.length, 'both tabs showed the same token')
  await one.click('#sign-out')
  await shows(one, 'message', 'You are signed out')
  await two.waitForSelector('body[data-state=out]')
  assert.deepEqual([...one.troubles, ...two.troubles], [])
})

test('only a refusal ends the session: lost connections, 503 and nonsense are retried with the same key', async () => {
  const tab = await openTab()
  await signIn(tab)
  const sent = tab.sent.length
  const faults = [
    (route) => route.abort(),
    (route) => route.fulfill({ status: 503, headers: { 'retry-after': '1' }, json: { error: 'temporarily_unavailable' } }),
    (route) => route.fulfill({ status: 200, contentType: 'text/html', body: '<p>Wi-Fi, please sign in' }),
    async (route) => { await route.fetch(); await route.abort() }, // the server rotates, and the answer is lost
  ]
  await tab.route('**/oauth2/token', (route) => (faults.length ? faults.shift()(route) : route.continue()))
  await tab.click('#renew')
  await tab.waitForFunction(() => document.querySelector('#timeline').textContent.includes('The retry got through'), null, { timeout: 40_000 })
  const tries = tab.sent.slice(sent, sent + 5)
  assert.equal(tries.length, 5)
  assert.equal(new Set(tries.map((s) => `${s.key} ${s.token}`)).size, 1, JSON.stringify(tries))
  assert.equal(await tab.getAttribute('body', 'data-state'), 'live')
  assert.equal(await number(tab, 'generation'), 2)
  assert.deepEqual(tab.troubles, [])
})

test('a reload forgets everything, or goes on when asked to, even in the middle of a renewal', async () => {
  const tab = await openTab()
  await signIn(tab)
  const stored = () => tab.evaluate(() => JSON.stringify({ ...sessionStorage, ...localStorage }))
  assert.doesNotMatch(await stored(), /hrt_|eyJ/)
  await tab.reload()
  await tab.waitForSelector('body[data-state=out]')
  await tab.click('#sign-in') // the server still knows the person: nothing is asked
  await tab.waitForSelector('body[data-state=live]')
  const family = await text(tab, 'family')
  await tab.check('#keep')
  assert.match(await stored(), /hrt_/)
  assert.doesNotMatch(await stored(), /eyJ/, 'an access token is stored')
  await tab.reload()
  await tab.waitForSelector('body[data-state=live]')
  assert.equal(await text(tab, 'family'), family)

  // The server rotates, and the page is gone before it hears of it.
  let gone
  const answered = new Promise((done) => { gone = done })
  await tab.route('**/oauth2/token', async (route) => { await route.fetch(); gone() }, { times: 1 })
  const sent = tab.sent.length
  await tab.click('#renew')
  await answered
  await tab.reload()
  await tab.waitForFunction(() => document.querySelector('#timeline').textContent.includes('The retry got through'))
  assert.equal(tab.sent[sent + 1].key, tab.sent[sent].key)
  assert.equal(tab.sent[sent + 1].token, tab.sent[sent].token)

  await tab.uncheck('#keep')
  assert.doesNotMatch(await stored(), /hrt_/)
  assert.deepEqual(tab.troubles, [])
})

test('an answer that nobody asked for, or from another server, is not used', async () => {
  const tab = await openTab('/demo/?code=hac_x&state=forged&iss=' + encodeURIComponent(server.issuer))
  await shows(tab, 'message', 'did not ask for')
  assert.equal(tab.url(), server.issuer + '/demo/')
  await tab.route('**/oauth2/authorize*', (route) => {
    const asked = new URL(route.request().url()).searchParams
    route.fulfill({ status: 303, headers: { location: `/demo/?code=hac_x&state=${asked.get('state')}&iss=https://evil.example.com` } })
  })
  await tab.click('#sign-in')
  await shows(tab, 'message', 'another server')
  assert.deepEqual(tab.sent, [])
})
