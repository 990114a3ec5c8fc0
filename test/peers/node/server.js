// A started `heirloom serve --dev`, and a person who signs in through its pages without running scripts.

import { spawn, execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'

const root = resolve(import.meta.dirname, '../../..')

function binary() {
  if (process.env.HEIRLOOM_BIN) return resolve(process.env.HEIRLOOM_BIN)
  const bin = join(root, 'bin', 'heirloom-peers')
  execFileSync('go', ['build', '-o', bin, './cmd/heirloom'], { cwd: root, stdio: 'inherit' })
  return bin
}

async function freeAddress() {
  const l = createServer()
  await new Promise((done) => l.listen(0, '127.0.0.1', done))
  const { port } = l.address()
  await new Promise((done) => l.close(done))
  return `127.0.0.1:${port}`
}

/**
 * Runs the server until stop() is called. stop() throws when the server does not end cleanly, raced, panicked, or wrote
 * anything that looks like a token.
 */
export async function start(...flags) {
  const data = await mkdtemp(join(tmpdir(), 'heirloom-peer-'))
  const child = spawn(binary(), ['serve', '--dev', '--json', '--data', data, '--addr', await freeAddress(),
    '--admin-addr', await freeAddress(), '--access-ttl', '10s', ...flags], { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.on('data', (b) => { said += b })
  const ended = new Promise((done) => child.on('close', (code, signal) => done(code ?? signal)))
  const line = await new Promise((done, fail) => {
    const timer = setTimeout(() => fail(new Error(`the server printed nothing for a minute\n${said}`)), 60_000)
    createInterface(child.stdout).once('line', (l) => { clearTimeout(timer); done(l) })
      .on('line', (l) => { said += l + '\n' })
    child.once('error', fail)
    ended.then((code) => { clearTimeout(timer); fail(new Error(`the server ended with ${code}\n${said}`)) })
  })
  const info = JSON.parse(line)
  return {
    ...info,
    user: info.users[0],
    client(id) {
      const c = info.clients.find((c) => c.client_id === id)
      if (!c) throw new Error(`the server has no client ${id}`)
      return c
    },
    async stop() {
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), 20_000)
      const code = await ended
      clearTimeout(timer)
      await rm(data, { recursive: true, force: true })
      if (code !== 0) throw new Error(`the server ended with ${code}\n${said}`)
      const bad = /(DATA RACE|panic:|goroutine \d+ \[)[^]*/.exec(said)
      if (bad) throw new Error(`the server wrote:\n${bad[0].slice(0, 4000)}`)
      const leak = /h(rt|ac)_[\w-]{20,}|eyJ[\w-]{20,}\./.exec(said)
      if (leak) throw new Error(`the server wrote a token to its log: ${leak[0]}`)
    },
  }
}

/**
 * Opens an authorization URL as a fresh browser would, answers the pages that come, and returns the URL at which the
 * client is called back.
 */
export async function authorize(server, authURL, redirectURI) {
  const cookies = new Map()
  let url = new URL(authURL)
  let body
  let signedIn = false
  const seen = []
  for (let step = 0; step < 12; step++) {
    seen.push(`${body ? 'POST' : 'GET'} ${url.pathname}`)
    const resp = await fetch(url, {
      method: body ? 'POST' : 'GET',
      body,
      redirect: 'manual',
      headers: {
        'user-agent': 'Mozilla/5.0 (peer test)',
        cookie: [...cookies].map(([k, v]) => `${k}=${v}`).join('; '),
        ...(body && { origin: url.origin, 'sec-fetch-site': 'same-origin' }),
      },
    })
    for (const c of resp.headers.getSetCookie()) {
      const [, k, v] = /^([^=]+)=([^;]*)/.exec(c)
      if (v === '' || /max-age=(0|-\d+)\b/i.test(c)) cookies.delete(k)
      else cookies.set(k, v)
    }
    body = undefined
    const page = await resp.text()
    if (resp.status >= 300 && resp.status < 400) {
      url = new URL(resp.headers.get('location'), url)
      if (url.href.startsWith(redirectURI + '?')) return url
      continue
    }
    if (resp.status !== 200) throw new Error(`${seen}: ${resp.status}\n${page}`)
    const { action, fields } = form(page)
    if (fields.has('username')) {
      if (signedIn) throw new Error(`${seen}: signed in and asked again\n${page}`)
      signedIn = true
      fields.set('username', server.user.username)
      fields.set('password', server.user.password)
    } else if (fields.has('decision')) {
      fields.set('decision', 'allow')
    } else {
      throw new Error(`${seen}: a page with neither a sign-in nor a consent form\n${page}`)
    }
    url = new URL(action, url)
    body = fields
  }
  throw new Error(`never came back to ${redirectURI}: ${seen}`)
}

/** The first form of a page that a person would fill in. */
function form(page) {
  for (const [f] of page.matchAll(/<form\b[^>]*>[^]*?<\/form>/gi)) {
    const fields = new URLSearchParams()
    for (const [tag] of f.matchAll(/<(?:input|button)\b[^>]*>/gi)) {
      const a = attributes(tag)
      if (a.name) fields.set(a.name, a.value ?? '')
    }
    if (fields.has('username') || fields.has('decision')) {
      return { action: attributes(f.slice(0, f.indexOf('>') + 1)).action ?? '', fields }
    }
  }
  return { action: '', fields: new URLSearchParams() }
}

function attributes(tag) {
  const named = { amp: '&', lt: '<', gt: '>', quot: '"' }
  return Object.fromEntries([...tag.matchAll(/([a-z-]+)\s*=\s*"([^"]*)"/gi)].map(([, k, v]) => [k.toLowerCase(),
    v.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(amp|lt|gt|quot));/gi, (_, d, x, n) =>
      n ? named[n] : String.fromCodePoint(d ? Number(d) : parseInt(x, 16)))]))
}
