// Heirloom in the browser: keeps one person signed in to one app, in all its tabs, with refresh tokens that are used
// once. It knows OAuth 2.1, OpenID Connect and the rules of a careful client; it knows no framework, draws nothing and
// checks no signature (tokens come straight from the issuer, OpenID Connect Core §3.1.3.7). Only standard web APIs are
// used, and those that a place lacks (locks, channels, storage, a document) are done without.

/** Where the session is kept. A store may be slow: every method may return a promise. Keys are ours to choose. */
export interface Store {
  get(key: string): string | null | undefined | Promise<string | null | undefined>
  set(key: string, value: string): unknown
  remove(key: string): unknown
}

/** The part of the issuer's metadata (RFC 8414) that is used. */
export interface Metadata {
  issuer: string
  authorization_endpoint: string
  token_endpoint: string
  revocation_endpoint?: string
  end_session_endpoint?: string
  authorization_response_iss_parameter_supported?: boolean
}

/** Claims of an ID token. */
export type Claims = { iss: string; sub: string; aud: string | string[]; exp: number; iat: number } & Record<string, unknown>

/** Why a session ended. remote: another tab, or the store, said so. error: what the server said, when it refused. */
export interface End {
  reason: 'rejected' | 'signed_out'
  error?: string
  remote: boolean
}

/** What onChange is told. expires: when the access token ends, in ms since 1970. */
export interface Change {
  user: Claims | null
  expires: number
}

export interface Config {
  /** The issuer's URL, whose metadata are read when first needed; or metadata, and nothing is read. */
  issuer?: string
  metadata?: Metadata
  clientId: string
  redirectUri: string
  /** Words with spaces between. */
  scope: string
  /** APIs that the access token is for (RFC 8707). */
  resource?: string | string[]
  /** Default 'memory': a reload signs out. 'session': this tab. 'local': all tabs, also after a restart. */
  storage?: 'memory' | 'session' | 'local' | Store
  /** Origins that fetch() sends the access token to. Default: those of resource; without resource, the page's own. */
  origins?: string[]
  /** The part of an access token's life after which it is renewed, jitter of ±5 % aside. Default 0.75. */
  early?: number
  /** How long a tab waits for another tab's renewal before it goes ahead, in ms. Default 8000. */
  lockTimeout?: number
  /** False: send no Idempotency-Key, for a server whose CORS answers do not allow that header. Default true. */
  retryKey?: boolean
  /** Used for every request. Default: the global fetch. */
  fetch?: typeof fetch
  /** Called after tokens have changed. No lock is held; what it throws is reported as uncaught and changes nothing. */
  onChange?: (change: Change) => void
  /** Called once for each session that ended, as onChange is. */
  onEnd?: (end: End) => void
}

export interface SignInOptions {
  /** More parameters of the authorization request, such as prompt, login_hint, max_age, acr_values, ui_locales. */
  params?: Record<string, string>
  /** Kept for handleRedirect to return; JSON must be able to hold it. */
  state?: unknown
  /** Goes to the issuer. Default: location.assign. */
  navigate?: (url: string) => unknown
}

export interface SignOutOptions {
  /** Where the issuer sends the person afterwards; it must be registered. */
  redirectUri?: string
  /** Goes to the issuer's end of session. Default: location.assign, if there is one. false: stay here. */
  navigate?: ((url: string) => unknown) | false
}

