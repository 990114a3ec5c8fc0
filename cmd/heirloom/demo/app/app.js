// A single-page app that looks after one family of refresh tokens as a careful client does, and can play the thief of
// its own token. Four parts: the family (tokens, renewal, other tabs), the API, the thief, and what is shown.
//
// A client treats a refresh token as opaque. This page alone reads the generation out of it, to show it.

const conf = document.documentElement.dataset
const leeway = Number(conf.leeway) // of the client's policy, in ms
const alone = location.hash === '#thief' // this tab is the thief's
const scope = 'openid profile offline_access demo.read'

const $ = (id) => document.getElementById(id)
const pause = (ms) => new Promise((done) => setTimeout(done, ms))

// ---------------------------------------------------------------- small things

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
}

function bytes(text) {
  return Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0))
}

const random = (n) => base64url(crypto.getRandomValues(new Uint8Array(n)))

async function sha256(text) {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

/** Eight characters by which a person can tell two tokens apart. Tokens themselves are not shown. */
async function fingerprint(token) {
  const hex = Array.from(await sha256(token), (b) => b.toString(16).padStart(2, '0')).join('')
  return `${hex.slice(0, 4)} ${hex.slice(4, 8)}`
}

function claims(jwt) {
  return JSON.parse(new TextDecoder().decode(bytes(jwt.split('.')[1])))
}

/** hrt_ and base64url of: version 1 byte, key 2, family 16, generation 4, tag 32. */
function generationOf(refreshToken) {
  return new DataView(bytes(refreshToken.slice(4)).buffer).getUint32(19)
}

/** What this tab keeps across a reload. Storage can be switched off in a browser: then nothing is kept. */
const kept = {
  get(name) {
    try { return JSON.parse(sessionStorage.getItem(`heirloom-demo-${name}`)) } catch { return null }
  },
  set(name, value) {
    try {
      if (value == null) sessionStorage.removeItem(`heirloom-demo-${name}`)
      else sessionStorage.setItem(`heirloom-demo-${name}`, JSON.stringify(value))
    } catch { /* memory has it */ }
  },
}

// ---------------------------------------------------------------- the family

// held is what the page has of its family; null: it is not signed in. All tabs of one family hold the same.
//
//   family, sub, refresh, access, idToken, generation, print
//   key          the Idempotency-Key under which `refresh` was sent, if it was; a retry sends the same
//   received     when, in ms, and life: of the access token; idle, absolute: of refresh token and family; ms, or null
//   silent       renewals that nobody asked for
//   window, floor  where the server's leeway window began and its lowest generation, as far as this page can know
let held = null
let due = Infinity // when this tab will renew; each tab rolls its own dice
let attempt = 0 // transient failures in a row
let ended = null // after the end: what is to be said about it
let endpoints // the issuer's metadata

const channel = new BroadcastChannel('heirloom-demo')

async function discover() {
  const resp = await fetch(`${conf.issuer}/.well-known/openid-configuration`)
  if (!resp.ok) throw new Error(`The server’s metadata could not be read (${resp.status}).`)
  endpoints = await resp.json()
  if (endpoints.issuer !== conf.issuer) throw new Error('The server’s metadata name another issuer.')
}

/**
 * Sends a form to the token endpoint. There are three outcomes, and only one of them ends a session:
 * refreshed (there is an answer), rejected (the server has decided), transient (nothing is known: try again).
 */
async function present(fields, key) {
  let resp, body
  try {
    resp = await fetch(endpoints.token_endpoint, {
      method: 'POST', credentials: 'omit', cache: 'no-store',
      headers: key ? { 'Idempotency-Key': key } : {},
      body: new URLSearchParams({ client_id: conf.client, ...fields }),
      signal: AbortSignal.timeout(15_000),
    })
    body = await resp.json()
  } catch {
    return { outcome: 'transient', why: resp ? `an answer that makes no sense (${resp.status})` : 'no answer', wait: 0 }
  }
  if (resp.ok && body.access_token) return { outcome: 'refreshed', answer: body, received: Date.now() }
  if (['invalid_grant', 'invalid_client', 'unauthorized_client'].includes(body.error)) {
    return { outcome: 'rejected', error: body.error }
  }
  return { outcome: 'transient', why: body.error ?? `status ${resp.status}`, wait: 1000 * (Number(resp.headers.get('Retry-After')) || 0) }
}

/** Makes the next `held` of an answer. `before` is what was held until now, or null after sign-in. */
async function grown(answer, received, before, silent) {
  const at = claims(answer.access_token)
  const refresh = answer.refresh_token ?? before.refresh
  const generation = generationOf(refresh)
  const next = {
    family: at.fam, sub: at.sub, refresh, access: answer.access_token, idToken: answer.id_token ?? before?.idToken,
    generation, print: await fingerprint(refresh), key: null, received, life: 1000 * answer.expires_in,
    idle: ms(answer.refresh_token_timeout), absolute: ms(answer.authorization_expires_in), scope: answer.scope,
    silent: (before?.silent ?? 0) + (silent ? 1 : 0), window: before?.window ?? 0, floor: before?.floor ?? 0,
  }
  // The server's rule: the first rotation after a window's end begins the next one.
  if (before && received >= next.window + leeway) Object.assign(next, { window: received, floor: before.generation })
  return next
}

const ms = (seconds) => (seconds == null ? null : 1000 * seconds)

/** Takes over newer tokens, wherever they come from. */
function hold(next, fromElsewhere) {
  held = next
  ended = null
  attempt = 0
  // Well before the end, and not all tabs, nor all users after an outage, at the same moment.
  due = Date.now() + (held.received + held.life * (0.6 + 0.2 * Math.random()) - Date.now())
  save()
  hint()
  if (!fromElsewhere) tell()
  show()
}

/** Lets the other tabs know; the thief's tab only hears what it needs for its forecast. */
function tell() {
  channel.postMessage({ kind: 'held', held })
  channel.postMessage({ kind: 'forecast', forecast: forecastOf(held) })
}

function save() {
  kept.set('held', held && kept.get('keep') ? { ...held, access: null, idToken: null } : null)
}

/** How far the family is: no secret, and unlike a message it is there at once for every tab. */
function hint() {
  try { localStorage.setItem('heirloom-demo-head', `${held.family} ${held.generation}`) } catch { /* the lock alone then */ }
}

async function catchUp() {
  let newest
  try { newest = (localStorage.getItem('heirloom-demo-head') ?? '').split(' ') } catch { return }
  const behind = () => held && newest[0] === held.family && Number(newest[1]) > held.generation
  if (!behind()) return
  channel.postMessage({ kind: 'ask' })
  for (let i = 0; i < 20 && behind(); i++) await pause(50) // the tab that knows may be gone: then the retry rules help
}

let flight = null

/** Renews, once at a time in this tab and, by a lock, in all tabs. why: 'silent', 'retry', 'asked', 'refused', 'reload' or 'lose'. */
function renew(why) {
  flight ??= alternately(why).finally(() => {
    flight = null
    if (held && due === Infinity) due = Date.now() + 5000 // something unforeseen: the family must not starve
    show()
  })
  tick()
  return flight
}

async function alternately(why) {
  const mine = held
  if (!mine) return 'rejected'
  return navigator.locks.request(`heirloom-demo ${mine.family}`, async () => {
    await catchUp()
    if (!held || held.family !== mine.family) return 'rejected'
    // While we waited for the lock another tab has done it.
    if (held.refresh !== mine.refresh && why !== 'lose') return 'refreshed'
    due = Infinity
    // With a copy about, ask the API first: then we know who of the two was found out.
    if (loot && why !== 'refused') await callAPI('before')
    if (!held) return 'rejected'
    return why === 'lose' ? loseAnswer() : send(why)
  })
}

async function send(why) {
  const before = held
  const retry = before.key != null
  // Kept before it is sent: who comes back after a crash, a reload or a lost answer can prove that it is a retry.
  held = { ...before, key: before.key ?? crypto.randomUUID() }
  save()
  channel.postMessage({ kind: 'held', held })
  const got = await present({ grant_type: 'refresh_token', refresh_token: held.refresh }, held.key)
  if (!held) return 'rejected' // signed out meanwhile
  switch (got.outcome) {
    case 'refreshed': {
      const silent = why === 'silent' || why === 'retry'
      hold(await grown(got.answer, got.received, before, silent))
      const step = `generation ${before.generation} → ${held.generation}`
      if (silent && !retry) sayRenewed(before.generation)
      else if (retry) say('good', `The retry got through, with the same key: ${step}.`)
      else if (why === 'asked') say('', `Renewed because you asked: ${step}.`)
      else if (why === 'reload') say('', `The page was reloaded and went on: ${step}.`)
      else say('', `Renewed after the API refused the access token: ${step}.`)
      break
    }
    case 'rejected':
      end(got.error)
      break
    case 'transient': {
      const wait = Math.max(got.wait, Math.min(30_000, 1000 * 2 ** attempt++) * (0.5 + Math.random()))
      due = Date.now() + wait
      say('', `A renewal did not get through (${got.why}). The session stays; next try in ${span(wait)}, with the same key.`)
      break
    }
  }
  return got.outcome
}

/** Sends a refresh, throws the answer away as a bad connection would, and retries with the same key. */
async function loseAnswer() {
  const before = held
  held = { ...before, key: before.key ?? crypto.randomUUID() }
  save()
  channel.postMessage({ kind: 'held', held })
  const fields = { grant_type: 'refresh_token', refresh_token: held.refresh }
  const first = await present(fields, held.key)
  if (first.outcome === 'rejected') { end(first.error); return 'rejected' }
  if (first.outcome === 'transient') { due = Date.now() + 1000; say('', `The answer was lost without our help (${first.why}).`); return 'transient' }
  const print = await fingerprint(first.answer.refresh_token) // all that is left of the answer
  say('', `The server answered with generation ${generationOf(first.answer.refresh_token)} (${print}), and the answer was thrown away. This page still holds generation ${before.generation}.`)
  first.answer = null
  await pause(1500)
  const second = await present(fields, held.key)
  if (second.outcome === 'rejected') { end(second.error); return 'rejected' }
  if (second.outcome === 'transient') { due = Date.now() + 1000; return 'transient' }
  hold(await grown(second.answer, second.received, before, false))
  if (held.print === print) say('good', `Retried with the same Idempotency-Key: the same generation ${held.generation} came back (${held.print}). Nothing forked, nobody was signed out.`)
  else say('bad', `Retried with the same Idempotency-Key: another token came back (${held.print}).`)
  return 'refreshed'
}

/** The session is over: the server has refused a refresh. */
function end(error) {
  const { family, generation } = held
  const refused = api.refused?.family === family ? api.refused : null
  const theft = loot?.family === family ? { generation: loot.generation, deeds: loot.deeds } : null
  finish({ family, generation, error, at: Date.now(), refused, theft })
  channel.postMessage({ kind: 'ended', ended })
  channel.postMessage({ kind: 'forecast', forecast: null })
  if (theft) fence()
}

function finish(how) {
  held = null
  due = Infinity
  kept.set('held', null)
  ended = how
  say('bad', how.theft ? 'The family is dead. Thief and owner are both out.' : 'The family has ended: the server refused our refresh token.')
  show()
  $('verdict').focus()
}

/** What happened, as far as a client can tell. */
function verdict() {
  const { family, generation, error, at, refused } = ended
  // A thief in this browser may hear of its refusal a moment after us.
  const theft = loot?.family === family ? loot : ended.theft
  const thief = theft?.deeds.find((d) => d.refused)
  const facts = []
  if (thief) facts.push([thief.at, 'bad', `The thief showed generation ${thief.generation} and was refused.`])
  if (refused) {
    const later = thief && refused.at > thief.at ? `, ${refused.at - thief.at < 1000 ? `${refused.at - thief.at} ms` : span(refused.at - thief.at)} later` : ''
    facts.push([refused.at, 'bad', `The API refused your access token, which had ${span(refused.left)} to live${later}.`])
  }
  facts.push([at, 'bad', `Your refresh was refused: ${error}${refused ? '' : ', while the API still said yes'}.`])
  facts.sort((a, b) => a[0] - b[0])
  if (!theft) {
    return {
      facts, heading: 'The family has ended',
      why: 'To a client every refusal looks the same: signed out elsewhere, ended by an administrator, too old, or an old token that turned up again. The server knows which.',
    }
  }
  const copy = `The copy was generation ${theft.generation}; this page had reached generation ${generation}.`
  if (thief) {
    return {
      facts, heading: 'The thief was refused, and the family is dead',
      why: `A used token came back without an excuse. That is proof that somebody has a copy, and the server cannot know which of the two is you: it ended the whole family in the same moment, every token of every generation. ${copy} The thief has nothing left, and you sign in again.`,
    }
  }
  if (refused) {
    return {
      facts, heading: 'Somebody used the stolen token, and the family is dead',
      why: `A used token was shown from somewhere else and refused. That is proof of a copy, so the server ended the whole family in the same moment, every token of every generation. ${copy} Whoever has the copy has nothing left, and you sign in again.`,
    }
  }
  return {
    facts, heading: 'You came second: the family is dead',
    why: `The thief used the newest token first and got the next one. Then you showed the same token, from a browser that does not look like the thief. One token, two users: the server cannot know which is you, so it refused you and ended the family, with everything that the thief had got. ${copy}`,
  }
}

channel.addEventListener('message', ({ data }) => {
  switch (data.kind) {
    case 'ask':
      if (alone) return
      if (held) tell()
      else channel.postMessage({ kind: 'forecast', forecast: null })
      if (loot) channel.postMessage({ kind: 'loot', loot })
      return
    case 'forecast':
      if (alone) { forecast = data.forecast; show() }
      return
    case 'loot':
      // The thief's tab takes what was stolen last; the owner's page follows what was done with it.
      if (loot?.id === data.loot.id ? data.loot.deeds.length > loot.deeds.length : alone) {
        const known = loot?.id === data.loot.id ? loot.deeds.length : data.loot.deeds.length
        loot = data.loot
        loot.deeds.slice(known).forEach(tellDeed)
        showDeeds()
        show()
      }
      return
  }
  if (alone) return
  switch (data.kind) {
    case 'held': {
      const next = data.held
      if (held && (held.family !== next.family || held.generation > next.generation)) return
      if (held && held.generation === next.generation && held.received >= next.received) {
        held.key ??= next.key // the other tab is sending: a retry of ours has to look the same
        save()
        return
      }
      const before = held
      hold(next, true)
      if (!before) say('', `Another tab is signed in: this one shares its family, at generation ${next.generation}.`)
      else if (next.generation > before.generation) say('', `Another tab renewed: generation ${before.generation} → ${next.generation}.`)
      return
    }
    case 'ended':
      if (held?.family === data.ended.family) finish(data.ended)
      return
    case 'left':
      if (held?.family === data.family) {
        held = null
        due = Infinity
        kept.set('held', null)
        say('', 'You signed out in another tab.')
        show()
      }
  }
})

// ---------------------------------------------------------------- sign in, sign out

async function signIn() {
  const asked = { verifier: random(32), state: random(16), nonce: random(16) }
  // A redirect loses all memory. These three are of use for this one request only.
  kept.set('asked', asked)
  const to = new URL(endpoints.authorization_endpoint)
  to.search = new URLSearchParams({
    response_type: 'code', client_id: conf.client, redirect_uri: conf.home, scope,
    state: asked.state, nonce: asked.nonce, code_challenge: base64url(await sha256(asked.verifier)), code_challenge_method: 'S256',
  })
  location.assign(to)
}

/** Comes back from the server with a code. */
async function callback(params) {
  const asked = kept.get('asked')
  kept.set('asked', null)
  // An answer that this tab did not ask for, or that another server gave (RFC 9207), is nobody's.
  if (!asked || params.get('state') !== asked.state) throw new Error('An answer came back that this tab did not ask for. Sign in again.')
  if (params.get('iss') !== conf.issuer) throw new Error('The answer came from another server. Sign in again.')
  if (params.has('error')) throw new Error(`You were not signed in: ${params.get('error_description') ?? params.get('error')}.`)
  const key = crypto.randomUUID()
  for (let i = 0; ; i++) {
    const got = await present({ grant_type: 'authorization_code', code: params.get('code'), redirect_uri: conf.home, code_verifier: asked.verifier }, key)
    if (got.outcome === 'rejected') throw new Error('The code was refused: it may be too old. Sign in again.')
    if (got.outcome === 'transient') {
      if (i === 4) throw new Error(`The code could not be exchanged: ${got.why}. Sign in again.`)
      await pause(Math.max(got.wait, 500 * 2 ** i))
      continue
    }
    const id = claims(got.answer.id_token)
    if (id.nonce !== asked.nonce || id.iss !== conf.issuer || ![].concat(id.aud).includes(conf.client)) {
      throw new Error('The ID token is for another sign-in. Sign in again.')
    }
    const next = await grown(got.answer, got.received, null, false)
    hold(next)
    say('good', `You signed in. A family began, and generation ${next.generation} arrived: good for ${span(next.life)} at the API and for one renewal.`)
    return
  }
}

async function whoAmI() {
  if (!held || held.name) return
  const asked = held.family
  try {
    const resp = await fetch(endpoints.userinfo_endpoint, { headers: { authorization: `Bearer ${held.access}` }, credentials: 'omit' })
    if (!resp.ok) return
    const user = await resp.json()
    name = user.name ?? user.preferred_username ?? user.sub
    nameOf = asked
    show()
  } catch { /* the name is only shown */ }
}

let name = '', nameOf = ''

function signOut() {
  const state = random(16)
  kept.set('left', state)
  const to = new URL(endpoints.end_session_endpoint)
  to.search = new URLSearchParams({ id_token_hint: held.idToken, client_id: conf.client, post_logout_redirect_uri: conf.home, state })
  channel.postMessage({ kind: 'left', family: held.family })
  held = null
  due = Infinity
  kept.set('held', null)
  location.assign(to)
}

// ---------------------------------------------------------------- the API

const api = { calls: 0, status: null, text: '–', scope: '–', at: 0, streak: 0, refused: null, was: null }

/** Calls the API with the access token. why: 'poll', 'asked' or 'before' (a renewal, whose lock we have). */
async function callAPI(why) {
  if (!held?.access) return
  const { access, family } = held
  const left = held.received + held.life - Date.now()
  let status = 0, text = 'no answer', words = '–'
  try {
    const resp = await fetch(conf.api, {
      headers: { authorization: `Bearer ${access}` }, credentials: 'omit', cache: 'no-store', signal: AbortSignal.timeout(10_000),
    })
    const body = await resp.json()
    status = resp.status
    text = resp.ok ? `yes, to family ${body.fam?.slice(0, 6)}…` : `no: ${body.error}`
    words = resp.ok ? body.scope : '–'
  } catch { /* told as no answer */ }
  if (access !== held?.access) return // the question is out of date, and so is its answer
  Object.assign(api, { calls: api.calls + 1, status, text, scope: words, at: Date.now() })
  if (status === 401) {
    api.streak++
    if (left > 0 && api.streak === 1) {
      api.refused = { family, left, at: Date.now() }
      say('bad', `The API refused our access token, which had ${span(left)} to live.`)
    }
  } else if (status === 200) {
    if (why === 'asked') say('', `The API said yes, to generation ${held.generation}’s access token.`)
    else if (api.was !== 200 && api.was !== null) say('good', 'The API says yes again.')
    api.streak = 0
    api.refused = null
  } else if (api.was !== status) {
    say('', status ? `The API answered ${status}: ${text}.` : 'The API did not answer.')
  }
  api.was = status
  show()
  // One try for a new token. If that is refused as well, asking faster will not help.
  if (status === 401 && why !== 'before' && api.streak === 1) await renew('refused')
}

async function poll() {
  for (;;) {
    await callAPI('poll').catch(() => {})
    // With a copy about, look twice a second.
    await pause(loot ? 500 : 2000)
  }
}

// ---------------------------------------------------------------- the thief

// loot is a stolen copy: token, generation, family, print, what the thief got for it, and what the thief did. It is the
// thief's own: nothing below uses `held`, its key or its lock.
let loot = null
let forecast = null // what the thief's tab knows of the family

const forecastOf = (h) => h && { family: h.family, generation: h.generation, floor: h.floor, window: h.window }

function steal() {
  loot = { id: random(8), token: held.refresh, generation: held.generation, family: held.family, print: held.print, at: Date.now(), got: null, deeds: [] }
  channel.postMessage({ kind: 'loot', loot })
  channel.postMessage({ kind: 'forecast', forecast: forecastOf(held) })
  say('bad', `A thief copied generation ${loot.generation} (${loot.print}). You notice nothing.`)
  showDeeds()
  show()
  $('thief').focus()
}

/** What would happen to a generation of the family if it were shown now. */
function weatherOf(generation) {
  const f = alone ? forecast : forecastOf(held)
  if (!f || f.family !== loot.family) return { kind: 'dead' }
  if (loot.got?.generation > f.generation) return { kind: 'ahead' }
  if (generation >= f.generation) return { kind: 'newest' }
  const left = f.window + leeway - Date.now()
  if (generation >= f.floor && left > 0) return { kind: 'window', left }
  return { kind: 'retired' }
}

/** Shows a stolen token to the server, from this browser: no key, no lock, no manners. */
async function use(token, what) {
  const generation = generationOf(token)
  const weather = weatherOf(generation)
  const got = await present({ grant_type: 'refresh_token', refresh_token: token })
  const deed = { at: Date.now(), generation, refused: got.outcome === 'rejected' }
  if (got.outcome === 'refreshed') {
    const next = generationOf(got.answer.refresh_token)
    if (weather.kind === 'newest' && held && deed.at >= held.window + leeway) Object.assign(held, { window: deed.at, floor: generation })
    loot.got = { token: got.answer.refresh_token, access: got.answer.access_token, generation: next }
    deed.text = next === generation + 1 && weather.kind !== 'window'
      ? `Showed generation ${generation}, the newest, before the owner did: served, and given generation ${next}.`
      : `Showed generation ${generation} from this browser, inside the leeway window: taken for a retry of the owner’s, and given generation ${next}.`
  } else if (deed.refused) {
    deed.text = `Showed generation ${generation}${what}: refused.`
  } else {
    deed.text = `Showed generation ${generation}: ${got.why}.`
  }
  add(deed)
  if (loot.got && deed.refused) await fence()
}

/** Tries the access token that the thief got. */
async function fence() {
  const { got } = loot
  if (!got || got.tried) return
  got.tried = true
  let status = 0
  try { status = (await fetch(conf.api, { headers: { authorization: `Bearer ${got.access}` }, credentials: 'omit', cache: 'no-store' })).status } catch { /* 0 */ }
  add({ at: Date.now(), generation: got.generation, harmless: status === 401, text: `Tried the access token of generation ${got.generation} at the API: ${status === 401 ? 'refused, too' : `answered ${status || 'nothing'}`}.` })
}

function add(deed) {
  loot.deeds = [...loot.deeds, deed]
  tellDeed(deed)
  channel.postMessage({ kind: 'loot', loot })
  showDeeds()
  show()
  // The owner's page looks at once instead of half a second later.
  if (!alone && deed.refused) callAPI('poll').catch(() => {})
}

// ---------------------------------------------------------------- what is shown

const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false })

