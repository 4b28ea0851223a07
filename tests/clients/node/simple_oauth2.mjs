// simple-oauth2, unmodified, against a running Sidegate: node simple_oauth2.mjs BASE_URL
// The CA of an https base comes by NODE_EXTRA_CA_CERTS. rig.mjs says who is configured.
// It knows nothing of discovery, PKCE, ID tokens and introspection: its user adds the parameters of the first two.

import { createHash, randomBytes } from 'node:crypto'
import { AuthorizationCode, ClientCredentials, ResourceOwnerPassword } from 'simple-oauth2'
import {
  Browser, CLIENT, LOOPBACK_REDIRECT, PUBLIC, REDIRECT, SCOPE, SECRET, SUBJECT, USER,
  get, issuer, refused as wasRefused, step, userinfo,
} from './rig.mjs'

const settings = (id, secret, options) => ({
  client: { id, ...(secret === undefined ? {} : { secret }) },
  // Its paths for the rest are ours as they come: /oauth/authorize, /oauth/token, /oauth/revoke.
  auth: { tokenHost: issuer.origin },
  http: { timeout: 10_000 },
  options,
})
const refused = (what, code, answer) => wasRefused(what, code, answer, (error) => {
  if (!error.isBoom) throw error
  return error.data.payload.error
})

const browser = new Browser()
async function login(client, redirect_uri) {
  const verifier = randomBytes(32).toString('base64url'), state = randomBytes(16).toString('base64url')
  const back = await browser.go(client.authorizeURL({
    redirect_uri,
    scope: SCOPE.split(' '),
    state,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  }))
  const answer = Object.fromEntries(back.searchParams)
  step('the state comes back, and who answers', answer.state === state && answer.iss === issuer.origin)
  return { code: answer.code, redirect_uri, code_verifier: verifier }
}
const opens = async (token) => (await get(token.token.access_token)).status

const ways = [
  ['header, encoded', CLIENT, SECRET, { authorizationMethod: 'header', credentialsEncodingMode: 'strict' }, REDIRECT],
  ['header, as it is', CLIENT, SECRET, { authorizationMethod: 'header', credentialsEncodingMode: 'loose' }, REDIRECT],
  ['body', CLIENT, SECRET, { authorizationMethod: 'body' }, REDIRECT],
  ['public', PUBLIC, undefined, { authorizationMethod: 'body' }, LOOPBACK_REDIRECT],
]
for (const [name, id, secret, options, redirect] of ways) {
  const client = new AuthorizationCode(settings(id, secret, options))
  const first = await client.getToken(await login(client, redirect))
  const { refresh_token, id_token, scope } = first.token
  step(`${name}: a code and PKCE`, Boolean(refresh_token && id_token) && scope === SCOPE)
  step(`${name}: it knows until when`, !first.expired() && first.expired(301))
  step(`${name}: its token opens the resource`, (await opens(first)) === 200)
  step(`${name}: and userinfo`, (await userinfo(first.token.access_token)).sub === SUBJECT)

  const second = await first.refresh()
  step(`${name}: refresh`, second.token.refresh_token !== first.token.refresh_token)
  const narrow = await second.refresh({ scope: ['read'] })
  step(`${name}: refresh with fewer scopes`, narrow.token.scope === 'read' && (await opens(narrow)) === 200)

  await narrow.revoke('access_token')
  step(`${name}: revoke an access token`, (await opens(narrow)) === 401)
  const again = client.createToken(JSON.parse(JSON.stringify(second)))
  await narrow.revokeAll()
  step(`${name}: revoke both, and with them the session`, (await opens(again)) === 401)
  await refused(`${name}: a revoked token does not refresh`, 'invalid_grant', narrow.refresh())

  await refused(`${name}: another verifier`, 'invalid_grant',
    client.getToken({ ...await login(client, redirect), code_verifier: randomBytes(32).toString('base64url') }))
  const { code_verifier, ...unproven } = await login(client, redirect)
  await refused(`${name}: no verifier`, 'invalid_grant', client.getToken(unproven))
  const code = await login(client, redirect)
  const once = await client.getToken(code)
  await refused(`${name}: a code twice`, 'invalid_grant', client.getToken(code))
  step(`${name}: ends what came of it`, (await opens(once)) === 401)

  const password = await new ResourceOwnerPassword(settings(id, secret, options)).getToken({ ...USER, scope: ['read'] })
  step(`${name}: password`, password.token.scope === 'read' && Boolean(password.token.refresh_token))
  const machine = new ClientCredentials(settings(id, secret, options)).getToken({ scope: 'read' })
  if (secret === undefined) {
    await refused(`${name}: a grant the client may not use`, 'unauthorized_client', machine)
  } else {
    step(`${name}: client_credentials`, (await opens(await machine)) === 200)
  }
}
for (const [name, id, , options, redirect] of ways.slice(0, 3)) {
  const stranger = settings(id, 'wrong', options)
  await refused(`${name}: a wrong secret`, 'invalid_client', new ClientCredentials(stranger).getToken({}))
  const client = new AuthorizationCode(stranger)
  await refused(`${name}: a wrong secret with a good code`, 'invalid_client',
    client.getToken(await login(client, redirect)))
}
console.log('all as it should be')
