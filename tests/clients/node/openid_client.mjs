// openid-client, unmodified, against a running Sidegate: node openid_client.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS. rig.mjs says who is configured.

import * as oidc from 'openid-client'
import {
  AUDIENCE, Browser, CLIENT, LOOPBACK_REDIRECT, PUBLIC, REDIRECT, SCOPE, SECRET, SUBJECT, USER,
  issuer, noticed, plain, refused as wasRefused, resource, step,
} from './rig.mjs'

const discover = (id, auth, algorithm = 'oidc') =>
  oidc.discovery(issuer, id, undefined, auth,
    { algorithm, timeout: 10, execute: plain ? [oidc.allowInsecureRequests] : [] })

async function codeOf(error) {
  if (error instanceof oidc.ResponseBodyError || error instanceof oidc.AuthorizationResponseError) return error.error
  // It looks at a challenge first, and reads no body then.
  if (!(error instanceof oidc.WWWAuthenticateChallengeError)) throw error
  return error.cause[0].parameters.error ?? (await error.response.json()).error
}
const refused = (what, code, answer) => wasRefused(what, code, answer, codeOf)

const browser = new Browser()

// What a client keeps from when it sends a browser until that comes back.
async function ask(config, redirect, more = {}) {
  const kept = {
    pkceCodeVerifier: oidc.randomPKCECodeVerifier(),
    expectedState: oidc.randomState(),
    expectedNonce: oidc.randomNonce(),
  }
  const url = oidc.buildAuthorizationUrl(config, {
    redirect_uri: redirect,
    scope: SCOPE,
    state: kept.expectedState,
    nonce: kept.expectedNonce,
    code_challenge: await oidc.calculatePKCECodeChallenge(kept.pkceCodeVerifier),
    code_challenge_method: 'S256',
    ...more,
  })
  return { url, kept }
}
async function login(config, redirect, more) {
  const { url, kept } = await ask(config, redirect, more)
  return { back: await browser.go(url), kept: { ...kept, idTokenExpected: true } }
}
const exchange = (config, { back, kept }) => oidc.authorizationCodeGrant(config, back, kept)
const open = (config, token) => oidc.fetchProtectedResource(config, token, resource, 'GET')

const ways = [
  ['client_secret_basic', CLIENT, oidc.ClientSecretBasic(SECRET), REDIRECT],
  ['client_secret_post', CLIENT, oidc.ClientSecretPost(SECRET), REDIRECT],
  ['none', PUBLIC, oidc.None(), LOOPBACK_REDIRECT],
]
for (const [name, id, auth, redirect] of ways) {
  const config = await discover(id, auth)
  // The ID token's signature too, which TLS would otherwise stand in for.
  oidc.enableNonRepudiationChecks(config)
  step(`${name}: discovery`, config.serverMetadata().supportsPKCE())

  const first = await exchange(config, await login(config, redirect, { max_age: '300' }))
  const claims = first.claims()
  step(`${name}: a code and PKCE`, first.scope === SCOPE && Boolean(first.refresh_token))
  step(`${name}: its ID token says who`, claims.sub === SUBJECT && claims.preferred_username === USER.username)
  const info = await oidc.fetchUserInfo(config, first.access_token, claims.sub)
  step(`${name}: and so does userinfo`, info.sub === SUBJECT && info.preferred_username === USER.username)
  step(`${name}: its access token opens the resource`, (await open(config, first.access_token)).status === 200)

  const second = await oidc.refreshTokenGrant(config, first.refresh_token)
  step(`${name}: refresh`, second.refresh_token !== first.refresh_token && second.access_token !== first.access_token)
  const narrow = await oidc.refreshTokenGrant(config, second.refresh_token, { scope: 'read' })
  step(`${name}: refresh with fewer scopes`, narrow.scope === 'read')
  const userinfo = (token) => oidc.fetchUserInfo(config, token, claims.sub)
  await refused(`${name}: userinfo wants openid`, 'insufficient_scope', userinfo(narrow.access_token))

  if (id === CLIENT) {
    const about = await oidc.tokenIntrospection(config, second.access_token)
    step(`${name}: introspect`, about.active && about.sub === SUBJECT && about.client_id === id && about.aud === AUDIENCE)
    const refresh = await oidc.tokenIntrospection(config, narrow.refresh_token, { token_type_hint: 'refresh_token' })
    step(`${name}: introspect a refresh token`, refresh.active && refresh.username === USER.username)
  }
  await oidc.tokenRevocation(config, narrow.refresh_token, { token_type_hint: 'refresh_token' })
  step(`${name}: revoke`)
  await refused(`${name}: a revoked token does not refresh`, 'invalid_grant',
    oidc.refreshTokenGrant(config, narrow.refresh_token))
  await refused(`${name}: access tokens of the session are dead`, 'invalid_token', open(config, second.access_token))
  await refused(`${name}: at userinfo too`, 'invalid_token', userinfo(second.access_token))
  if (id === CLIENT) {
    const about = await oidc.tokenIntrospection(config, second.access_token)
    step(`${name}: and so says introspection`, about.active === false)
  }

  const bad = await login(config, redirect)
  bad.kept.pkceCodeVerifier = oidc.randomPKCECodeVerifier()
  await refused(`${name}: another verifier`, 'invalid_grant', exchange(config, bad))
  const twice = await login(config, redirect)
  const once = await exchange(config, twice)
  await refused(`${name}: a code twice`, 'invalid_grant', exchange(config, twice))
  await refused(`${name}: ends what came of it`, 'invalid_token', open(config, once.access_token))
}

