"""Authlib's client for Flask, unmodified, against a running Sidegate: authlib_oidc_flow.py BASE_URL [CA_FILE]

It is what a web application has: all it is told is where the metadata are, and a browser is sent through its pages.
rig.py says who is configured."""

from urllib.parse import urlsplit

import flask
from authlib.integrations.base_client import MismatchingStateError, OAuthError
from authlib.integrations.flask_client import OAuth
from joserfc.errors import JoseError

from rig import (
    CLIENT, LOOPBACK_REDIRECT, PUBLIC_CLIENT, REDIRECT, SCOPE, SECRET, SUBJECT, USER, Browser,
    metadata_url, resource, step,
)

app = flask.Flask(__name__)
app.secret_key = "only for this test"
oauth = OAuth(app)


def register(name, client, secret, method):
    more = {"scope": SCOPE, "code_challenge_method": "S256", "default_timeout": 10}
    return oauth.register(
        name, client_id=client, client_secret=secret, server_metadata_url=metadata_url,
        client_kwargs=more | {"token_endpoint_auth_method": method})


@app.get("/login/<name>")
def login(name):
    to = LOOPBACK_REDIRECT if name == "none" else REDIRECT
    return oauth.create_client(name).authorize_redirect(to, **flask.request.args)


@app.get("/cb/<name>")
def callback(name):
    return oauth.create_client(name).authorize_access_token()


# What goes wrong is to be seen here, not on a page.
app.testing = True
browser = Browser()


def ask(name, user=browser, decision="allow", **more):
    """Has the application send a browser, and brings what comes back to it."""
    visitor = app.test_client()
    sent = visitor.get(f"/login/{name}", query_string=more).location
    back = urlsplit(user.go(sent, decision)).query
    return visitor, back


def refused(what, error, call):
    try:
        call()
    except error as e:
        step(what, True, f"({e})")
    else:
        step(what, False)


for name, client, secret in (
    ("client_secret_basic", CLIENT, SECRET), ("client_secret_post", CLIENT, SECRET), ("none", PUBLIC_CLIENT, None),
):
    known = register(name, client, secret, name)
    visitor, back = ask(name, max_age=300)
    # It looks at the state, and at the ID token's signature, issuer, audience, nonce, times and at_hash.
    token = visitor.get(f"/cb/{name}?{back}").json
    user = token["userinfo"]
    step(f"{name}: logged in", user["sub"] == SUBJECT and user["preferred_username"] == USER and user["aud"] == client)
    step(f"{name}: the ID token has what can be checked", {"nonce", "at_hash", "auth_time", "exp", "iat"} <= set(user))
    with app.app_context():
        step(f"{name}: userinfo", known.userinfo(token=token)["sub"] == SUBJECT)
        step(f"{name}: the token opens the resource", known.get(resource, token=token).status_code == 200)

        swapped = token | {"access_token": token["access_token"][:-4] + "AAAA"}
        refused(f"{name}: an ID token beside another access token", JoseError,
                lambda: known.parse_id_token(swapped, nonce=user["nonce"]))
        refused(f"{name}: an ID token with another nonce", JoseError, lambda: known.parse_id_token(token, nonce="x"))
        header, body, signature = token["id_token"].split(".")
        forged = token | {"id_token": f"{header}.{body}.{'A' * len(signature)}"}
        refused(f"{name}: an ID token with another signature", JoseError,
                lambda: known.parse_id_token(forged, nonce=user["nonce"]))

    refused(f"{name}: the same answer again", OAuthError, lambda: visitor.get(f"/cb/{name}?{back}"))
    visitor, back = ask(name)
    refused(f"{name}: an answer at another's browser", MismatchingStateError,
            lambda: app.test_client().get(f"/cb/{name}?{back}"))
    for what, error, asked in (
        ("a user who denies", "access_denied", ask(name, decision="deny")),
        ("nobody is logged in", "login_required", ask(name, user=Browser(), prompt="none")),
        ("somebody is, and would have to be asked", "consent_required", ask(name, prompt="none")),
    ):
        visitor, back = asked
        refused(f"{name}: {what}", OAuthError, lambda: visitor.get(f"/cb/{name}?{back}"))
        step(f"{name}: {error}", f"error={error}" in back)
print("all as it should be")