/** A length of time for people. */
function span(t) {
  const s = Math.max(0, t) / 1000
  if (s < 10) return `${s.toFixed(1)} s`
  if (s < 120) return `${Math.floor(s)} s`
  if (s < 7200) return `${Math.floor(s / 60)} min`
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
  return `${Math.floor(s / 86400)} days`
}

/** Changes text only when it changes, so that assistive technology and selections are left in peace. */
function put(id, text) {
  const el = $(id)
  if (el.textContent !== text) el.textContent = text
}

const hide = (id, hidden) => { $(id).hidden = hidden }

function line(at, kind, text) {
  const li = document.createElement('li')
  const time = document.createElement('time')
  time.dateTime = new Date(at).toISOString()
  time.textContent = clock(at)
  const words = document.createElement('span')
  words.className = kind
  words.textContent = text
  li.append(time, words)
  return li
}

let streak = null // silent renewals in a row share a line: it grows in place and is not read out again

function say(kind, text) {
  streak = null
  $('timeline').prepend(line(Date.now(), kind, text))
  while ($('timeline').children.length > 200) $('timeline').lastChild.remove()
  hide('happened', false)
}

function sayRenewed(from) {
  if (!streak) {
    say('', '')
    streak = { from, n: 0, li: $('timeline').firstChild, since: Date.now() }
  }
  streak.n++
  const time = streak.li.querySelector('time')
  time.textContent = clock(Date.now())
  streak.li.lastChild.textContent = streak.n === 1
    ? `Renewed silently: generation ${from} → ${held.generation}.`
    : `Renewed silently ${streak.n} times since ${clock(streak.since)}: generation ${streak.from} → ${held.generation}.`
}

