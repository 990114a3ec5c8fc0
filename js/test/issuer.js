// A small authorization server over real HTTP, that does what a test tells it to. It is not Heirloom: with keyed false it
// knows none of our extras.

import { createHash, randomBytes } from 'node:crypto'
import { createServer } from 'node:http'

const jwt = (claims) => ['{"alg":"none"}', JSON.stringify(claims), ''].map((p) => Buffer.from(p).toString('base64url')).join('.')

/**
 * Starts one. settings: life of access tokens (s), keyed (a retry with its key is answered again), rotate, oidc.
 * next: answers to come, each a function (req, resp, form) that may return true: go on as usual.
 */
export async function startIssuer(settings = {}) {
  const s = { life: 300, keyed: true, rotate: true, oidc: true, ...settings }
  const families = [] // { head, key, last, revoked, nonce }
  const seen = [] // what came to the token endpoint
  const revoked = []
  const codes = new Map()
  const next = []
  const api = { calls: [], answer: (req) => (req.headers.authorization ? 200 : 401) }
  let issued = 0

  const tokens = (f) => ({
    access_token: `at-${++issued}`, token_type: 'Bearer', expires_in: s.life,
    ...(s.rotate ? { refresh_token: `${f.id}.${f.head}` } : f.head === 1 && { refresh_token: `${f.id}.1` }),
    ...(s.oidc && { id_token: jwt({ iss: url, aud: 'app', sub: f.sub ?? 'ann', nonce: f.nonce, iat: 1, exp: 2 }) }),
  })

  async function token(req, resp, form) {
    const key = req.headers['idempotency-key']
    seen.push({ ...Object.fromEntries(form), key, at: Date.now() })
    const say = (status, body, headers) => resp.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
    if (next.length && (await next.shift()(req, resp, form, say)) !== true) return
    if (form.get('client_id') !== 'app') return say(401, { error: 'invalid_client' })
    if (form.get('grant_type') === 'authorization_code') {
      const asked = codes.get(form.get('code'))
      const sum = createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url')
      if (!asked || asked.code_challenge !== sum || asked.redirect_uri !== form.get('redirect_uri')) return say(400, { error: 'invalid_grant' })
      if (asked.key && !(s.keyed && asked.key === key)) return say(400, { error: 'invalid_grant' })
      if (!asked.key) families.push((asked.family = { id: families.length, head: 1, nonce: asked.nonce }))
      asked.key = key ?? 'none'
      return say(200, tokens(asked.family))
    }
    const [id, n] = (form.get('refresh_token') ?? '').split('.').map(Number)
    const f = families[id]
    if (!f || f.revoked) return say(400, { error: 'invalid_grant' })
    if (s.rotate) {
      if (n === f.head) {
        f.head++
        f.key = key
      } else if (!(s.keyed && key && n === f.head - 1 && key === f.key)) {
        f.revoked = 'reuse'
        return say(400, { error: 'invalid_grant' })
      }
    } else f.head++
    say(200, tokens(f))
  }

  const server = createServer(async (req, resp) => {
    const u = new URL(req.url, url)
    const chunks = []
    for await (const c of req) chunks.push(c)
    const body = Buffer.concat(chunks).toString()
    switch (u.pathname) {
      case '/.well-known/openid-configuration':
        return resp.end(JSON.stringify({
          issuer: url, authorization_endpoint: url + '/authorize?x=1', token_endpoint: url + '/token', revocation_endpoint: url + '/revoke',
          end_session_endpoint: url + '/end', authorization_response_iss_parameter_supported: true,
        }))
      case '/token':
        return token(req, resp, new URLSearchParams(body))
      case '/revoke': {
        const t = new URLSearchParams(body).get('token')
        revoked.push(t)
        const f = families[t.split('.')[0]]
        if (f) f.revoked ??= 'client'
        return resp.end()
      }
      default:
        api.calls.push({ url: req.url, method: req.method, authorization: req.headers.authorization, body })
        return resp.writeHead(api.answer(req), api.headers).end(u.pathname)
    }
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  const url = `http://127.0.0.1:${server.address().port}`
  return {
    url, families, seen, revoked, next, api, settings: s,
    /** Says yes to an authorization request, and returns the address that the person is sent back to. */
    authorize(href) {
      const q = Object.fromEntries(new URL(href).searchParams)
      const code = randomBytes(8).toString('hex')
      codes.set(code, q)
      return `${q.redirect_uri}?${new URLSearchParams({ code, state: q.state, iss: url })}`
    },
    stop() { server.closeAllConnections(); server.close() },
  }
}
