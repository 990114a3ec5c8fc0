// The client in Node.js, against a small issuer over real HTTP. Two clients with one store are two tabs.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { createClient, SessionError } from '../dist/heirloom.js'
import { startIssuer } from './issuer.js'

/** A store that tabs share, and that remembers what was done to it. */
function sharedStore() {
  const m = new Map()
  const log = []
  return {
    log,
    get: (k) => m.get(k) ?? null,
    set: (k, v) => { log.push(JSON.parse(v)); m.set(k, v) },
    remove: (k) => { log.push(null); m.delete(k) },
    only: () => JSON.parse([...m.values()][0] ?? 'null'),
    copy() { const c = sharedStore(); for (const [k, v] of m) c.set(k, v); return c },
  }
}

const redirectUri = 'http://app.example/callback'

async function world(t, settings, config = {}) {
  const issuer = await startIssuer(settings)
  t.after(() => issuer.stop())
  const tab = (more) => {
    const c = createClient({
      issuer: issuer.url, clientId: 'app', redirectUri, scope: 'openid offline_access', origins: [issuer.url],
      onEnd: (e) => c.ends.push(e), onChange: (e) => c.changes.push(e), ...config, ...more,
    })
    c.ends = []
    c.changes = []
    t.after(() => c.close())
    return c
  }
  return { issuer, tab }
}

async function signIn(issuer, c, options) {
  let to
  await c.signIn({ ...options, navigate: (url) => { to = url } })
  return c.handleRedirect(issuer.authorize(to))
}

/** Lets the other tabs hear. */
const settle = () => pause(120)

const is = (code) => (err) => err instanceof SessionError && err.code === code
const refreshes = (issuer) => issuer.seen.filter((s) => s.grant_type === 'refresh_token')

test('a sign-in asks with PKCE S256, state and nonce, and ends with claims and an access token', async (t) => {
  const { issuer, tab } = await world(t, {}, { resource: ['https://a.example/', 'https://b.example/'] })
  const c = tab()
  let to
  await c.signIn({ params: { prompt: 'login' }, state: { back: '/x' }, navigate: (url) => { to = new URL(url) } })
  const q = to.searchParams
  assert.equal(q.get('x'), '1', 'the endpoint lost its query')
  assert.equal(q.get('code_challenge_method'), 'S256')
  assert.equal(q.get('prompt'), 'login')
  assert.deepEqual(q.getAll('resource'), ['https://a.example/', 'https://b.example/'])
  for (const k of ['state', 'nonce', 'code_challenge']) assert.match(q.get(k), /^[\w-]{43}$/)
  const back = issuer.authorize(to)
  const twice = await Promise.all([c.handleRedirect(back), c.handleRedirect(back)])
  assert.deepEqual(twice[0].state, { back: '/x' })
  assert.equal(twice[0].user.sub, 'ann')
  assert.equal(issuer.seen.length, 1, 'the code was sent twice')
  assert.equal(createHash('sha256').update(issuer.seen[0].code_verifier).digest('base64url'), q.get('code_challenge'))
  assert.equal(await c.getAccessToken(), 'at-1')
  assert.equal(await c.handleRedirect('http://app.example/'), null)
})

test('answers that nobody asked for, of another issuer, with a foreign nonce, or that say no, sign nobody in', async (t) => {
  const { issuer, tab } = await world(t)
  const c = tab()
  const begin = async () => { let to; await c.signIn({ navigate: (u) => { to = u } }); return new URL(issuer.authorize(to)) }
  const cases = {
    state: (u) => u.searchParams.set('state', 'other'),
    iss: (u) => u.searchParams.set('iss', 'https://evil.example'),
    'no iss': (u) => u.searchParams.delete('iss'),
    error: (u) => { u.searchParams.delete('code'); u.searchParams.set('error', 'access_denied') },
    code: (u) => u.searchParams.set('code', 'x'),
  }
  for (const [name, spoil] of Object.entries(cases)) {
    const u = await begin()
    spoil(u)
    await assert.rejects(c.handleRedirect(u.href), is('signed_out'), name)
  }
  let to
  await c.signIn({ navigate: (u) => { to = new URL(u) } })
  to.searchParams.set('nonce', 'other')
  await assert.rejects(c.handleRedirect(issuer.authorize(to)), /ID token/)
  assert.deepEqual(issuer.revoked, ['0.1'], 'the tokens of a foreign sign-in live on')
  await assert.rejects(c.getAccessToken(), is('signed_out'))
})

