// Issuers of others, on loopback: oidc-provider or oauth2-mock-server, on the port that is named (0: any). Says where it is
// once it listens. For each line `rotate` on standard input another key signs, while those before it stay published; it is
// answered by the same line.
import { createInterface } from "node:readline";
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";

const [kind, port] = process.argv.slice(2);
const audience = "api";

const key = () => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), alg: "ES256", use: "sig" };
};

const listen = (server) => new Promise((done) => server.listen(Number(port), "127.0.0.1", () => done(server.address().port)));

// oidc-provider has its keys for good, so that another set is another provider at the same place.
async function oidcProvider() {
  const { default: Provider } = await import("oidc-provider");
  let keys = [key()];
  let answer = (_, response) => response.writeHead(503).end();
  const at = await listen(createServer((request, response) => answer(request, response)));
  const issuer = `http://127.0.0.1:${at}`;
  const start = () => {
    const provider = new Provider(issuer, {
      jwks: { keys },
      clients: [{ client_id: "app", client_secret: "secret", grant_types: ["client_credentials"], redirect_uris: [], response_types: [], id_token_signed_response_alg: "ES256" }],
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          defaultResource: () => "https://api.example",
          getResourceServerInfo: () => ({ scope: "read write", audience, accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } }),
        },
      },
    });
    answer = provider.callback();
  };
  start();
  return {
    issuer,
    rotate: () => { keys = [key(), ...keys]; start(); },
  };
}

async function oauth2MockServer() {
  const { OAuth2Issuer, OAuth2Service } = await import("oauth2-mock-server");
  // All its keys sign, in turn.
  const issuer = new OAuth2Issuer();
  await issuer.keys.generate("RS256");
  const service = new OAuth2Service(issuer);
  service.on("beforeTokenSigning", (token) => {
    Object.assign(token.payload, { aud: audience, client_id: "app", jti: randomUUID() });
  });
  const at = await listen(createServer(service.requestHandler));
  issuer.url = `http://127.0.0.1:${at}`;
  return {
    issuer: issuer.url,
    rotate: () => issuer.keys.generate("RS256"),
  };
}

const started = await { "oidc-provider": oidcProvider, "oauth2-mock-server": oauth2MockServer }[kind]();
console.log(started.issuer);
for await (const line of createInterface({ input: process.stdin })) {
  await started[line]();
  console.log(line);
}
