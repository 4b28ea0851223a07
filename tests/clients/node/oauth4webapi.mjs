// oauth4webapi, unmodified, against a running Sidegate: node oauth4webapi.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS. rig.mjs says who is configured.

import * as oauth from 'oauth4webapi'
import {
  AUDIENCE, Browser, CLIENT, LOOPBACK_REDIRECT, PUBLIC, REDIRECT, SCOPE, SECRET, SUBJECT, USER,
  issuer, noticed, plain, refused as wasRefused, resource, step,
} from './rig.mjs'

const options = () => ({
  signal: AbortSignal.timeout(10_000),
  ...(plain ? { [oauth.allowInsecureRequests]: true } : {}),
})

// The error code, from wherever this library leaves it: it looks at a challenge first, and reads no body then.
async function codeOf(error) {
  if (error instanceof oauth.ResponseBodyError || error instanceof oauth.AuthorizationResponseError) return error.error
  if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error
  return error.cause[0].parameters.error ?? (await error.response.json()).error
}
const refused = (what, code, answer) => wasRefused(what, code, answer, codeOf)

const discover = (algorithm) => oauth
  .discoveryRequest(issuer, { algorithm, ...options() })
  .then((response) => oauth.processDiscoveryResponse(issuer, response))
const as = await discover('oauth2')
step('metadata (RFC 8414)')
step('OpenID discovery says the same', JSON.stringify(await discover('oidc')) === JSON.stringify(as))
for (const grant of ['authorization_code', 'password', 'client_credentials', 'refresh_token']) {
  step(`the metadata lists ${grant}`, as.grant_types_supported.includes(grant))
}

const get = (token) => oauth.protectedResourceRequest(token, 'GET', resource, new Headers(), null, options())
const password = async (client, auth, user = USER) =>
  oauth.processGenericTokenEndpointResponse(as, client,
    await oauth.genericTokenEndpointRequest(as, client, auth, 'password', user, options()))
const refresh = async (client, auth, token, parameters = {}) =>
  oauth.processRefreshTokenResponse(as, client,
    await oauth.refreshTokenGrantRequest(as, client, auth, token, { additionalParameters: parameters, ...options() }))
const credentials = async (client, auth, parameters = {}) =>
  oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, auth, new URLSearchParams(parameters), options()))
const revoke = async (client, auth, token, hint) =>
  oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token,
    { additionalParameters: hint ? { token_type_hint: hint } : {}, ...options() }))
const introspect = async (client, auth, token) =>
  oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, auth, token, options()))
const userinfo = async (client, token, subject = SUBJECT) =>
  oauth.processUserInfoResponse(as, client, subject, await oauth.userInfoRequest(as, client, token, options()))

// What a resource server that knows nothing of Sidegate makes of an access token (RFC 9068 §4).
async function validate(token) {
  const request = new Request(resource, { headers: { authorization: `Bearer ${token}` } })
  return oauth.validateJwtAccessToken(as, request, AUDIENCE, options())
}

const browser = new Browser()

// Sends a browser for a code; what came back, and what the client has kept.
async function login(client, redirect, decision) {
  const kept = {
    redirect,
    verifier: oauth.generateRandomCodeVerifier(),
    state: oauth.generateRandomState(),
    nonce: oauth.generateRandomNonce(),
  }
  const url = new URL(as.authorization_endpoint)
  url.search = new URLSearchParams({
    client_id: client.client_id,
    response_type: 'code',
    redirect_uri: redirect,
    scope: SCOPE,
    state: kept.state,
    nonce: kept.nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(kept.verifier),
    code_challenge_method: 'S256',
  })
  return { back: await browser.go(url, decision), ...kept }
}
async function exchange(client, auth, { back, redirect, verifier, state, nonce }) {
  const answer = oauth.validateAuthResponse(as, client, back, state)
  const response = await oauth.authorizationCodeGrantRequest(as, client, auth, answer, redirect, verifier, options())
  const tokens = await oauth.processAuthorizationCodeResponse(as, client, response,
    { expectedNonce: nonce, requireIdToken: true })
  // The ID token's signature as well, which TLS would otherwise stand in for.
  await oauth.validateApplicationLevelSignature(as, response, options())
  return tokens
}