/** The owner's timeline tells what the thief did, as no real one could. */
function tellDeed(deed) {
  if (!alone) say('bad', `The thief: ${deed.text}`)
}

function showDeeds() {
  $('deeds').replaceChildren(...loot.deeds.map((d) => line(d.at, d.refused || d.harmless ? 'good' : 'bad', d.text)))
}

let chips = ''

function showGenerations() {
  const head = held?.generation ?? ended.generation
  const stolen = loot && loot.family === (held?.family ?? ended.family) ? loot.generation : 0
  const drawn = `${held?.family ?? 'dead'} ${head} ${stolen}`
  if (drawn === chips) return
  chips = drawn
  const room = matchMedia('(min-width: 40rem)').matches ? 7 : 5
  const first = Math.max(1, head - room + 1)
  const chip = (text, kind, label) => {
    const li = document.createElement('li')
    li.className = kind
    li.textContent = text
    if (label) li.title = label
    return li
  }
  const list = []
  if (first > 1) list.push(chip('…', 'more', `generations 1 to ${first - 1}: used`))
  for (let g = first; g <= head; g++) {
    const state = held ? (g === head ? 'head' : 'spent') : 'dead'
    const says = { head: 'the newest', spent: 'used', dead: 'dead' }[state]
    list.push(chip(`${g}`, state + (g === stolen ? ' stolen' : ''), `generation ${g}: ${says}${g === stolen ? ', and stolen' : ''}`))
  }
  $('generations').replaceChildren(...list)
}

