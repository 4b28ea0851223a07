"""Authlib's OAuth2Session, unmodified, against a running Sidegate: authlib_flow.py BASE_URL [CA_FILE]

Prints a line for each step, and stops with a traceback at the first that is not as it should be. rig.py says who is
configured."""

from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc6749.errors import MismatchingStateException

from rig import (
    CLIENT, LOOPBACK_REDIRECT, PASSWORD, PUBLIC_CLIENT, REDIRECT, SCOPE, SECRET, SUBJECT, USER, Browser,
    authorize_url, introspect_url, resource, revoke_url, step, token_url, userinfo_url,
)


def session(auth_method):
    public = auth_method == "none"
    return OAuth2Session(
        PUBLIC_CLIENT if public else CLIENT,
        None if public else SECRET,
        token_endpoint_auth_method=auth_method,
        revocation_endpoint_auth_method=auth_method,
        redirect_uri=LOOPBACK_REDIRECT if public else REDIRECT,
        code_challenge_method="S256",
        default_timeout=10,
    )


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


browser = Browser()


def code(client):
    """What comes back with a browser that was sent for a code, and what the client has to keep for it."""
    verifier = generate_token(48)
    url, state = client.create_authorization_url(authorize_url, code_verifier=verifier, scope=SCOPE)
    return {"authorization_response": browser.go(url), "state": state, "code_verifier": verifier}


def login(name, client):
    token = client.fetch_token(token_url, grant_type="password", username=USER, password=PASSWORD)
    step(f"{name}: password", whole(token, True))
    step(f"{name}: its token opens the resource", client.get(resource).status_code == 200)
    return token


for method in ("client_secret_basic", "client_secret_post", "none"):
    client = session(method)
    first = dict(client.fetch_token(token_url, **code(client)))
    step(f"{method}: a code and PKCE", whole(first, True) and first["scope"] == SCOPE and "id_token" in first)
    step(f"{method}: its token opens the resource", client.get(resource).status_code == 200)
    step(f"{method}: and userinfo", client.get(userinfo_url).json()["sub"] == SUBJECT)

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

    login(method, client)
    answer = client.revoke_token(revoke_url, token=client.token["access_token"], token_type_hint="access_token")
    step(f"{method}: revoke an access token", answer.status_code == 200, f"({answer.status_code})")
    step(f"{method}: it is dead", client.get(resource).status_code == 401)
    answer = client.revoke_token(revoke_url, token="no token of anyone's")
    step(f"{method}: revoking what is no token is no error", answer.status_code == 200, f"({answer.status_code})")

    for what, verifier in (("another verifier", generate_token(48)), ("no verifier", None)):
        refused(f"{method}: {what}", "invalid_grant", lambda: client.fetch_token(
            token_url, **(code(client) | {"code_verifier": verifier})))
    twice = code(client)
    client.fetch_token(token_url, **twice)
    step(f"{method}: a code", client.get(resource).status_code == 200)
    refused(f"{method}: a code twice", "invalid_grant", lambda: client.fetch_token(token_url, **twice))
    step(f"{method}: ends what came of it", client.get(resource).status_code == 401)

for method in ("client_secret_basic", "client_secret_post"):
    client = session(method)
    token = client.fetch_token(token_url, grant_type="client_credentials")
    step(f"{method}: client_credentials", whole(token, False))
    step(f"{method}: its token opens the resource", client.get(resource).status_code == 200)
    about = client.introspect_token(introspect_url, token=token["access_token"]).json()
    step(f"{method}: introspect", about["active"] and about["client_id"] == CLIENT)
    client.revoke_token(revoke_url, token=token["access_token"])
    about = client.introspect_token(introspect_url, token=token["access_token"]).json()
    step(f"{method}: introspection says that it is revoked", about == {"active": False})
    token = client.fetch_token(token_url, grant_type="client_credentials", scope="read")
    step(f"{method}: client_credentials with fewer scopes", token.get("scope", "read") == "read")
    refused(f"{method}: a scope it has not", "invalid_scope", lambda: client.fetch_token(
        token_url, grant_type="client_credentials", scope="read everything"))

try:
    client = session("client_secret_basic")
    client.fetch_token(token_url, **(code(client) | {"state": "x"}))
except MismatchingStateException:
    step("an answer with another state", True)
else:
    step("an answer with another state", False)
refused("a wrong password", "invalid_grant", lambda: session("client_secret_basic").fetch_token(
    token_url, grant_type="password", username=USER, password="wrong"))
stranger = session("client_secret_basic")
stranger.client_secret = "wrong"
refused("a wrong secret", "invalid_client", lambda: stranger.fetch_token(token_url, grant_type="client_credentials"))
refused("a wrong secret with a good code", "invalid_client", lambda: stranger.fetch_token(token_url, **code(stranger)))
refused("a grant the client may not use", "unauthorized_client", lambda: session("none").fetch_token(
    token_url, grant_type="client_credentials"))
print("all as it should be")
