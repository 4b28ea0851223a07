"""Authlib's OAuth2Session, unmodified, as a client that signs who it is: authlib_jwt_flow.py BASE_URL [CA_FILE]

CLIENT_KEYS is the folder with its private keys. rig.py says who is configured."""

import os
from pathlib import Path

from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey, RSAKey

from rig import (
    KEYS_CLIENT, REDIRECT, SCOPE, TLS_CLIENT, Browser, authorize_url, introspect_url, plain, resource, revoke_url, step,
    token_url,
)

keys = Path(os.environ["CLIENT_KEYS"])
rsa, ec = (keys / "rsa.pem").read_text(), ECKey.import_key((keys / "ec.pem").read_text())


def session(key, method):
    client = OAuth2Session(
        KEYS_CLIENT,
        key,
        token_endpoint_auth_method=method.name,
        revocation_endpoint_auth_method=method.name,
        redirect_uri=REDIRECT,
        code_challenge_method="S256",
        default_timeout=10,
    )
    client.register_client_auth_method(method)
    return client


browser = Browser()
for name, key, method in (
    ("RS256", rsa, PrivateKeyJWT(token_url)),
    ("ES256", ec, PrivateKeyJWT(token_url, alg="ES256")),
    ("for the issuer", ec, PrivateKeyJWT(token_url.removesuffix("/oauth/token"), alg="ES256")),
):
    client = session(key, method)
    token = client.fetch_token(token_url, grant_type="client_credentials")
    step(f"{name}: client_credentials", "refresh_token" not in token)
    step(f"{name}: its token opens the resource", client.get(resource).status_code == 200)
    about = client.introspect_token(introspect_url, token=token["access_token"]).json()
    step(f"{name}: introspect", about["active"] and about["client_id"] == KEYS_CLIENT)
    answer = client.revoke_token(revoke_url, token=token["access_token"])
    step(f"{name}: revoke", answer.status_code == 200, f"({answer.status_code})")
    step(f"{name}: it is dead", client.get(resource).status_code == 401)

    verifier = generate_token(48)
    url, state = client.create_authorization_url(authorize_url, code_verifier=verifier, scope=SCOPE)
    client.fetch_token(token_url, authorization_response=browser.go(url), state=state, code_verifier=verifier)
    step(f"{name}: a code and PKCE", client.get(resource).status_code == 200)
    step(f"{name}: refresh", "refresh_token" in client.refresh_token(token_url))

for what, key, method in (
    ("another key", RSAKey.generate_key(2048), PrivateKeyJWT(token_url)),
    ("another audience", rsa, PrivateKeyJWT("https://other.example/oauth/token")),
    ("an assertion twice", rsa, PrivateKeyJWT(token_url, claims={"jti": "the only one"})),
):
    client = session(key, method)
    try:
        for _ in range(2):
            client.fetch_token(token_url, grant_type="client_credentials")
    except OAuthError as e:
        step(what, e.error == "invalid_client", f"({e.error}: {e.description})")
    else:
        step(what, False)

# One that shows a certificate says its name beside it, as a public client does.
if not plain:
    own = (str(keys / "client.pem"), str(keys / "client.key"))
    for what, certificate in (("a certificate", own), ("no certificate", None)):
        client = OAuth2Session(TLS_CLIENT, token_endpoint_auth_method="none", default_timeout=10)
        client.cert = certificate
        try:
            token = client.fetch_token(token_url, grant_type="client_credentials")
            step(what, certificate and client.get(resource).status_code == 200)
        except OAuthError as e:
            step(what, not certificate and e.error == "invalid_client", f"({e.error}: {e.description})")
print("all as it should be")
