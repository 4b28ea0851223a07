// openid-client, unmodified, as a client that signs who it is: node openid_client_jwt.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS, the keys by CLIENT_KEYS. rig.mjs says who is configured.

import { readFile } from 'node:fs/promises'
import { request } from 'node:https'
import * as oidc from 'openid-client'
import {
  Browser, KEYS, REDIRECT, SCOPE, SUBJECT, issuer, plain, privateKeys, refused as wasRefused, resource,
  step, TLS,
} from './rig.mjs'

const discover = (auth) =>
  oidc.discovery(issuer, KEYS, undefined, auth, { timeout: 10, execute: plain ? [oidc.allowInsecureRequests] : [] })
const codeOf = (error) => {
  if (error instanceof oidc.ResponseBodyError) return error.error
  throw error
}
const open = async (config, token) => (await oidc.fetchProtectedResource(config, token, resource, 'GET')).status

const { rsa, ec, strange } = await privateKeys()
const browser = new Browser()
for (const [name, auth] of [['ES256', oidc.PrivateKeyJwt(ec)], ['RS256', oidc.PrivateKeyJwt(rsa)]]) {
  const config = await discover(auth)
  const pkceCodeVerifier = oidc.randomPKCECodeVerifier()
  const expectedState = oidc.randomState()
  const url = oidc.buildAuthorizationUrl(config, {
    redirect_uri: REDIRECT,
    scope: SCOPE,
    state: expectedState,
    code_challenge: await oidc.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: 'S256',
  })
  const first = await oidc.authorizationCodeGrant(config, await browser.go(url), { pkceCodeVerifier, expectedState })
  step(`${name}: a code and PKCE`, first.claims().sub === SUBJECT && (await open(config, first.access_token)) === 200)
  const second = await oidc.refreshTokenGrant(config, first.refresh_token)
  step(`${name}: refresh`, (await open(config, second.access_token)) === 200)
  const about = await oidc.tokenIntrospection(config, second.access_token)
  step(`${name}: introspect`, about.active && about.client_id === KEYS)
  await oidc.tokenRevocation(config, second.refresh_token)
  step(`${name}: revoke`, (await oidc.tokenIntrospection(config, second.access_token)).active === false)
  const own = await oidc.clientCredentialsGrant(config)
  step(`${name}: client_credentials`, (await open(config, own.access_token)) === 200)
}
for (const [what, auth] of [
  ['another key', oidc.PrivateKeyJwt(strange)],
  ['a secret in its place', oidc.ClientSecretPost('secret')],
  ['nothing', oidc.None()],
]) {
  await wasRefused(what, 'invalid_client', oidc.clientCredentialsGrant(await discover(auth)), codeOf)
}

// One that shows a certificate, in requests of its own user's making: the library leaves the connection to that.
const certificate = async () => ({
  ca: await readFile(process.env.NODE_EXTRA_CA_CERTS),
  cert: await readFile(`${process.env.CLIENT_KEYS}/client.pem`),
  key: await readFile(`${process.env.CLIENT_KEYS}/client.key`),
})
const over = (tls) => (url, { method, headers, body }) => new Promise((resolve, reject) => {
  const asked = request(url, { ...tls, method, headers, agent: false }, async (answer) => {
    const { statusCode: status, headers } = answer
    resolve(new Response(Buffer.concat(await answer.toArray()), { status, headers: Object.entries(headers) }))
  })
  asked.on('error', reject).end(body?.toString())
})
if (!plain) {
  const own = await certificate()
  for (const [tls, wanted] of [[own, 'accepted'], [{ ca: own.ca }, 'invalid_client']]) {
    const config = await oidc.discovery(issuer, TLS, undefined, oidc.TlsClientAuth(), { [oidc.customFetch]: over(tls) })
    step('the metadata list it', config.serverMetadata().token_endpoint_auth_methods_supported.includes('tls_client_auth'))
    await wasRefused(`a certificate: ${Boolean(tls.cert)}`, wanted, oidc.clientCredentialsGrant(config), codeOf)
  }
}
console.log('all as it should be')
