// openid-client and oauth4webapi, as a Node.js program uses them.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import * as oauth from 'oauth4webapi'
import * as oidc from 'openid-client'
import { authorize, start } from './server.js'

const generations = 20
const redirect_uri = 'http://127.0.0.1:49322/callback'
const scope = 'openid profile email offline_access'

let server
before(async () => { server = await start() })
after(async () => { await server?.stop() })

async function configured(id, auth) {
  const config = await oidc.discovery(new URL(server.issuer), id, undefined, auth ?? oidc.None(),
    { execute: [oidc.allowInsecureRequests, oidc.enableNonRepudiationChecks] })
  return config
}

async function signIn(config) {
  const pkceCodeVerifier = oidc.randomPKCECodeVerifier()
  const expectedNonce = oidc.randomNonce()
  const expectedState = oidc.randomState()
  const url = oidc.buildAuthorizationUrl(config, {
    redirect_uri, scope, state: expectedState, nonce: expectedNonce, max_age: '3600',
    code_challenge: await oidc.calculatePKCECodeChallenge(pkceCodeVerifier), code_challenge_method: 'S256',
  })
  const back = await authorize(server, url, redirect_uri)
  return oidc.authorizationCodeGrant(config, back,
    { pkceCodeVerifier, expectedNonce, expectedState, maxAge: 3600, idTokenExpected: true })
}

const isInvalidGrant = (err) => {
  assert.ok(err instanceof oidc.ResponseBodyError, String(err))
  assert.equal(err.error, 'invalid_grant')
  assert.equal(err.status, 400)
  return true
}

const web = () => oidc.ClientSecretBasic(server.client('demo-web').client_secret)

test('RT_A02: a strict family lives through twenty generations and dies of a replay', async () => {
  const config = await configured('demo-strict')
  let tokens = await signIn(config)
  const subject = tokens.claims().sub
  const { auth_time } = tokens.claims()
  assert.ok(auth_time, 'max_age was asked for, so auth_time is required')
  const old = [tokens.refresh_token]
  for (let g = 1; g <= generations; g++) {
    tokens = await oidc.refreshTokenGrant(config, tokens.refresh_token)
    assert.ok(!old.includes(tokens.refresh_token), `refresh ${g}: an old refresh token came back`)
    const claims = tokens.claims()
    assert.equal(claims.sub, subject)
    assert.equal(claims.auth_time, auth_time)
    assert.equal(claims.nonce, undefined)
    old.push(tokens.refresh_token)
  }
  const info = await oidc.fetchUserInfo(config, tokens.access_token, subject)
  assert.equal(info.sub, subject)

  const api = await configured('demo-web', web())
  assert.equal((await oidc.tokenIntrospection(api, tokens.access_token)).active, true)

  await assert.rejects(oidc.refreshTokenGrant(config, old[3]), isInvalidGrant)
  await assert.rejects(oidc.refreshTokenGrant(config, tokens.refresh_token), isInvalidGrant)
  assert.deepEqual(await oidc.tokenIntrospection(api, tokens.access_token), { active: false })
  await assert.rejects(oidc.fetchUserInfo(config, tokens.access_token, subject))
})

test('RT_F15: an access token is revoked alone, a refresh token with its family', async () => {
  const config = await configured('demo-native')
  const api = await configured('demo-web', web())
  const first = await signIn(config)
  await oidc.tokenRevocation(config, first.access_token)
  assert.deepEqual(await oidc.tokenIntrospection(api, first.access_token), { active: false })
  const next = await oidc.refreshTokenGrant(config, first.refresh_token)
  assert.equal((await oidc.tokenIntrospection(api, next.access_token)).active, true)
  await oidc.tokenRevocation(config, next.refresh_token, { token_type_hint: 'refresh_token' })
  await assert.rejects(oidc.refreshTokenGrant(config, next.refresh_token), isInvalidGrant)
  assert.deepEqual(await oidc.tokenIntrospection(api, next.access_token), { active: false })
})

for (const [name, auth] of [['client_secret_basic', oidc.ClientSecretBasic], ['client_secret_post', oidc.ClientSecretPost]]) {
  test(`a confidential client with ${name} refreshes, repeats a lost answer, and is refused with a wrong secret`, async () => {
    const secret = server.client('demo-web').client_secret
    const config = await configured('demo-web', auth(secret))
    let tokens = await signIn(config)
    for (let g = 1; g <= generations; g++) {
      const next = await oidc.refreshTokenGrant(config, tokens.refresh_token)
      const again = await oidc.refreshTokenGrant(config, tokens.refresh_token)
      assert.equal(again.refresh_token, next.refresh_token, `refresh ${g}: two successors of one token`)
      tokens = next
    }
    const wrong = await configured('demo-web', auth(secret + 'x'))
    await assert.rejects(oidc.refreshTokenGrant(wrong, tokens.refresh_token), (err) => {
      assert.equal(err.error ?? err.cause?.[0]?.scheme, err.error ? 'invalid_client' : 'basic')
      return true
    })
    await oidc.refreshTokenGrant(config, tokens.refresh_token)
  })
}

test('RT_B04: a retry with its Idempotency-Key repeats under the strict policy; RT_B04a: one with another key kills', async () => {
  const insecure = { [oauth.allowInsecureRequests]: true }
  const issuer = new URL(server.issuer)
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure))
  const client = { client_id: 'demo-strict' }
  const refresh = async (token, key) => {
    const resp = await oauth.refreshTokenGrantRequest(as, client, oauth.None(), token,
      { ...insecure, ...(key && { headers: { 'Idempotency-Key': key } }) })
    return oauth.processRefreshTokenResponse(as, client, resp)
  }
  let token = (await signIn(await configured('demo-strict'))).refresh_token
  for (let g = 1; g <= 5; g++) {
    const key = crypto.randomUUID()
    const lost = await refresh(token, key)
    const retry = await refresh(token, key)
    assert.equal(retry.refresh_token, lost.refresh_token)
    token = retry.refresh_token
  }
  const next = await refresh(token, crypto.randomUUID())
  await assert.rejects(refresh(token, crypto.randomUUID()), { error: 'invalid_grant' })
  await assert.rejects(refresh(next.refresh_token), { error: 'invalid_grant' })
})

test('a subset of the scope narrows one access token and never the family', async () => {
  const config = await configured('demo-native')
  const first = await signIn(config)
  const less = await oidc.refreshTokenGrant(config, first.refresh_token, { scope: 'openid' })
  assert.equal(less.scope, 'openid')
  const all = await oidc.refreshTokenGrant(config, less.refresh_token)
  assert.deepEqual(new Set((all.scope ?? scope).split(' ')), new Set(first.scope.split(' ')))
  await assert.rejects(oidc.refreshTokenGrant(config, all.refresh_token, { scope: 'openid everything' }),
    (err) => { assert.equal(err.error, 'invalid_scope'); return true })
  await oidc.refreshTokenGrant(config, all.refresh_token)
})
