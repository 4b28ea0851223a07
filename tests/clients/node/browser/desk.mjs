// A user's desk, for the scripts beside it: Chromium, driven by playwright-core; an app that sends its users to a running Sidegate
// and gets them back, on an origin of its own; and a clock on the wall, which is Sidegate's. tests/it/browser/chromium.rs
// configures the clients and the user that are named here.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { chromium } from 'playwright-core'

export const [, , ISSUER, CLOCK, SHOTS] = process.argv
export const USER = { username: 'alice', password: 'wonderland' }

// For whatever has to come; nothing waits for it that is there.
const PATIENCE = 20_000

export function step(what, good = true) {
  console.log(`${good ? 'ok ' : 'NOT OK'} ${what}`)
  assert.ok(good, what)
}

// --- The app. What it is sent, it shows.

const html = (title, body) =>
  `<!doctype html><html lang="en"><title>${title}</title><link rel="icon" href="data:,"><h1>${title}</h1>${body}`
const text = (value) => value.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')

const app = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://app')
  const pages = {
    '/cb': () => html('Back at the app', ''),
    '/out': () => html('Good-bye from the app', ''),
    '/frame': () => html('A frame', `<iframe src="${text(searchParams.get('of'))}"></iframe>`),
    // It posts to whatever it is told to, as soon as its button is pressed.
    '/post': () => html('A form', `<form method="post" action="${text(searchParams.get('to'))}">${[...searchParams]
      .filter(([name]) => name !== 'to')
      .map(([name, value]) => `<input type="hidden" name="${text(name)}" value="${text(value)}">`)
      .join('')}<button>Send</button></form>`),
  }
  const page = pages[pathname]?.()
  response.writeHead(page ? 200 : 404, { 'content-type': 'text/html; charset=utf-8' }).end(page)
})
await new Promise((listening) => app.listen(0, '127.0.0.1', listening))
// Another site than the issuer's, which is on localhost; and a port that nobody has registered.
export const APP = `http://127.0.0.1:${app.address().port}`

// What the app asks for: where to send its user, and what it takes to make tokens of what comes back.
export function ask(more = {}) {
  const verifier = randomBytes(32).toString('base64url')
  const state = randomBytes(8).toString('base64url')
  const url = new URL('/oauth/authorize', ISSUER)
  url.search = new URLSearchParams({
    response_type: 'code', client_id: 'shop', redirect_uri: `${APP}/cb`, scope: 'openid profile read', state,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256', ...more,
  })
  return { url: url.href, verifier, state }
}

// Whoever is at the app again, with what.
export async function back(page, asked) {
  await page.waitForURL(`${APP}/cb?**`)
  const got = Object.fromEntries(new URL(page.url()).searchParams)
  assert.equal(got.state, asked.state)
  assert.equal(got.iss, ISSUER)
  return got
}

export async function exchange(code, { verifier }) {
  const body = new URLSearchParams({ grant_type: 'authorization_code', client_id: 'shop', code, code_verifier: verifier })
  const signal = AbortSignal.timeout(PATIENCE)
  const response = await fetch(new URL('/oauth/token', ISSUER), { method: 'POST', body, signal })
  return { status: response.status, ...await response.json() }
}

export const logOut = (parameters = {}) => `${ISSUER}/oauth/logout?${new URLSearchParams(parameters)}`

// --- The browser.

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  // Nobody else's pages are shown, and as root Chromium has no sandbox.
  chromiumSandbox: false,
  args: ['--no-proxy-server', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking',
    '--disable-component-update'],
})

// What browsers complained of in their consoles.
export const complaints = []

// A browser with nobody logged in. What its pages complain of is kept, but that a page came with a status of 4xx.
export async function someone(options = {}) {
  const context = await browser.newContext(options)
  context.setDefaultTimeout(PATIENCE)
  context.on('console', (message) => {
    const harmless = /^Failed to load resource: the server responded with a status of 40[03] /.test(message.text())
    if (harmless || !['error', 'warning'].includes(message.type())) return
    complaints.push(`${message.page()?.url()}: ${message.text()}`)
  })
  context.on('weberror', (error) => complaints.push(String(error.error())))
  return context
}

export const heading = (page, name) => page.getByRole('heading', { level: 1, name, exact: true })
export const button = (page, name) => page.getByRole('button', { name, exact: true })

export async function logIn(page, { username, password } = USER) {
  await heading(page, 'Log in').waitFor()
  await page.getByLabel('Username').fill(username)
  await page.getByLabel('Password').fill(password)
  await button(page, 'Log in').click()
}

// Logs somebody in with this password, up to the page for consent.
export async function untilConsent(page, more = {}) {
  const asked = ask(more)
  await page.goto(asked.url)
  await logIn(page)
  await heading(page, 'Allow access?').waitFor()
  return asked
}

// A browser with somebody logged in, at the app, which has its tokens.
export async function atTheApp(options = {}) {
  const context = await someone(options)
  const page = await context.newPage()
  const asked = await untilConsent(page)
  await button(page, 'Allow').click()
  return { context, page, tokens: await exchange((await back(page, asked)).code, asked) }
}

export async function isLoggedIn(context) {
  const page = await context.newPage()
  await page.goto(ask({ prompt: 'none' }).url)
  const { error } = Object.fromEntries(new URL(page.url()).searchParams)
  await page.close()
  assert.ok(['login_required', 'consent_required'].includes(error), error)
  return error === 'consent_required'
}

// Puts the clock forward.
export function pass(seconds) {
  const clock = readFileSync(CLOCK)
  clock.writeBigInt64LE(clock.readBigInt64LE() + BigInt(seconds))
  writeFileSync(CLOCK, clock, { flag: 'r+' })
}

// A page is open for an hour before it is too old.
export const HOUR_AND_MORE = 3601

export async function leave() {
  await browser.close()
  app.close()
  assert.deepEqual(complaints, [])
  console.log('all as it should be')
}