function show() {
  const state = alone ? 'thief' : held ? 'live' : ended ? 'ended' : 'out'
  document.body.dataset.state = state
  document.body.classList.toggle('alone', alone)
  if (alone) return showThief()
  hide('who', !held || nameOf !== held.family)
  put('name', name)
  hide('sign-in', !!held)
  hide('sign-out', !held?.idToken)
  hide('keeping', !held)
  put('sign-in', ended ? 'Sign in again' : 'Sign in')
  hide('intro', state !== 'out')
  hide('live', state === 'out')
  hide('verdict', state !== 'ended')
  put('title', { live: 'A living family', ended: 'A dead family', out: 'A living family' }[state])
  document.title = `${{ live: 'Generation ' + held?.generation, ended: 'The family is dead', out: 'Demo' }[state]} – Heirloom`
  for (const id of ['renew', 'call', 'lose', 'steal']) $(id).disabled = !held
  hide('try', !held)
  $('family-tile').classList.toggle('bad', state === 'ended')
  if (state === 'ended') {
    const v = verdict()
    put('verdict-heading', v.heading)
    if ($('verdict-facts').dataset.drawn !== JSON.stringify(v.facts)) {
      $('verdict-facts').dataset.drawn = JSON.stringify(v.facts)
      $('verdict-facts').replaceChildren(...v.facts.map((f) => line(...f)))
    }
    put('verdict-why', v.why)
    put('verdict-command', `heirloom family why ${ended.family}`)
  }
  if (state !== 'out') {
    put('family', held?.family ?? ended.family)
    put('generation', String(held?.generation ?? ended.generation))
    if (held) put('silent', String(held.silent))
    showGenerations()
  }
  showThief()
  tick()
}