export interface Client {
  /** Begins a sign-in and leaves the page. The promise is kept when the navigation was asked for. */
  signIn(options?: SignInOptions): Promise<void>
  /**
   * Ends a sign-in when url (default: the page's) is an answer to one, and takes the answer out of the address bar.
   * Returns what signIn was given as state. Null: url is no answer. Calling it again for the same url is harmless.
   * Throws SessionError: signed_out when the answer was nobody's or a no; transient when the issuer was out of reach.
   */
  handleRedirect(url?: string): Promise<{ state: unknown; user: Claims | null } | null>
  /**
   * Returns an access token that lives at least minValidity ms longer, if the issuer gives such, renewing if need be.
   * If it can not be renewed now, one that is still alive will do. Throws SessionError.
   */
  getAccessToken(options?: { minValidity?: number }): Promise<string>
  /**
   * Is fetch, with the access token for the origins that may have it. A 401 is answered by one renewal and one more
   * try, if the body can be sent again; other answers, 403 among them, are the caller's. Throws SessionError: as
   * getAccessToken, and transient when a 401 came and the token can not be renewed now.
   */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>
  /** Ends the session here, in all tabs, and at the issuer. An answer to a renewal that comes later is thrown away. */
  signOut(options?: SignOutOptions): Promise<void>
  /** The claims of the ID token; null: nobody is signed in, or there was no ID token. */
  user(): Promise<Claims | null>
  /** Stops timers and listeners. The session stays. */
  close(): void
}

/** code: signed_out (sign in again) or transient (try again after retryAfter ms; the session stays). */
export class SessionError extends Error {
  constructor(readonly code: 'signed_out' | 'transient', message: string, readonly retryAfter = 0) {
    super(message)
    this.name = 'SessionError'
  }
}

// What is kept. family: drawn at sign-in, not the server's. n: rotations since. refresh: '' when the issuer gave none.
// key: under which refresh was sent, if it was.
interface Kept { family: string; n: number; refresh: string; key?: string; id?: string }

interface Access { token: string; at: Moment; life: number; due: number }

interface Asked { state: string; nonce: string; verifier: string; app: unknown; key: string }

interface Tokens { access_token: string; expires_in?: number; refresh_token?: string; id_token?: string }

// There are three outcomes: tokens; a refusal, which is a decision; or neither, and then nothing is known: why and wait.
interface Answer { tokens?: Tokens; at: Moment; refused?: string; why: string; wait: number }

type Message =
  | { is: 'ask' }
  | { is: 'held'; kept: Kept; token?: string; until: number }
  | { is: 'ended'; family: string; reason: End['reason']; error?: string }

// Two clocks: one can be set back by its owner, the other may rest while the machine sleeps. The older age is right.
type Moment = [wall: number, running: number]
const moment = (): Moment => [Date.now(), performance.now()]
const age = (m: Moment) => Math.max(Date.now() - m[0], performance.now() - m[1])

// What a place may lack.
const world: Partial<typeof globalThis> = globalThis

const pause = (ms: number) => new Promise<void>((done) => setTimeout(done, ms))

const base64url = (bytes: Uint8Array) =>
  btoa(String.fromCharCode(...bytes)).replace(/[+/=]/g, (c) => ({ '+': '-', '/': '_' })[c] ?? '')

const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)))

/** The claims of a JWT; throws when it is none. */
function claims(jwt: string): Claims {
  const text = atob(jwt.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'))
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))))
}

/** Adds parameters to a URL, those without a value left out. */
function address(url: string, params: Record<string, string | string[] | undefined>) {
  const u = new URL(url)
  for (const [k, v] of Object.entries(params)) for (const one of [v ?? []].flat()) u.searchParams.append(k, one)
  return u.href
}

function parse<T>(text: string | null | undefined): T | null {
  try { return JSON.parse(text ?? 'null') } catch { return null }
}

/** A store in memory. */
function inMemory(m = new Map<string, string>()): Store {
  return { get: (k) => m.get(k), set: (k, v) => m.set(k, v), remove: (k) => m.delete(k) }
}

/** A store of the browser's. Touching it may throw, where people have switched it off: then each call does. */
const ofBrowser = (name: 'sessionStorage' | 'localStorage'): Store => ({
  get: (k) => world[name]!.getItem(k),
  set: (k, v) => world[name]!.setItem(k, v),
  remove: (k) => world[name]!.removeItem(k),
})