test('a lost answer to the code is asked for again with the same key', async (t) => {
  const { issuer, tab } = await world(t)
  issuer.next.push(loseAfter)
  await signIn(issuer, tab())
  const [a, b] = issuer.seen
  assert.equal(a.code, b.code)
  assert.ok(a.key && a.key === b.key)
})

/** The issuer does its work, and its answer is lost. */
async function loseAfter(req, resp) {
  const end = resp.end.bind(resp)
  resp.end = () => { resp.end = end; resp.socket.destroy(); return resp }
  return true
}

test('many callers share one renewal, and the next token is used early, with jitter', async (t) => {
  const { issuer, tab } = await world(t, { life: 1 })
  const c = tab()
  await signIn(issuer, c)
  await pause(820) // its timer
  assert.equal(refreshes(issuer).length, 1)
  const all = await Promise.all(Array.from({ length: 20 }, () => c.getAccessToken({ minValidity: 5000 })))
  assert.equal(new Set(all).size, 1)
  assert.equal(refreshes(issuer).length, 2)
})

test('RT_G02: the key is in the store before the request is sent, is drawn once, and a lost answer does no harm', async (t) => {
  const { issuer, tab } = await world(t, {}, { storage: sharedStore() })
  const store = sharedStore()
  const c = tab({ storage: store })
  await signIn(issuer, c)
  issuer.next.push((req) => {
    assert.equal(store.only().key, req.headers['idempotency-key'])
    assert.match(store.only().key, /^[\w-]{43}$/)
    return true
  }, loseAfter)
  await c.getAccessToken({ minValidity: 1e9 })
  const first = await c.getAccessToken({ minValidity: 1e9 }) // its answer is lost, and asked for again
  const [a, b, d] = refreshes(issuer)
  assert.notEqual(a.key, b.key)
  assert.equal(b.key, d.key)
  assert.equal(b.refresh_token, d.refresh_token)
  assert.equal(first, await c.getAccessToken())
  assert.equal(store.only().key, undefined)
  assert.equal(issuer.families[0].revoked, undefined)
})

test('RT_G02, RT_J16: a tab that crashed between sending and storing is taken over by another, with its key', async (t) => {
  const { issuer, tab } = await world(t)
  const store = sharedStore()
  const one = tab({ storage: store })
  await signIn(issuer, one)
  // The crash: the request reached the issuer, and nothing of the first tab runs any more.
  const frozen = new Promise(() => {})
  const crashed = tab({ storage: store, fetch: async (...a) => { await fetch(...a); return /token/.test(a[0]) ? frozen : fetch(...a) } })
  one.close()
  void crashed.getAccessToken({ minValidity: 1e9 })
  while (!refreshes(issuer).length) await pause(20)
  crashed.close()
  const two = tab({ storage: store, lockTimeout: 50 })
  await two.getAccessToken()
  const [a, b] = refreshes(issuer)
  assert.equal(a.refresh_token, b.refresh_token)
  assert.equal(a.key, b.key)
  assert.deepEqual(two.ends, [])
})

test('RT_J16: five tabs that renew at the same moment end nothing and agree', async (t) => {
  const { issuer, tab } = await world(t, { life: 300 }, { storage: sharedStore() })
  const tabs = Array.from({ length: 5 }, () => tab())
  await signIn(issuer, tabs[0])
  for (let i = 0; i < 5; i++) {
    if (i % 2) issuer.next.push(loseAfter)
    await Promise.all(tabs.map((c) => c.getAccessToken({ minValidity: 1e9 })))
  }
  assert.equal(issuer.families[0].revoked, undefined)
  for (const c of tabs) assert.deepEqual(c.ends, [])
})

test('a new tab takes the live access token of another and renews nothing', async (t) => {
  const { issuer, tab } = await world(t, {}, { storage: sharedStore() })
  const one = tab()
  await signIn(issuer, one)
  assert.equal(await tab().getAccessToken(), 'at-1')
  assert.equal(refreshes(issuer).length, 0)
})

test('the store keeps what another tab has put there meanwhile', async (t) => {
  const { issuer, tab } = await world(t)
  const store = sharedStore()
  const c = tab({ storage: store })
  await signIn(issuer, c)
  issuer.next.push(() => {
    store.set(`heirloom ${issuer.url} app`, JSON.stringify({ ...store.only(), n: 7, refresh: '0.8', key: undefined }))
    return true
  })
  await c.getAccessToken({ minValidity: 1e9 })
  assert.equal(store.only().refresh, '0.8')
})