/** What changes with time alone. */
function tick() {
  const now = Date.now()
  if (held) {
    const age = now - held.received
    put('access-age', span(age))
    put('access-left', `${span(held.life - age)} of ${span(held.life)}`)
    $('access-bar').value = Math.max(0, 1 - age / held.life)
    put('due', flight ? 'now' : due === Infinity ? '–' : `in ${span(due - now)}`)
    put('refresh-age', span(age))
    const life = held.idle ?? held.absolute
    put('refresh-left', life == null ? 'no end' : `${span(life - age)} if unused${held.absolute == null ? '' : `; the family ends in ${span(held.absolute - age)}`}`)
    $('refresh-bar').value = life == null ? 1 : Math.max(0, 1 - age / life)
    put('refresh-print', held.print)
  } else if (ended) {
    for (const id of ['access-left', 'refresh-left']) put(id, 'nothing: dead')
    put('due', 'never again')
    $('access-bar').value = $('refresh-bar').value = 0
  }
  put('api-status', api.status === null ? '–' : api.status ? `${api.status}` : 'none')
  $('api-tile').classList.toggle('good', api.status === 200)
  $('api-tile').classList.toggle('bad', api.status === 401)
  put('api-caption', api.status === null ? 'not called yet' : `${span(now - api.at)} ago`)
  put('api-text', api.text)
  put('api-scope', api.scope)
  put('api-calls', String(api.calls))
  if (loot) showWeather()
}

