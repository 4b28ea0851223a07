"""Authlib's OAuth2Session, unmodified, against a running Sidegate: authlib_flow.py BASE_URL [CA_FILE]

Prints a line for each step, and stops with a traceback at the first that is not as it should be. tests/it/clients.rs
configures the clients and the user that are named here."""

import os
import sys

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

CLIENT, SECRET = "stock", "32+%41 of:entropy/&="
PUBLIC_CLIENT = "stock-public"
USER, PASSWORD = "alice", "pass wörd+%"

base, ca_file = sys.argv[1], (sys.argv[2:] or [""])[0]
token_url, revoke_url, resource = f"{base}/oauth/token", f"{base}/oauth/revoke", f"{base}/secret"
if base.startswith("http://"):
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"


def session(auth_method):
    secret = None if auth_method == "none" else SECRET
    new = OAuth2Session(
        PUBLIC_CLIENT if auth_method == "none" else CLIENT,
        secret,
        token_endpoint_auth_method=auth_method,
        revocation_endpoint_auth_method=auth_method,
        default_timeout=10,
    )
    new.trust_env = False  # no proxy of the environment stands between
    new.verify = ca_file or True
    return new


def step(what, good, detail=""):
    print(f"{'ok ' if good else 'NOT OK'} {what} {detail}".rstrip(), flush=True)
    assert good, what


def refused(what, error, call):
    try:
        token = call()
    except OAuthError as e:
        step(what, e.error == error, f"({e.error}: {e.description})")
    else:
        step(what, False, f"(got {sorted(token)})")


def whole(token, refreshable):
    return (
        token["token_type"].lower() == "bearer"
        and token["access_token"].count(".") == 2
        and 0 < token["expires_in"] <= 3600
        and ("refresh_token" in token) == refreshable
    )


def login(name, client):
    token = client.fetch_token(token_url, grant_type="password", username=USER, password=PASSWORD)
    step(f"{name}: password", whole(token, True))
    step(f"{name}: its token opens the resource", client.get(resource).status_code == 200)
    return token


for method in ("client_secret_basic", "client_secret_post", "none"):
    client = session(method)
    first = dict(login(method, client))

    second = dict(client.refresh_token(token_url))
    step(f"{method}: refresh", whole(second, True))
    step(f"{method}: it made new tokens", all(first[k] != second[k] for k in ("access_token", "refresh_token")))
    step(f"{method}: the new one opens the resource", client.get(resource).status_code == 200)

    narrow = client.refresh_token(token_url, scope="read")
    step(f"{method}: refresh with fewer scopes", narrow["scope"] == "read")

    answer = client.revoke_token(revoke_url, token=narrow["refresh_token"], token_type_hint="refresh_token")
    step(f"{method}: revoke", answer.status_code == 200, f"({answer.status_code})")
    refused(f"{method}: a revoked token does not refresh", "invalid_grant", lambda: client.refresh_token(
        token_url, refresh_token=narrow["refresh_token"]))
    client.token = second
    step(f"{method}: access tokens of the session are dead", client.get(resource).status_code == 401)

    login(f"{method}, once more", client)
    answer = client.revoke_token(revoke_url, token=client.token["access_token"], token_type_hint="access_token")
    step(f"{method}: revoke an access token", answer.status_code == 200, f"({answer.status_code})")
    step(f"{method}: it is dead", client.get(resource).status_code == 401)
    answer = client.revoke_token(revoke_url, token="no token of anyone's")
    step(f"{method}: revoking what is no token is no error", answer.status_code == 200, f"({answer.status_code})")

for method in ("client_secret_basic", "client_secret_post"):
    client = session(method)
    token = client.fetch_token(token_url, grant_type="client_credentials")
    step(f"{method}: client_credentials", whole(token, False))
    step(f"{method}: its token opens the resource", client.get(resource).status_code == 200)
    token = client.fetch_token(token_url, grant_type="client_credentials", scope="read")
    step(f"{method}: client_credentials with fewer scopes", token.get("scope", "read") == "read")
    refused(f"{method}: a scope it has not", "invalid_scope", lambda: client.fetch_token(
        token_url, grant_type="client_credentials", scope="read everything"))

refused("a wrong password", "invalid_grant", lambda: session("client_secret_basic").fetch_token(
    token_url, grant_type="password", username=USER, password="wrong"))
stranger = session("client_secret_basic")
stranger.client_secret = "wrong"
refused("a wrong secret", "invalid_client", lambda: stranger.fetch_token(token_url, grant_type="client_credentials"))
refused("a grant the client may not use", "unauthorized_client", lambda: session("none").fetch_token(
    token_url, grant_type="client_credentials"))
print("all as it should be")