const confidential = { client_id: CLIENT }
const ways = [
  ['client_secret_basic', confidential, oauth.ClientSecretBasic(SECRET), REDIRECT],
  ['client_secret_post', confidential, oauth.ClientSecretPost(SECRET), REDIRECT],
  ['none', { client_id: PUBLIC }, oauth.None(), LOOPBACK_REDIRECT],
]
for (const [name, client, auth, redirect] of ways) {
  step(`the metadata lists ${name}`, as.token_endpoint_auth_methods_supported.includes(name))

  const first = await exchange(client, auth, await login(client, redirect))
  step(`${name}: a code and PKCE`, Boolean(first.refresh_token) && first.scope === SCOPE)
  const claims = oauth.getValidatedIdTokenClaims(first)
  step(`${name}: its ID token says who`, claims.sub === SUBJECT && claims.preferred_username === USER.username)
  step(`${name}: and so does userinfo`, (await userinfo(client, first.access_token)).preferred_username === USER.username)
  step(`${name}: its token opens the resource`, (await get(first.access_token)).status === 200)
  const said = await validate(first.access_token)
  step(`${name}: it is an access token by RFC 9068`, said.client_id === client.client_id && said.sub === SUBJECT)

  const second = await refresh(client, auth, first.refresh_token)
  step(`${name}: refresh`, second.refresh_token !== first.refresh_token && second.access_token !== first.access_token)
  const narrow = await refresh(client, auth, second.refresh_token, { scope: 'read' })
  step(`${name}: refresh with fewer scopes`, narrow.scope === 'read')
  await refused(`${name}: userinfo wants openid`, 'insufficient_scope', userinfo(client, narrow.access_token))

  await revoke(client, auth, narrow.refresh_token, 'refresh_token')
  step(`${name}: revoke`)
  await refused(`${name}: a revoked token does not refresh`, 'invalid_grant',
    refresh(client, auth, narrow.refresh_token))
  await refused(`${name}: access tokens of the session are dead`, 'invalid_token', get(second.access_token))

  const third = await password(client, auth)
  step(`${name}: password`, Boolean(third.refresh_token))
  await revoke(client, auth, third.access_token, 'access_token')
  await refused(`${name}: a revoked access token is dead`, 'invalid_token', get(third.access_token))
  await revoke(client, auth, "no token of anyone's")
  step(`${name}: revoking what is no token is no error`)

  const bad = await login(client, redirect)
  await refused(`${name}: another verifier`, 'invalid_grant',
    exchange(client, auth, { ...bad, verifier: oauth.generateRandomCodeVerifier() }))
  await refused(`${name}: no verifier`, 'invalid_grant',
    exchange(client, auth, { ...await login(client, redirect), verifier: oauth.nopkce }))
  const twice = await login(client, redirect)
  const once = await exchange(client, auth, twice)
  await refused(`${name}: a code twice`, 'invalid_grant', exchange(client, auth, twice))
  await refused(`${name}: ends what came of it`, 'invalid_token', get(once.access_token))
}

for (const [name, client, auth] of ways.slice(0, 2)) {
  const token = await credentials(client, auth)
  step(`${name}: client_credentials`, token.refresh_token === undefined && token.id_token === undefined)
  step(`${name}: its token opens the resource`, (await get(token.access_token)).status === 200)
  await validate(token.access_token)
  step(`${name}: it is an access token by RFC 9068`)
  step(`${name}: introspect`, (await introspect(client, auth, token.access_token)).client_id === CLIENT)
  await revoke(client, auth, token.access_token)
  const about = await introspect(client, auth, token.access_token)
  step(`${name}: introspection says that it is revoked`, about.active === false)
  await refused(`${name}: a scope it has not`, 'invalid_scope', credentials(client, auth, { scope: 'read everything' }))
}

// What comes back is bound to who asked, and to whom.
const [, , basic] = ways[0]
for (const [name, value] of [['state', 'x'], ['iss', 'https://evil.example']]) {
  await noticed(`an answer with another ${name}`, async () => {
    const answer = await login(confidential, REDIRECT)
    answer.back.searchParams.set(name, value)
    return exchange(confidential, basic, answer)
  })
}
await noticed('an ID token with another nonce', async () =>
  exchange(confidential, basic, { ...await login(confidential, REDIRECT), nonce: oauth.generateRandomNonce() }))
const denied = await login(confidential, REDIRECT, 'deny')
await refused('a user who denies', 'access_denied', exchange(confidential, basic, denied))
const wrong = oauth.ClientSecretBasic('wrong')
await refused('a wrong password', 'invalid_grant', password(confidential, basic, { ...USER, password: 'wrong' }))
await refused('a wrong secret', 'invalid_client', credentials(confidential, wrong))
await refused('a wrong secret with a good code', 'invalid_client',
  login(confidential, REDIRECT).then((answer) => exchange(confidential, wrong, answer)))
await refused('introspection without a secret', 'invalid_client', introspect({ client_id: PUBLIC }, oauth.None(), 'x'))
await refused('a grant the client may not use', 'unauthorized_client', credentials(...ways[2].slice(1)))
console.log('all as it should be')