/** Makes a client. It sends nothing until it is used. Safe to make twice: clients of one session are as two tabs. */
export function createClient(config: Config): Client {
  const { clientId, redirectUri, scope, storage = 'memory', early = 0.75, lockTimeout = 8000 } = config
  const issuer = config.metadata?.issuer ?? config.issuer
  if (!issuer || !clientId || !redirectUri) throw new TypeError('set issuer, clientId and redirectUri')
  if (!(early > 0 && early < 1)) throw new TypeError(`early is ${early}: set one like 0.75`)
  const http: typeof fetch = (...a) => (config.fetch ?? fetch)(...a)
  const resources = config.resource ? [config.resource].flat() : []
  const here = world.location
  const page = world.document
  const origins = new Set((config.origins ?? (resources.length ? resources : here ? [here.href] : [])).map((u) => new URL(u).origin))

  const name = `heirloom ${issuer} ${clientId}`
  const alone = storage === 'memory' // no tab shares this session
  const shared = !alone && storage !== 'session' // tabs see one store
  const store = storage === 'memory' ? inMemory() : typeof storage === 'string' ? ofBrowser(`${storage}Storage`) : storage
  // A redirect loses all memory; this survives it, in this tab alone.
  const trip = here ? ofBrowser('sessionStorage') : inMemory()

  let kept: Kept | null = null // the newest that this tab knows of
  let access: Access | null = null
  let broken = false // the store could not be written: memory is what we have
  let epoch = 0 // counts ended sessions: what was begun before the end is not for the one after
  let flight: Promise<string> | null = null
  let failures = 0
  let rest: { at: Moment; wait: number; told: boolean } | null = null // after a transient failure; told: by the server
  let timer: ReturnType<typeof setTimeout> | undefined
  const stop = new AbortController()
  let heard: (() => void) | undefined
  let found = config.metadata && Promise.resolve(config.metadata)

  const left = () => (access ? access.life - age(access.at) : 0)
  const resting = () => (rest ? Math.max(0, rest.wait - age(rest.at)) : 0)

  // ---------------------------------------------------------------- the store

  /** Takes over what is newer; null: nobody is signed in. */
  function take(next: Kept | null): Kept | null {
    if (next?.family !== kept?.family) access = null
    return (kept = next)
  }

  /** What the store holds; undefined: it can not be read or written, and so says nothing. */
  async function peek() {
    try { return broken ? undefined : parse<Kept>(await store.get(name)) } catch { return undefined }
  }

  async function read(): Promise<Kept | null> {
    const before = epoch
    const stored = await peek()
    if (stored === undefined || before !== epoch) return kept
    if (typeof stored?.refresh !== 'string') {
      if (kept) over('signed_out', true)
      return kept
    }
    // Another process's write may arrive here later than its message did.
    return kept && kept.family === stored.family && ahead(kept, stored) ? kept : take(stored)
  }

  const ahead = (a: Kept, b: Kept) => a.n > b.n || (a.n === b.n && !!a.key && !b.key)

  async function write(next: Kept) {
    take(next)
    try { await store.set(name, JSON.stringify(next)) } catch { broken = true }
  }

  async function forget() {
    try { await store.remove(name) } catch { broken = true }
  }

  /** The session has ended: nothing of it is used from now on. */
  function over(reason: End['reason'], remote: boolean, error?: string) {
    const was = kept
    epoch++
    access = kept = rest = null
    failures = 0
    clearTimeout(timer)
    if (was) queueMicrotask(() => config.onEnd?.({ reason, remote, ...(error && { error }) }))
  }

  function changed() {
    const user = kept?.id ? claims(kept.id) : null
    const expires = Date.now() + left()
    queueMicrotask(() => config.onChange?.({ user, expires }))
  }

  // ---------------------------------------------------------------- other tabs

  const channel = world.BroadcastChannel && new BroadcastChannel(name)
  ;(channel as { unref?: () => void } | undefined)?.unref?.() // Node: a channel is no reason to stay

  const post = (m: Message) => { if (!stop.signal.aborted) channel?.postMessage(m) }

  function tell() {
    if (kept && !alone) post({ is: 'held', kept, ...(left() > 0 && { token: access!.token }), until: Date.now() + left() })
  }

  async function listen({ data: m }: { data: Message }) {
    if (m.is === 'ask') return tell()
    if (m.is === 'ended') {
      if (m.reason === 'rejected' && m.family !== kept?.family) return
      // Somebody may have signed in since; and a renewal may have written after the sign-out removed.
      const stored = shared && (await peek())
      if (stored && stored.family !== m.family) return void read()
      await forget()
      return over(m.reason, true, m.error)
    }
    if (alone) return
    if (shared && kept?.family !== m.kept.family) await read()
    if (kept?.family !== m.kept.family) return
    const newer = ahead(m.kept, kept)
    if (newer) {
      take(m.kept)
      if (!shared) await write(m.kept)
    }
    const life = m.until - Date.now()
    const better = m.token && m.kept.n >= kept!.n && m.token !== access?.token && life > left()
    if (better) adopt(m.token!, moment(), life)
    if (newer || better) heard?.()
  }

  /** Asks the other tabs how far the family is, and reads the store again. */
  async function catchUp() {
    if (channel && !alone) {
      post({ is: 'ask' })
      await new Promise<void>((done) => { heard = done; setTimeout(done, 50) })
      heard = undefined
    }
    return read()
  }

  /** Runs work while no other tab runs its own, unless one keeps us waiting for too long: it may be frozen. */
  async function locked(work: (guarded: boolean) => Promise<string>): Promise<string> {
    const locks = world.navigator?.locks as LockManager | undefined
    if (!locks || alone) return work(alone)
    let ours = false
    try {
      return await locks.request(name, { signal: AbortSignal.timeout(lockTimeout) }, () => { ours = true; return work(true) })
    } catch (err) {
      if (ours) throw err
      return work(false) // safe without: the store holds the key that the other one sent
    }
  }

  // ---------------------------------------------------------------- the issuer

  /** Sends a request that carries no cookie and follows no redirect; a captive portal is no issuer. */
  const send = (url: string, form?: Record<string, string>, key?: string) => {
    const body = form && new URLSearchParams({ client_id: clientId, ...form })
    if (form?.grant_type) for (const r of resources) body!.append('resource', r)
    return http(url, {
      credentials: 'omit', redirect: 'error', signal: AbortSignal.timeout(15_000),
      ...(body && { method: 'POST', body, cache: 'no-store' }),
      ...(key && config.retryKey !== false && { headers: { 'Idempotency-Key': key } }),
    })
  }

  function metadata(): Promise<Metadata> {
    return (found ??= (async () => {
      const resp = await send(issuer!.replace(/\/$/, '') + '/.well-known/openid-configuration')
      const m: Metadata = await resp.json()
      if (m.issuer !== issuer) throw new Error(`metadata of ${issuer} name ${m.issuer}`)
      return m
    })().catch((err) => { found = undefined; throw err }))
  }

  /** Asks the token endpoint. Throws nothing. */
  async function ask(form: Record<string, string>, key: string | undefined): Promise<Answer> {
    const answer: Answer = { at: moment(), why: '', wait: 0 } // a life counted from before the request ends early, not late
    try {
      const resp = await send((await metadata()).token_endpoint, form, key)
      answer.why = `status ${resp.status}`
      const after = resp.headers.get('Retry-After') ?? ''
      answer.wait = Math.min(Math.max(1000 * Number(after) || Date.parse(after) - Date.now() || 0, 0), 300_000)
      const got = await resp.json()
      if (resp.ok && got.access_token) answer.tokens = got
      else answer.why = got.error ?? answer.why
      if (/40[01]/.test(`${resp.status}`) && /^(invalid_grant|invalid_client|unauthorized_client)$/.test(got.error)) answer.refused = got.error
    } catch (err) {
      answer.why ||= String(err)
    }
    return answer
  }

  /** Revokes a refresh token that nobody is to use, as far as the issuer can be reached. */
  async function revoke(token: string | undefined) {
    try {
      const { revocation_endpoint } = await metadata()
      if (revocation_endpoint && token) await send(revocation_endpoint, { token, token_type_hint: 'refresh_token' })
    } catch { /* it ends by itself */ }
  }

  /** Tells whether an ID token is for us and holds these claims. */
  function fits(id: string, want: Record<string, unknown>) {
    try {
      const c = claims(id)
      const aud = [c.aud].flat()
      return aud.includes(clientId) && (aud.length < 2 || c.azp === clientId) &&
        Object.entries({ iss: issuer, ...want }).every(([k, v]) => c[k] === v)
    } catch { return false }
  }

  function adopt(token: string, at: Moment, life: number) {
    // Well before the end, and not all tabs, nor all people after an outage, at the same moment.
    access = { token, at, life, due: kept?.refresh ? life * (early + 0.1 * (Math.random() - 0.5)) : life }
    rest = null
    failures = 0
    schedule()
    changed()
  }

  function adoptTokens(tokens: Tokens, at: Moment) {
    adopt(tokens.access_token, at, 1000 * (Number(tokens.expires_in) || 300))
    tell()
  }

  // ---------------------------------------------------------------- renewal

  /** Renews, once at a time here and in all tabs. Returns what is to be said if there is no live token afterwards. */
  function renew(): Promise<string> {
    return (flight ??= locked(renewal).catch((err) => failed(String(err), 0)).finally(() => { flight = null; schedule() }))
  }

  async function renewal(guarded: boolean): Promise<string> {
    const mine = epoch
    const before = access?.token
    for (let i = 0; ; i++) {
      let was = await catchUp()
      if (!was || mine !== epoch) return 'ended'
      // While we waited another tab has done it.
      if (access && access.token !== before && left() > 0) return ''
      if (!was.refresh) return left() > 0 ? '' : refused(was, 'no refresh token')
      if (!was.key) {
        // Kept before it is sent: who comes back after a crash, a reload or a lost answer can prove that it is a retry.
        await write((was = { ...was, key: random() }))
        tell()
        if (!guarded) {
          await pause(50) // a tab that drew at the same moment: the key in the store counts
          was = (await read()) ?? was
        }
        if (mine !== epoch) return 'ended'
      }
      const got = await ask({ grant_type: 'refresh_token', refresh_token: was.refresh }, was.key)
      const { tokens } = got
      const refresh = tokens?.refresh_token ?? was.refresh // none was sent: the old one stays
      const now = mine === epoch ? await read() : null
      if (mine !== epoch || now?.family !== was.family) {
        // Signed out, or somebody else signed in: sign-out wins.
        if (tokens) await revoke(refresh)
        return 'ended'
      }
      if (tokens) {
        // The store may have been taken further by a tab that did not wait: then its token is the newer one.
        if (now.refresh === was.refresh) {
          const id = tokens.id_token ?? was.id
          if (id && !fits(id, was.id ? { sub: claims(was.id).sub } : {})) {
            await revoke(refresh)
            return refused(was, 'the ID token does not fit')
          }
          await write({ family: was.family, n: was.n + 1, refresh, ...(id && { id }) })
          if (mine !== epoch) {
            await forget() // a sign-out came while a slow store wrote
            await revoke(refresh)
            return 'ended'
          }
        }
        adoptTokens(tokens, got.at)
        return ''
      }
      if (got.refused) {
        // The token that was refused may not be the newest.
        const newest = await catchUp()
        if (mine !== epoch) return 'ended'
        if (i < 2 && newest && newest.refresh !== was.refresh) continue
        return refused(was, got.refused)
      }
      if (i || got.wait) return failed(got.why, got.wait)
      await pause(100 + 200 * Math.random()) // one retry while it is hot: most lost answers are lost once
    }
  }

  async function refused(was: Kept, error: string) {
    over('rejected', false, error)
    await forget()
    post({ is: 'ended', family: was.family, reason: 'rejected', error })
    return 'ended'
  }

  function failed(why: string, told: number) {
    rest = { at: moment(), wait: Math.max(told, Math.min(30_000, 1000 * 2 ** failures++) * (0.5 + Math.random())), told: told > 0 }
    return why
  }

  function schedule() {
    clearTimeout(timer)
    if (stop.signal.aborted || !kept || !(access || rest)) return
    const wait = Math.max(resting(), access ? access.due - age(access.at) : 0)
    // No long timers: a machine that slept, or a clock that was set, is noticed within a minute.
    timer = setTimeout(check, Math.min(Math.max(wait, 20), 60_000))
    ;(timer as { unref?: () => void }).unref?.()
  }

  /** Renews if it is time and somebody is looking. A tab that has had no access token yet waits until it is asked for one. */
  function check() {
    if (stop.signal.aborted || !kept || flight || !(access || rest) || page?.visibilityState === 'hidden') return
    if (!resting() && (!access || age(access.at) >= access.due)) void renew()
    else schedule()
  }

  async function wake(e: Event) {
    const key = (e as StorageEvent).key // of other tabs' writes; null: all was removed
    if (key && key !== name) return
    if (e.type === 'online' && !rest?.told) rest = null
    await read()
    check()
  }

  const { signal } = stop
  // Those of the document bubble up to the window.
  if (page) for (const type of ['visibilitychange', 'resume', 'online', 'pageshow', 'storage']) world.addEventListener!(type, wake, { signal })
  channel?.addEventListener('message', listen, { signal })
  void read()

  // ---------------------------------------------------------------- what apps call

  async function getAccessToken({ minValidity }: { minValidity?: number } = {}): Promise<string> {
    await read()
    if (left() <= (minValidity ?? Math.min(5000, (access?.life ?? 0) / 10))) {
      const mine = epoch
      const why = resting() && !flight ? 'resting' : kept ? await renew() : 'ended'
      if (mine !== epoch || !kept) throw new SessionError('signed_out', 'nobody is signed in')
      if (left() <= 0) throw new SessionError('transient', `not renewed: ${why}`, resting())
    }
    return access!.token
  }

  async function exchange(url: string) {
    const u = new URL(url)
    const p = u.searchParams
    const error = p.get('error')
    if (!p.has('state') || !(p.has('code') || error)) return null
    const asked = parse<Asked>(await trip.get(name))
    const nobody = (why: string) => new SessionError('signed_out', why)
    // An answer that this tab did not ask for, or that another server gave (RFC 9207), is nobody's.
    if (p.get('state') !== asked?.state || !asked) throw nobody('nobody here asked for this answer')
    const m = await metadata().catch((err) => { throw new SessionError('transient', String(err)) })
    const iss = p.get('iss')
    if (iss ? iss !== issuer : m.authorization_response_iss_parameter_supported) throw nobody('the answer is of another issuer')
    const code = p.get('code')
    let got: Answer | undefined
    // The key is in the store since signIn, so that a reload in the midst of this can prove itself, too.
    for (let i = 0; code && !got?.tokens && !got?.refused; i++) {
      if (i > 4) throw new SessionError('transient', `the code was not exchanged: ${got!.why}`, got!.wait)
      if (got) await pause(Math.max(got.wait, 125 * 2 ** i))
      got = await ask({ grant_type: 'authorization_code', code, redirect_uri: redirectUri, code_verifier: asked.verifier }, asked.key)
    }
    await trip.remove(name)
    if (here?.href === url) {
      for (const k of ['code', 'state', 'iss', 'session_state', 'error', 'error_description', 'error_uri']) p.delete(k)
      history.replaceState(history.state, '', u)
    }
    const tokens = got?.tokens
    if (!tokens) throw nobody(`not signed in: ${got?.why ?? p.get('error_description') ?? error}`)
    const { refresh_token: refresh = '', id_token: id } = tokens
    if (id ? !fits(id, { nonce: asked.nonce }) : /\bopenid\b/.test(scope)) {
      await revoke(refresh)
      throw nobody('the ID token does not fit')
    }
    const old = await read()
    epoch++ // a renewal for the one who was signed in before is not for this one
    broken = false
    await write({ family: random(), n: 0, refresh, ...(id && { id }) })
    adoptTokens(tokens, got!.at)
    void revoke(old?.refresh)
    return { state: asked.app, user: await user() }
  }

  async function user() {
    const k = await read()
    return k?.id ? claims(k.id) : null
  }

  let last: { url: string; done: ReturnType<typeof exchange> } | undefined

  return {
    async signIn({ params, state, navigate = (url: string) => here!.assign(url) } = {}) {
      const asked: Asked = { state: random(), nonce: random(), verifier: random(), key: random(), app: state ?? null }
      const sum = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(asked.verifier))
      const to = address((await metadata()).authorization_endpoint, {
        ...params, response_type: 'code', client_id: clientId, redirect_uri: redirectUri, scope, state: asked.state, nonce: asked.nonce,
        code_challenge: base64url(new Uint8Array(sum)), code_challenge_method: 'S256', resource: resources,
      })
      await trip.set(name, JSON.stringify(asked))
      await navigate(to)
    },

    handleRedirect(url = here?.href ?? '') {
      if (last?.url !== url) {
        const done = exchange(url)
        last = { url, done }
        done.catch((err) => { if (err.code === 'transient') last = undefined }) // it may work later
      }
      return last.done
    },

    getAccessToken,

    async fetch(input, init) {
      const base = here?.href
      const target = input instanceof Request ? input.url : input
      if (!origins.has(new URL(target, base).origin)) return http(input, init)
      const token = await getAccessToken()
      const req = new Request(input, init)
      const streamed = init?.body instanceof ReadableStream
      const spare = streamed ? null : req.clone()
      req.headers.set('Authorization', `Bearer ${token}`)
      const resp = await http(req)
      // A newer token of the same kind does not help against a 403, nor where a sign-in is asked for (RFC 9470).
      if (resp.status !== 401 || !spare || /insufficient_/.test(resp.headers.get('WWW-Authenticate') ?? '')) return resp
      // If another call has renewed meanwhile, its token is new to this one.
      if (access?.token === token && !resting()) await renew()
      const next = left() > 0 ? access!.token : token
      if (next === token) {
        if (rest) throw new SessionError('transient', 'not renewed', resting()) // a 401 would be taken for a verdict
        return resp
      }
      void resp.body?.cancel()
      spare.headers.set('Authorization', `Bearer ${next}`)
      return http(spare)
    },

    async signOut({ redirectUri: back, navigate = here && ((url: string) => here.assign(url)) } = {}) {
      epoch++ // from here on no answer counts, however slow the store
      const late = flight
      const was = await read()
      over('signed_out', false)
      await forget()
      post({ is: 'ended', family: was?.family ?? '', reason: 'signed_out' })
      // The navigation would cut off a renewal that is under way before its answer can be revoked.
      await Promise.race([Promise.all([late, revoke(was?.refresh)]), pause(2000)])
      const end = await metadata().then((m) => m.end_session_endpoint, () => undefined)
      if (!end || !navigate) return
      await navigate(address(end, { client_id: clientId, id_token_hint: was?.id, post_logout_redirect_uri: back }))
    },

    user,

    close() {
      stop.abort()
      clearTimeout(timer)
      channel?.close()
    },
  }
}