function showThief() {
  hide('thief', !loot && !alone)
  if (alone) {
    put('title', 'You are the thief')
    put('lead', 'This tab knows nothing but a copied refresh token. The owner goes on in the other tab.')
  }
  for (const id of ['use', 'copy']) $(id).disabled = !loot
  hide('use-newest', !loot?.got)
  if (!loot) {
    put('loot', alone ? 'Nothing was stolen yet. Press “Steal the refresh token” in the owner’s tab.' : '')
    return
  }
  put('loot', `You hold a copy of generation ${loot.generation} (${loot.print}), taken at ${clock(loot.at)}${loot.got ? `, and generation ${loot.got.generation}, which the server gave you` : ''}.`)
  put('use', `Use generation ${loot.generation} from here`)
  if (loot.got) put('use-newest', `Use generation ${loot.got.generation} from here`)
  put('curl', `curl -sS ${endpoints.token_endpoint} \\\n  -d grant_type=refresh_token -d client_id=${conf.client} \\\n  -d refresh_token=${loot.token}`)
  showWeather()
}

function showWeather() {
  const w = weatherOf(loot.generation)
  const n = loot.generation
  put('weather', {
    ahead: () => `The thief is ahead, with generation ${loot.got.generation}. The owner’s next renewal shows a used token: from this same browser it passes for a retry while the leeway lasts, and both hold the same generation. A thief who looks like the owner and is always quick goes unseen; tokens bound to a key are the cure.`,
    newest: () => `Generation ${n} is still the newest. Whoever shows it first is served; the other comes second, and from another browser or program that ends the family. Or let the owner renew first: it does so soon by itself, or at “Renew now”.`,
    window: () => `Generation ${n} was used, but for ${span(w.left)} more a second showing from this browser passes for a retry of the owner’s: that is the price of the leeway. From anywhere else it is found out at once.`,
    retired: () => `Generation ${n} is retired for good. Shown from anywhere, even from here, it is found out at once.`,
    dead: () => `The family is dead. Generation ${n} is worthless, and so is everything that came of it.`,
  }[w.kind]())
  const bar = $('window-bar')
  bar.hidden = w.kind !== 'window'
  if (w.kind === 'window') bar.value = w.left / leeway
}

