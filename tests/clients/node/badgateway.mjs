// @badgateway/oauth2-client, unmodified, against a running Sidegate: node badgateway.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS. rig.mjs says who is configured.

import { randomBytes } from 'node:crypto'
import { OAuth2Client, OAuth2Error, OAuth2Fetch, OAuth2HttpError, generateCodeVerifier } from '@badgateway/oauth2-client'
import {
  Browser, CLIENT, LOOPBACK_REDIRECT, OTHER_SECRET, PUBLIC, REDIRECT, SCOPE, SECRET, SUBJECT, USER,
  get, issuer, noticed, refused as wasRefused, resource, step, userinfo,
} from './rig.mjs'

// Where everything is, it finds out (RFC 8414).
const client = (id, secret, method) =>
  new OAuth2Client({ server: issuer.href, clientId: id, clientSecret: secret, authenticationMethod: method })
const refused = (what, code, answer) => wasRefused(what, code, answer, (error) => {
  if (error instanceof OAuth2HttpError || error instanceof OAuth2Error) return error.oauth2Code
  throw error
})

const browser = new Browser()
async function login(oauth, redirectUri, { scope = SCOPE, decision } = {}) {
  const codeVerifier = await generateCodeVerifier(), state = randomBytes(16).toString('base64url')
  const kept = { redirectUri, state, codeVerifier }
  const url = await oauth.authorizationCode.getAuthorizeUri({ ...kept, scope: scope.split(' ') })
  return { back: await browser.go(url, decision), kept }
}
const exchange = (oauth, { back, kept }) => oauth.authorizationCode.getTokenFromCodeRedirect(back, kept)
const opens = async (token) => (await get(token.accessToken)).status

const ways = [
  ['as the metadata says', CLIENT, SECRET, undefined, REDIRECT],
  ['client_secret_basic', CLIENT, SECRET, 'client_secret_basic', REDIRECT],
  // Which escapes colons and nothing else: the client's other secret has no more that could be read in two ways.
  ['client_secret_basic_interop', CLIENT, OTHER_SECRET, 'client_secret_basic_interop', REDIRECT],
  ['client_secret_post', CLIENT, SECRET, 'client_secret_post', REDIRECT],
  ['public', PUBLIC, undefined, undefined, LOOPBACK_REDIRECT],
]
for (const [name, id, secret, method, redirect] of ways) {
  const oauth = client(id, secret, method)
  const first = await exchange(oauth, await login(oauth, redirect))
  step(`${name}: a code and PKCE`, Boolean(first.refreshToken) && first.expiresAt > Date.now())
  step(`${name}: its token opens the resource`, (await opens(first)) === 200)
  step(`${name}: and userinfo`, (await userinfo(first.accessToken)).sub === SUBJECT)

  const second = await oauth.refreshToken(first)
  step(`${name}: refresh`, second.refreshToken !== first.refreshToken && second.accessToken !== first.accessToken)
  const narrow = await oauth.refreshToken(second, { scope: ['read'] })
  const about = await get(narrow.accessToken, new URL('/oauth/userinfo', issuer))
  step(`${name}: refresh with fewer scopes`, about.status === 403)

  if (secret !== undefined) {
    const about = await oauth.introspect(second)
    step(`${name}: introspect`, about.active && about.sub === SUBJECT && about.client_id === id)
  }
  await oauth.revoke(narrow)
  step(`${name}: revoke an access token`, (await opens(narrow)) === 401 && (await opens(second)) === 200)
  await oauth.revoke(narrow, 'refresh_token')
  step(`${name}: revoke`, (await opens(second)) === 401)
  if (secret !== undefined) {
    step(`${name}: introspection says so`, (await oauth.introspect(second)).active === false)
  }
  await refused(`${name}: a revoked token does not refresh`, 'invalid_grant', oauth.refreshToken(narrow))

  const bad = await login(oauth, redirect)
  bad.kept.codeVerifier = await generateCodeVerifier()
  await refused(`${name}: another verifier`, 'invalid_grant', exchange(oauth, bad))
  const twice = await login(oauth, redirect)
  const once = await exchange(oauth, twice)
  await refused(`${name}: a code twice`, 'invalid_grant', exchange(oauth, twice))
  step(`${name}: ends what came of it`, (await opens(once)) === 401)

  const password = await oauth.password({ ...USER, scope: ['read'] })
  step(`${name}: password`, (await opens(password)) === 200)
  if (secret !== undefined) {
    const token = await oauth.clientCredentials({ scope: ['read'] })
    step(`${name}: client_credentials`, token.refreshToken === null && (await opens(token)) === 200)
    await refused(`${name}: a scope it has not`, 'invalid_scope', oauth.clientCredentials({ scope: ['everything'] }))
  }
}

// The fetch of its own, which gets a token, and another one when that has died.
{
  const oauth = client(PUBLIC)
  let kept = await exchange(oauth, await login(oauth, LOOPBACK_REDIRECT))
  const first = kept
  const wrapped = new OAuth2Fetch({
    client: oauth,
    getStoredToken: () => kept,
    storeToken: (token) => { kept = token },
    getNewToken: () => null,
    scheduleRefresh: false,
  })
  step('its own fetch', (await wrapped.fetch(resource)).status === 200)
  await oauth.revoke(first)
  const again = await wrapped.fetch(resource)
  step('refreshes a token that is refused', again.status === 200 && kept.accessToken !== first.accessToken)
}

const oauth = client(CLIENT, SECRET)
await noticed('an answer with another state', async () => {
  const answer = await login(oauth, REDIRECT)
  answer.back.searchParams.set('state', 'x')
  return exchange(oauth, answer)
})
await refused('a user who denies', 'access_denied', exchange(oauth, await login(oauth, REDIRECT, { decision: 'deny' })))
await refused('a scope it has not', 'invalid_scope', exchange(oauth, await login(oauth, REDIRECT, { scope: 'everything' })))
for (const method of ['client_secret_basic', 'client_secret_basic_interop', 'client_secret_post']) {
  const stranger = client(CLIENT, 'wrong', method)
  await refused(`${method}: a wrong secret`, 'invalid_client', stranger.clientCredentials())
  await refused(`${method}: a wrong secret with a good code`, 'invalid_client',
    exchange(stranger, await login(stranger, REDIRECT)))
}
console.log('all as it should be')
