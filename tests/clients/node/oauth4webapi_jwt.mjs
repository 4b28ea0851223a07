// oauth4webapi, unmodified, as a client that signs who it is: node oauth4webapi_jwt.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS, the keys by CLIENT_KEYS. rig.mjs says who is configured.

import * as oauth from 'oauth4webapi'
import { KEYS, get, issuer, plain, privateKeys, refused as wasRefused, step } from './rig.mjs'

const options = () => ({
  signal: AbortSignal.timeout(10_000),
  ...(plain ? { [oauth.allowInsecureRequests]: true } : {}),
})
const codeOf = (error) => {
  if (error instanceof oauth.ResponseBodyError) return error.error
  throw error
}

const as = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...options() })
  .then((response) => oauth.processDiscoveryResponse(issuer, response))
for (const endpoint of ['token', 'revocation', 'introspection']) {
  step(`the metadata list it: ${endpoint}`,
    as[`${endpoint}_endpoint_auth_methods_supported`].includes('private_key_jwt') &&
    ['RS256', 'ES256'].every((it) => as[`${endpoint}_endpoint_auth_signing_alg_values_supported`].includes(it)))
}

const client = { client_id: KEYS }
const credentials = async (auth) =>
  oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, auth, new URLSearchParams(), options()))
const introspect = async (auth, token) =>
  oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, auth, token, options()))

const { rsa, ec, strange } = await privateKeys()
for (const [name, auth] of [
  ['ES256', oauth.PrivateKeyJwt(ec)],
  ['ES256, by its name', oauth.PrivateKeyJwt({ key: ec, kid: 'ec' })],
  ['RS256', oauth.PrivateKeyJwt({ key: rsa, kid: 'rsa' })],
]) {
  const { access_token: token } = await credentials(auth)
  step(`${name}: its token opens the resource`, (await get(token)).status === 200)
  const about = await introspect(auth, token)
  step(`${name}: introspect`, about.active && about.client_id === KEYS)
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token, options()))
  step(`${name}: revoke`, (await get(token)).status === 401 && (await introspect(auth, token)).active === false)
}

const changed = (change) => oauth.PrivateKeyJwt(ec, { [oauth.modifyAssertion]: change })
for (const [what, auth] of [
  ['another key', oauth.PrivateKeyJwt({ key: strange, kid: 'ec' })],
  ['a name of no key', oauth.PrivateKeyJwt({ key: ec, kid: 'other' })],
  ['another audience', changed((header, payload) => { payload.aud = 'https://other.example' })],
  ['an expired one', changed((header, payload) => { payload.exp -= 600 })],
  ['another client', changed((header, payload) => { payload.sub = 'stock' })],
  ['a secret in its place', oauth.ClientSecretPost('secret')],
  ['a MAC in its place', oauth.ClientSecretJwt('secret')],
  ['nothing', oauth.None()],
]) {
  await wasRefused(what, 'invalid_client', credentials(auth), codeOf)
}
console.log('all as it should be')