function complain(err) {
  const box = $('message')
  box.className = 'problem'
  const p = document.createElement('p')
  p.textContent = err.message
  box.replaceChildren(p)
  box.hidden = false
}

function note(text) {
  complain({ message: text })
  $('message').className = 'notice'
}

/** Runs what a button does; a failure is shown and does not vanish in the console. */
const on = (id, f) => $(id).addEventListener('click', () => {
  hide('message', true)
  Promise.resolve().then(f).catch(complain)
})

on('sign-in', signIn)
on('sign-out', signOut)
on('renew', () => renew('asked'))
on('call', () => callAPI('asked'))
on('lose', async () => {
  await flight // a renewal that is under way is not the one to lose
  await renew('lose')
})
on('steal', steal)
on('use', () => use(loot.token, weatherOf(loot.generation).kind === 'dead' ? ' again' : ', a retired one'))
on('use-newest', () => use(loot.got.token, ', which the server had given out'))
on('copy', async () => {
  try {
    await navigator.clipboard.writeText($('curl').textContent)
    put('copy', 'Copied')
    setTimeout(() => put('copy', 'Copy the command'), 2000)
  } catch {
    getSelection().selectAllChildren($('curl')) // not allowed: ready for the keyboard
  }
})
$('keep').addEventListener('change', (e) => {
  kept.set('keep', e.target.checked || null)
  save()
})

// ---------------------------------------------------------------- start

function wake() {
  if (held && !flight && Date.now() >= due) renew(held.key ? 'retry' : 'silent').catch(complain)
}

async function start() {
  $('keep').checked = !!kept.get('keep')
  const params = new URLSearchParams(location.search)
  // The code is for one use and nobody's business: out of the address and the history.
  if (location.search) history.replaceState(null, '', location.pathname + location.hash)
  await discover()
  setInterval(() => { tick(); wake() }, 200)
  if (alone) {
    channel.postMessage({ kind: 'ask' })
    show()
    return
  }
  poll()
  addEventListener('online', () => { if (held?.key) due = Date.now() })
  document.addEventListener('visibilitychange', () => { if (!document.hidden) wake() })
  if (params.has('code') || params.has('error')) {
    await callback(params)
  } else {
    const left = kept.get('left')
    kept.set('left', null)
    if (left && params.get('state') === left) note('You are signed out. The family ended with your session.')
    const stored = kept.get('keep') && kept.get('held')
    channel.postMessage({ kind: 'ask' })
    await pause(150) // another tab answers sooner
    if (!held && stored) {
      held = stored
      await renew('reload')
    }
  }
}

await start().catch(complain)
show()
if (held) whoAmI()
