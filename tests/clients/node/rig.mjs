// What the flows share: whom tests/it/clients.rs has configured, a line for each step, and a user at a browser.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'

export const issuer = new URL(process.argv[2])
export const plain = issuer.protocol === 'http:'
export const resource = new URL('/secret', issuer)

export const CLIENT = 'stock'
export const PUBLIC = 'stock-public'
export const KEYS = 'stock-keys'
export const TLS = 'stock-tls'
export const SECRET = '32+%41 of:entropy/&='
export const OTHER_SECRET = 'another: with a colon'
export const USER = { username: 'alice', password: 'pass wörd+%' }
export const SUBJECT = 'user-of-the-clients-test'
export const AUDIENCE = 'https://api.example.com'
// Of a web application; one that runs on the user's own machine takes any port.
export const REDIRECT = 'https://app.example.com/cb'
export const LOOPBACK_REDIRECT = 'http://127.0.0.1:51004/cb'
export const SCOPE = 'openid profile read write'

// The private keys of KEYS, as its libraries want them; `strange`: another one, that nobody knows.
export async function privateKeys() {
  const ecdsa = { name: 'ECDSA', namedCurve: 'P-256' }
  const read = async (file, algorithm) => {
    const pem = await readFile(`${process.env.CLIENT_KEYS}/${file}`, 'ascii')
    const der = Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64')
    return crypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign'])
  }
  return {
    rsa: await read('rsa.pem', { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }),
    ec: await read('ec.pem', ecdsa),
    strange: (await crypto.subtle.generateKey(ecdsa, false, ['sign', 'verify'])).privateKey,
  }
}

export function step(what, good = true) {
  console.log(`${good ? 'ok ' : 'NOT OK'} ${what}`)
  assert.ok(good, what)
}

// `codeOf` finds the error code, from wherever the library leaves it.
export async function refused(what, code, answer, codeOf) {
  const got = await answer.then(() => 'accepted', codeOf)
  step(`${what} (${got})`, got === code)
}

// Of what the library itself does not let pass, its word for it.
export async function noticed(what, attempt) {
  const error = await attempt().then(() => undefined, (error) => error)
  step(`${what} (${error?.message})`, error !== undefined)
}

// What a resource answers; a client that has no request of its own for it leaves that to its user.
export const get = async (token, url = resource) =>
  fetch(url, { headers: { authorization: `Bearer ${token}` }, signal: AbortSignal.timeout(10_000) })

export async function userinfo(token) {
  const answer = await get(token, new URL('/oauth/userinfo', issuer))
  assert.equal(answer.status, 200)
  return answer.json()
}

// What stands in a page of the issuer's between two marks; none of it is ever escaped.
function between(page, before, after) {
  const at = page.indexOf(before)
  assert.notEqual(at, -1, page)
  return page.slice(at + before.length, page.indexOf(after, at + before.length))
}

// A browser, with its cookies, at which USER sits.
export class Browser {
  #cookies = new Map()

  // Goes where a client sends it: follows redirects, logs in, and decides. Ends where it would leave for the client.
  async go(url, decision = 'allow') {
    let [request, at] = [{ method: 'GET' }, new URL(url)]
    // Whoever has agreed before is not asked again by itself.
    if (decision !== 'allow') at.searchParams.set('prompt', 'consent')
    for (let pages = 0; pages < 8; pages++) {
      const cookie = Array.from(this.#cookies, ([name, value]) => `${name}=${value}`).join('; ')
      const signal = AbortSignal.timeout(10_000)
      const answer = await fetch(at, { ...request, redirect: 'manual', headers: { cookie }, signal })
      for (const line of answer.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)
        this.#cookies.set(name, value)
      }
      const page = await answer.text()
      if (answer.status === 303) {
        at = new URL(answer.headers.get('location'))
        if (at.origin !== issuer.origin) return at
        request = { method: 'GET' }
        continue
      }
      assert.equal(answer.status, 200, page)
      const ticket = between(page, 'name="ticket" value="', '"')
      const filled = page.includes('name="username"') ? USER : { decision }
      at = new URL(between(page, 'action="', '"'), at)
      request = { method: 'POST', body: new URLSearchParams({ ticket, ...filled }) }
    }
    assert.fail(`no way back to the client from ${url}`)
  }
}
