// oauth4webapi, unmodified, against a running Sidegate: node flow.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS. Prints a line for each step, and fails at the first that is not
// as it should be. tests/it/clients.rs configures the clients and the user that are named here.

import assert from 'node:assert/strict'
import * as oauth from 'oauth4webapi'

const SECRET = '32+%41 of:entropy/&='
const USER = { username: 'alice', password: 'pass wörd+%' }
const AUDIENCE = 'https://api.example.com'

const issuer = new URL(process.argv[2])
const options = () => ({
  signal: AbortSignal.timeout(10_000),
  ...(issuer.protocol === 'http:' ? { [oauth.allowInsecureRequests]: true } : {}),
})
const resource = new URL('/secret', issuer)

function step(what, good = true) {
  console.log(`${good ? 'ok ' : 'NOT OK'} ${what}`)
  assert.ok(good, what)
}

// The error code, from wherever this library leaves it: it looks at a challenge first, and reads no body then.
async function codeOf(error) {
  if (error instanceof oauth.ResponseBodyError) return error.error
  if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error
  return error.cause[0].parameters.error ?? (await error.response.json()).error
}

async function refused(what, code, answer) {
  const got = await answer.then(() => 'accepted', codeOf)
  step(`${what} (${got})`, got === code)
}

const as = await oauth
  .discoveryRequest(issuer, { algorithm: 'oauth2', ...options() })
  .then((response) => oauth.processDiscoveryResponse(issuer, response))
step('metadata (RFC 8414)')
for (const grant of ['password', 'client_credentials', 'refresh_token']) {
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

// What a resource server that knows nothing of Sidegate makes of an access token (RFC 9068 §4).
async function validate(token) {
  const request = new Request(resource, { headers: { authorization: `Bearer ${token}` } })
  return oauth.validateJwtAccessToken(as, request, AUDIENCE, options())
}

const confidential = { client_id: 'stock' }
const ways = [
  ['client_secret_basic', confidential, oauth.ClientSecretBasic(SECRET)],
  ['client_secret_post', confidential, oauth.ClientSecretPost(SECRET)],
  ['none', { client_id: 'stock-public' }, oauth.None()],
]
for (const [name, client, auth] of ways) {
  step(`the metadata lists ${name}`, as.token_endpoint_auth_methods_supported.includes(name))

  const first = await password(client, auth)
  step(`${name}: password`, Boolean(first.refresh_token))
  step(`${name}: its token opens the resource`, (await get(first.access_token)).status === 200)
  const claims = await validate(first.access_token)
  step(`${name}: it is an access token by RFC 9068`, claims.client_id === client.client_id)

  const second = await refresh(client, auth, first.refresh_token)
  step(`${name}: refresh`, second.refresh_token !== first.refresh_token && second.access_token !== first.access_token)
  const narrow = await refresh(client, auth, second.refresh_token, { scope: 'read' })
  step(`${name}: refresh with fewer scopes`, narrow.scope === 'read')

  await revoke(client, auth, narrow.refresh_token, 'refresh_token')
  step(`${name}: revoke`)
  await refused(`${name}: a revoked token does not refresh`, 'invalid_grant',
    refresh(client, auth, narrow.refresh_token))
  await refused(`${name}: access tokens of the session are dead`, 'invalid_token', get(second.access_token))

  const third = await password(client, auth)
  await revoke(client, auth, third.access_token, 'access_token')
  await refused(`${name}: a revoked access token is dead`, 'invalid_token', get(third.access_token))
  await revoke(client, auth, "no token of anyone's")
  step(`${name}: revoking what is no token is no error`)
}

for (const [name, client, auth] of ways.slice(0, 2)) {
  const token = await credentials(client, auth)
  step(`${name}: client_credentials`, token.refresh_token === undefined)
  step(`${name}: its token opens the resource`, (await get(token.access_token)).status === 200)
  await validate(token.access_token)
  step(`${name}: it is an access token by RFC 9068`)
  await refused(`${name}: a scope it has not`, 'invalid_scope', credentials(client, auth, { scope: 'read everything' }))
}

await refused('a wrong password', 'invalid_grant', password(confidential, ways[0][2], { ...USER, password: 'wrong' }))
await refused('a wrong secret', 'invalid_client', credentials(confidential, oauth.ClientSecretBasic('wrong')))
await refused('a grant the client may not use', 'unauthorized_client', credentials(...ways[2].slice(1)))
console.log('all as it should be')