test('RT_J16: a refusal ends nothing when the store holds a newer token than the one that was refused', async (t) => {
  const { issuer, tab } = await world(t)
  const store = sharedStore()
  const c = tab({ storage: store })
  await signIn(issuer, c)
  issuer.next.push((req, resp, form, say) => {
    issuer.families[0].head = 2
    store.set(`heirloom ${issuer.url} app`, JSON.stringify({ ...store.only(), n: 1, refresh: '0.2', key: undefined }))
    say(400, { error: 'invalid_grant' })
  })
  assert.equal(await c.getAccessToken({ minValidity: 1e9 }), 'at-2')
  assert.deepEqual(refreshes(issuer).map((s) => s.refresh_token), ['0.1', '0.2'])
  assert.deepEqual(c.ends, [])
})

test('when somebody else signs in in another tab, this one goes over to the new session', async (t) => {
  const { issuer, tab } = await world(t, {}, { storage: sharedStore() })
  const [one, two] = [tab(), tab()]
  await signIn(issuer, one)
  assert.equal(await two.getAccessToken(), 'at-1')
  await signIn(issuer, one)
  await settle()
  assert.equal(await two.getAccessToken(), 'at-2')
  assert.deepEqual(two.ends, [])
  assert.deepEqual(issuer.revoked, ['0.1'], 'the former session lives on')
  assert.equal(refreshes(issuer).length, 0)
})

test('no lock is held while callbacks run, and they may call the client', async (t) => {
  const { issuer, tab } = await world(t)
  let again
  const c = tab({ onChange: ({ user, expires }) => {
    assert.ok(expires > Date.now())
    again ??= c.getAccessToken({ minValidity: 1e9 }).then((token) => [user.sub, token])
  } })
  await signIn(issuer, c)
  assert.deepEqual(await again, ['ann', 'at-2'])
})

test('RT_J15: three outcomes: only a refusal ends the session', async (t) => {
  const answers = {
    'status 503': (r, resp, f, say) => say(503, { error: 'temporarily_unavailable' }),
    'status 429': (r, resp, f, say) => say(429, {}),
    'invalid_grant with status 500': (r, resp, f, say) => say(500, { error: 'invalid_grant' }),
    'a captive portal': (r, resp) => { resp.writeHead(200).end('<html>pay</html>') },
    'a redirect': (r, resp) => { resp.writeHead(302, { location: '/elsewhere' }).end() },
    'invalid_request': (r, resp, f, say) => say(400, { error: 'invalid_request' }),
    'no answer': (r, resp) => { resp.socket.destroy() },
  }
  await Promise.all(Object.entries(answers).map(async ([name, answer]) => {
    const { issuer, tab } = await world(t, { life: 0.3 })
    const c = tab()
    await signIn(issuer, c)
    issuer.next.push(...Array(30).fill(answer))
    await pause(400) // the access token is dead now, and its timer has tried
    await assert.rejects(c.getAccessToken(), is('transient'), name)
    assert.deepEqual(c.ends, [], name)
    assert.equal((await c.user()).sub, 'ann', name)
    issuer.next.length = 0
    await pause(1600)
    await c.getAccessToken()
  }))
  const { issuer, tab } = await world(t)
  const c = tab()
  await signIn(issuer, c)
  issuer.families.at(-1).revoked = 'admin'
  await assert.rejects(c.getAccessToken({ minValidity: 1e9 }), is('signed_out'))
  await settle()
  assert.deepEqual(c.ends, [{ reason: 'rejected', error: 'invalid_grant', remote: false }])
  assert.equal(await c.user(), null)
})

test('Retry-After is heeded, and the old access token is used while it lives', async (t) => {
  const { issuer, tab } = await world(t)
  const c = tab()
  await signIn(issuer, c)
  issuer.next.push((r, resp, f, say) => say(503, {}, { 'retry-after': '60' }))
  assert.equal(await c.getAccessToken({ minValidity: 1e9 }), 'at-1')
  assert.equal(await c.getAccessToken({ minValidity: 1e9 }), 'at-1')
  assert.equal(refreshes(issuer).length, 1, 'it asked again inside Retry-After')
})

