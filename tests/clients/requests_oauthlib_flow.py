"""requests-oauthlib, unmodified, against a running Sidegate: requests_oauthlib_flow.py BASE_URL [CA_FILE]

Prints a line for each step, and stops with a traceback at the first that is not as it should be. rig.py says who is
configured."""

import requests
from oauthlib.oauth2 import (
    AccessDeniedError, BackendApplicationClient, InvalidClientError, InvalidGrantError, InvalidScopeError,
    LegacyApplicationClient, MismatchingStateError, UnauthorizedClientError,
)
from requests_oauthlib import OAuth2Session

from rig import (
    CLIENT, LOOPBACK_REDIRECT, PASSWORD, PUBLIC_CLIENT, REDIRECT, SCOPE, SECRET, SUBJECT, USER, Browser,
    authorize_url, resource, revoke_url, step, token_url, userinfo_url,
)

browser = Browser()
TIMEOUT = {"timeout": 10}


def session(way, **more):
    if "client" not in more:
        public = way.startswith("public")
        redirect = LOOPBACK_REDIRECT if public else REDIRECT
        more |= {"client_id": PUBLIC_CLIENT if public else CLIENT, "redirect_uri": redirect, "scope": SCOPE.split()}
        more |= {"pkce": "S256"}
    return OAuth2Session(**more)


# How the client says who it is: when it fetches a token, when it refreshes one, and when it revokes one.
basic = requests.auth.HTTPBasicAuth(CLIENT, SECRET)
WAYS = {
    "basic": ({"client_secret": SECRET}, {"auth": basic}, {}),
    "post": (
        {"client_secret": SECRET, "include_client_id": True},
        {"client_id": CLIENT, "client_secret": SECRET},
        {"client_id": CLIENT, "client_secret": SECRET},
    ),
    # Unless it is told otherwise, it sends a name without a secret by Basic.
    "public, basic": ({}, {"auth": requests.auth.HTTPBasicAuth(PUBLIC_CLIENT, "")}, {"client_id": PUBLIC_CLIENT}),
    "public": ({"include_client_id": True}, {"client_id": PUBLIC_CLIENT}, {"client_id": PUBLIC_CLIENT}),
}


def refused(what, error, call):
    try:
        call()
    except error as e:
        step(what, True, f"({e})")
    else:
        step(what, False)


def code(client, decision="allow", **more):
    url, _ = client.authorization_url(authorize_url, **more)
    return {"authorization_response": browser.go(url, decision)}


def revoke(client, way, token, hint):
    """oauthlib writes the request, and leaves it to others to send it."""
    named = WAYS[way][2]
    url, headers, body = client._client.prepare_token_revocation_request(revoke_url, token, hint, **named)
    return requests.Session.request(
        client, "POST", url, headers=headers, data=body, auth=basic if way == "basic" else None, **TIMEOUT)


for way, (how, again, named) in WAYS.items():
    client = session(way)
    first = dict(client.fetch_token(token_url, **code(client), **how, **TIMEOUT))
    step(f"{way}: a code and PKCE", first["scope"] == SCOPE.split() and {"refresh_token", "id_token"} <= set(first))
    step(f"{way}: its token opens the resource", client.get(resource, **TIMEOUT).status_code == 200)
    step(f"{way}: and userinfo", client.get(userinfo_url, **TIMEOUT).json()["sub"] == SUBJECT)

    second = dict(client.refresh_token(token_url, **again, **TIMEOUT))
    step(f"{way}: refresh", all(first[k] != second[k] for k in ("access_token", "refresh_token")))
    step(f"{way}: the new one opens the resource", client.get(resource, **TIMEOUT).status_code == 200)

    # Once a token is over by its own clock, it refreshes by itself. It finds the name and the secret for Basic in what it is
    # told of the resource's request, and those for the body in what it was made with.
    kept = []
    over = {"token": second | {"expires_in": -1, "expires_at": 1}, "auto_refresh_url": token_url}
    late = session(way, **over, token_updater=kept.append, auto_refresh_kwargs={} if way == "basic" else named)
    answer = late.get(resource, **({"client_id": CLIENT, "client_secret": SECRET} if way == "basic" else {}), **TIMEOUT)
    step(f"{way}: refresh by itself", answer.status_code == 200 and len(kept) == 1)
    second = dict(kept[0])

    answer = revoke(client, way, second["refresh_token"], "refresh_token")
    step(f"{way}: revoke", answer.status_code == 200, f"({answer.status_code})")
    refused(f"{way}: a revoked token does not refresh", InvalidGrantError, lambda: client.refresh_token(
        token_url, refresh_token=second["refresh_token"], **again, **TIMEOUT))
    client.token = second
    step(f"{way}: access tokens of the session are dead", client.get(resource, **TIMEOUT).status_code == 401)

    bad = code(client)
    client._code_verifier = client._client.create_code_verifier(64)
    refused(f"{way}: another verifier", InvalidGrantError, lambda: client.fetch_token(
        token_url, **bad, **how, **TIMEOUT))
    twice = code(client)
    client.fetch_token(token_url, **twice, **how, **TIMEOUT)
    once = dict(client.token)
    refused(f"{way}: a code twice", InvalidGrantError, lambda: client.fetch_token(
        token_url, **twice, **how, **TIMEOUT))
    client.token = once
    step(f"{way}: ends what came of it", client.get(resource, **TIMEOUT).status_code == 401)

    client = session(way)
    answer = code(client)
    refused(f"{way}: an answer with another state", MismatchingStateError, lambda: session(way, state="x").fetch_token(
        token_url, **answer, **how, **TIMEOUT))
    refused(f"{way}: a user who denies", AccessDeniedError, lambda: client.fetch_token(
        token_url, **code(client, "deny"), **how, **TIMEOUT))
    client.scope = ["openid", "everything"]
    refused(f"{way}: a scope it has not", InvalidScopeError, lambda: client.fetch_token(
        token_url, **code(client), **how, **TIMEOUT))

for way in ("basic", "post"):
    how = WAYS[way][0]
    client = session(way, client=BackendApplicationClient(CLIENT, scope=["read"]))
    token = client.fetch_token(token_url, **how, **TIMEOUT)
    step(f"{way}: client_credentials", "refresh_token" not in token)
    step(f"{way}: its token opens the resource", client.get(resource, **TIMEOUT).status_code == 200)
    client = session(way, client=LegacyApplicationClient(CLIENT, scope=["read"]))
    token = client.fetch_token(token_url, username=USER, password=PASSWORD, **how, **TIMEOUT)
    step(f"{way}: password", "refresh_token" in token and client.get(resource, **TIMEOUT).status_code == 200)
    refused(f"{way}: a wrong password", InvalidGrantError, lambda: client.fetch_token(
        token_url, username=USER, password="wrong", **how, **TIMEOUT))

    how = how | {"client_secret": "wrong"}
    client = session(way)
    refused(f"{way}: a wrong secret with a good code", InvalidClientError, lambda: client.fetch_token(
        token_url, **code(client), **how, **TIMEOUT))
client = session("public", client=BackendApplicationClient(PUBLIC_CLIENT))
refused("a grant the client may not use", UnauthorizedClientError, lambda: client.fetch_token(
    token_url, **WAYS["public"][0], **TIMEOUT))
print("all as it should be")
