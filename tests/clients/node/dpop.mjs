// oauth4webapi, unmodified, with DPoP (RFC 9449), against a running Sidegate: node dpop.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS. rig.mjs says who is configured.

import * as oauth from 'oauth4webapi'
import { CLIENT, PUBLIC, SECRET, SUBJECT, USER, issuer, plain, refused as wasRefused, resource, step } from './rig.mjs'

const options = (DPoP) => ({
  DPoP,
  signal: AbortSignal.timeout(10_000),
  ...(plain ? { [oauth.allowInsecureRequests]: true } : {}),
})
const codeOf = (error) => error.error ?? error.cause[0].parameters.error
const refused = (what, code, answer) => wasRefused(what, code, answer, codeOf)

const as = await oauth
  .discoveryRequest(issuer, { algorithm: 'oauth2', ...options() })
  .then((response) => oauth.processDiscoveryResponse(issuer, response))
const basic = oauth.ClientSecretBasic(SECRET)
const get = (token, DPoP, method = 'GET') =>
  oauth.protectedResourceRequest(token, method, resource, new Headers(), null, options(DPoP))

for (const alg of ['ES256', 'Ed25519', 'RS256', 'PS256']) {
  step(`the metadata lists ${alg}`, as.dpop_signing_alg_values_supported.includes(alg))

  const client = { client_id: CLIENT }
  const own = oauth.DPoP(client, await oauth.generateKeyPair(alg))
  const thief = oauth.DPoP(client, await oauth.generateKeyPair(alg))
  const token = await oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, basic, new URLSearchParams(), options(own)))
  step(`${alg}: a token of the type DPoP`, token.token_type === 'dpop')
  for (const method of ['GET', 'POST']) {
    step(`${alg}: opens the resource (${method})`, (await get(token.access_token, own, method)).status === 200)
  }
  await refused(`${alg}: not with another key`, 'invalid_dpop_proof', get(token.access_token, thief))
  await refused(`${alg}: not without a proof`, 'invalid_token', get(token.access_token))
  const about = await oauth.processIntrospectionResponse(as, client,
    await oauth.introspectionRequest(as, client, basic, token.access_token, options()))
  step(`${alg}: introspection says to which key it is bound`, about.cnf.jkt === await own.calculateThumbprint())

  const app = { client_id: PUBLIC }
  const phone = oauth.DPoP(app, await oauth.generateKeyPair(alg))
  const stranger = oauth.DPoP(app, await oauth.generateKeyPair(alg))
  const login = await oauth.processGenericTokenEndpointResponse(as, app,
    await oauth.genericTokenEndpointRequest(as, app, oauth.None(), 'password', USER, options(phone)))
  const refresh = async (DPoP) => oauth.processRefreshTokenResponse(as, app,
    await oauth.refreshTokenGrantRequest(as, app, oauth.None(), login.refresh_token, options(DPoP)))
  await refused(`${alg}: a refresh token is bound too`, 'invalid_dpop_proof', refresh(stranger))
  await refused(`${alg}: and is nothing by itself`, 'invalid_dpop_proof', refresh())
  const second = await refresh(phone)
  step(`${alg}: refresh`, second.token_type === 'dpop' && (await get(second.access_token, phone)).status === 200)
  const said = await oauth.processUserInfoResponse(as, app, SUBJECT,
    await oauth.userInfoRequest(as, app, login.access_token, options(phone)))
  step(`${alg}: userinfo`, said.sub === SUBJECT)
}
console.log('all as it should be')