test('fetch sends the token to its origins only, renews once on 401 and never on 403', async (t) => {
  const { issuer, tab } = await world(t)
  const foreign = await startIssuer()
  t.after(() => foreign.stop())
  const c = tab()
  await signIn(issuer, c)

  await c.fetch(foreign.url + '/x')
  assert.equal(foreign.api.calls[0].authorization, undefined, 'a foreign origin got the token')

  const count = () => refreshes(issuer).length
  issuer.api.answer = () => 403
  assert.equal((await c.fetch(issuer.url + '/x')).status, 403)
  assert.equal(count(), 0, 'a 403 renewed')

  issuer.api.answer = (req) => (req.headers.authorization === 'Bearer at-1' ? 401 : 200)
  const both = await Promise.all([c.fetch(issuer.url + '/x', { method: 'POST', body: 'text' }), c.fetch(new Request(issuer.url + '/y', { method: 'PUT', body: 'more' }))])
  assert.deepEqual(both.map((r) => r.status), [200, 200])
  assert.equal(count(), 1, 'two calls renewed twice')
  assert.deepEqual(issuer.api.calls.slice(-2).map((k) => k.body).sort(), ['more', 'text'])

  issuer.api.answer = () => 401
  issuer.api.calls.length = 0
  assert.equal((await c.fetch(issuer.url + '/x')).status, 401)
  assert.equal(issuer.api.calls.length, 2)
  assert.equal(count(), 2, 'a second 401 renewed again')

  issuer.api.calls.length = 0
  const stream = new Blob(['once']).stream()
  assert.equal((await c.fetch(issuer.url + '/x', { method: 'POST', body: stream, duplex: 'half' })).status, 401)
  assert.equal(issuer.api.calls.length, 1, 'a consumed body was sent again')

  issuer.next.push((req, resp, form, say) => say(503, {}, { 'retry-after': '1' }))
  await assert.rejects(c.fetch(issuer.url + '/x'), is('transient'), 'a 401 that is no verdict')
  await pause(1600)

  issuer.api.headers = { 'www-authenticate': 'Bearer error="insufficient_user_authentication"' }
  issuer.api.calls.length = 0
  await c.fetch(issuer.url + '/x')
  assert.equal(issuer.api.calls.length, 1, 'a step-up challenge was answered by a renewal')
})

test('sign-out wins over a renewal in flight: its answer is dropped and revoked', async (t) => {
  const { issuer, tab } = await world(t)
  const store = sharedStore()
  const c = tab({ storage: store })
  const other = tab({ storage: store })
  await signIn(issuer, c)
  await settle()
  let go
  issuer.next.push(() => new Promise((done) => { go = () => done(true) }))
  const late = c.getAccessToken({ minValidity: 1e9 })
  while (!go) await pause(10)
  issuer.families[0].revoked = undefined
  let to
  const out = c.signOut({ redirectUri: 'http://app.example/bye', navigate: (url) => { to = new URL(url) } })
  await pause(50)
  issuer.families[0].revoked = undefined // as if the answer had been on its way
  go()
  await assert.rejects(late, is('signed_out'))
  await out
  assert.equal(store.only(), null)
  assert.deepEqual(issuer.revoked, ['0.1', '0.2'])
  assert.equal(to.pathname, '/end')
  assert.match(to.searchParams.get('id_token_hint'), /^ey/)
  assert.equal(to.searchParams.get('post_logout_redirect_uri'), 'http://app.example/bye')
  await settle()
  assert.deepEqual(c.ends, [{ reason: 'signed_out', remote: false }])
  assert.deepEqual(other.ends, [{ reason: 'signed_out', remote: true }])
  await assert.rejects(other.getAccessToken(), is('signed_out'))
})

test('a renewal in another tab that outlives a sign-out does not bring the session back', async (t) => {
  const { issuer, tab } = await world(t)
  const store = sharedStore()
  const [one, two] = [tab({ storage: store }), tab({ storage: store })]
  await signIn(issuer, one)
  await settle()
  let go
  issuer.next.push(() => new Promise((done) => { go = () => done(true) }))
  const late = two.getAccessToken({ minValidity: 1e9 })
  while (!go) await pause(10)
  await one.signOut({ navigate: false })
  issuer.families[0].revoked = undefined
  go()
  await assert.rejects(late, is('signed_out'))
  assert.equal(store.only(), null)
  assert.equal(issuer.revoked.at(-1), '0.2')
})