const config = await discover(...ways[0].slice(1, 3))
const oauth = await discover(...ways[0].slice(1, 3), 'oauth2')
const [plainly, openid] = [oauth, config].map((config) => JSON.stringify(config.serverMetadata()))
step('the metadata of RFC 8414 are the same', plainly === openid)

// What comes back is bound to who asked, and to whom.
const forged = async (name, value) => {
  const answer = await login(config, REDIRECT)
  answer.back.searchParams[value ? 'set' : 'delete'](name, value)
  return exchange(config, answer)
}
await noticed('an answer with another state', () => forged('state', 'x'))
await noticed('an answer of another issuer', () => forged('iss', 'https://evil.example'))
await noticed('an answer of no issuer', () => forged('iss'))
await noticed('an ID token with another nonce', async () => {
  const answer = await login(config, REDIRECT)
  answer.kept.expectedNonce = oidc.randomNonce()
  return exchange(config, answer)
})
const { url, kept } = await ask(config, REDIRECT)
await refused('a user who denies', 'access_denied', exchange(config, { back: await browser.go(url, 'deny'), kept }))
for (const [user, error] of [[new Browser(), 'login_required'], [browser, 'consent_required']]) {
  const { url, kept } = await ask(config, REDIRECT, { prompt: 'none' })
  await refused('nobody is to be asked', error, exchange(config, { back: await user.go(url), kept }))
}
{
  const { url, kept } = await ask(config, REDIRECT, { scope: 'openid everything' })
  await refused('a scope it has not', 'invalid_scope', exchange(config, { back: await browser.go(url), kept }))
}

for (const [name, id, auth] of ways.slice(0, 2)) {
  const config = await discover(id, auth, 'oauth2')
  const token = await oidc.clientCredentialsGrant(config, { scope: 'read' })
  step(`${name}: client_credentials`, token.refresh_token === undefined && token.claims() === undefined)
  step(`${name}: its token opens the resource`, (await open(config, token.access_token)).status === 200)
  const password = await oidc.genericGrantRequest(config, 'password', USER)
  step(`${name}: password`, Boolean(password.refresh_token))
}
const stranger = await discover(CLIENT, oidc.ClientSecretBasic('wrong'))
await refused('a wrong secret', 'invalid_client', oidc.clientCredentialsGrant(stranger))
await refused('a wrong secret with a good code', 'invalid_client', exchange(stranger, await login(stranger, REDIRECT)))
await refused('a wrong secret at introspection', 'invalid_client', oidc.tokenIntrospection(stranger, 'x'))
await refused('a wrong secret at revocation', 'invalid_client', oidc.tokenRevocation(stranger, 'x'))
const anybody = await discover(PUBLIC, oidc.None())
await refused('a grant the client may not use', 'unauthorized_client', oidc.clientCredentialsGrant(anybody))
await refused('introspection without a secret', 'invalid_client', oidc.tokenIntrospection(anybody, 'x'))
console.log('all as it should be')