test('servers without our extras: no rotation, no new refresh token, no ID token, no refresh token at all', async (t) => {
  const { issuer, tab } = await world(t, { rotate: false, oidc: false }, { scope: 'offline_access', retryKey: false })
  const c = tab()
  await signIn(issuer, c)
  for (let i = 2; i < 5; i++) assert.equal(await c.getAccessToken({ minValidity: 1e9 }), `at-${i}`)
  assert.equal(await c.user(), null)
  assert.ok(issuer.seen.every((s) => s.key === undefined), 'a key was sent')

  issuer.settings.life = 1
  const none = tab({ fetch: async (...a) => {
    const resp = await fetch(...a)
    if (!/token/.test(a[0])) return resp
    const { refresh_token, ...rest } = await resp.json()
    return Response.json(rest)
  } })
  await signIn(issuer, none)
  await none.getAccessToken()
  await pause(1200)
  await assert.rejects(none.getAccessToken(), is('signed_out'))
  assert.equal(none.ends.length, 1)
})

test('a refresh that brings the ID token of somebody else ends the session', async (t) => {
  const { issuer, tab } = await world(t)
  const c = tab()
  await signIn(issuer, c)
  issuer.families[0].sub = 'eve'
  await assert.rejects(c.getAccessToken({ minValidity: 1e9 }), is('signed_out'))
  assert.deepEqual(issuer.revoked, ['0.2'])
})

test('a store that fails loses nothing that is in memory', async (t) => {
  const { issuer, tab } = await world(t)
  const c = tab({ storage: { get: () => null, set: () => { throw new Error('full') }, remove() {} } })
  await signIn(issuer, c)
  await c.getAccessToken({ minValidity: 1e9 })
  await c.getAccessToken({ minValidity: 1e9 })
  assert.deepEqual(c.ends, [])
})

test('a slow store does not bring a session back that was signed out while it wrote', async (t) => {
  const { issuer, tab } = await world(t)
  const inner = sharedStore()
  const slow = { get: async (k) => inner.get(k), set: async (k, v) => { await pause(60); inner.set(k, v) }, remove: async (k) => inner.remove(k) }
  const c = tab({ storage: slow })
  await signIn(issuer, c)
  const late = c.getAccessToken({ minValidity: 1e9 })
  while (!refreshes(issuer).length) await pause(5)
  await pause(20)
  await c.signOut({ navigate: false })
  await assert.rejects(late, is('signed_out'))
  await pause(100)
  assert.equal(inner.only(), null)
})

test('a clock that is set back does not lengthen the life of an access token', async (t) => {
  const { issuer, tab } = await world(t, { life: 1 })
  const c = tab()
  await signIn(issuer, c)
  const real = Date.now
  t.after(() => { Date.now = real })
  Date.now = () => real() - 3_600_000
  await pause(1100)
  issuer.seen.length = 0
  const token = await c.getAccessToken()
  assert.notEqual(token, 'at-1')
  Date.now = real
})

test('a thief with a copy of the store is cut off by the reuse that one of them shows', async (t) => {
  const { issuer, tab } = await world(t)
  const store = sharedStore()
  const owner = tab({ storage: store })
  await signIn(issuer, owner)
  const thief = tab({ storage: store.copy(), issuer: issuer.url })
  thief.close()
  await owner.getAccessToken({ minValidity: 1e9 })
  const stolen = await fetch(issuer.url + '/token', { method: 'POST', body: new URLSearchParams({ grant_type: 'refresh_token', client_id: 'app', refresh_token: '0.1' }) })
  assert.equal(stolen.status, 400)
  await assert.rejects(owner.getAccessToken({ minValidity: 1e9 }), is('signed_out'))
})

test('the library is small, and a program ends although a client is open', async () => {
  const js = await readFile(join(import.meta.dirname, '../dist/heirloom.js'))
  assert.ok(js.length < 10_000, `${js.length} bytes: the budget is 10,000`)
  assert.doesNotMatch(js.toString(), /\bimport\b/)
  const program = `import { createClient } from ${JSON.stringify(join(import.meta.dirname, '../dist/heirloom.js'))}
    createClient({ issuer: 'http://127.0.0.1:9', clientId: 'app', redirectUri: 'http://a.example/', scope: 'x' })`
  execFileSync(process.execPath, ['--input-type=module', '-e', program], { timeout: 10_000 })
})
