"""What the flows share: whom tests/it/clients.rs has configured, a line for each step, and a user at a browser."""

import os
import sys
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import requests

base, ca_file = sys.argv[1], (sys.argv[2:] or [""])[0]
plain = base.startswith("http://")

CLIENT, PUBLIC_CLIENT, SECRET = "stock", "stock-public", "32+%41 of:entropy/&="
# It has no secret, but keys.
KEYS_CLIENT = "stock-keys"
# It has a certificate, where it speaks TLS.
TLS_CLIENT = "stock-tls"
USER, PASSWORD, SUBJECT = "alice", "pass wörd+%", "user-of-the-clients-test"
# Of a web application; one that runs on the user's own machine takes any port.
REDIRECT, LOOPBACK_REDIRECT = "https://app.example.com/cb", "http://127.0.0.1:51004/cb"
SCOPE = "openid profile read write"

authorize_url, token_url = f"{base}/oauth/authorize", f"{base}/oauth/token"
revoke_url, introspect_url, userinfo_url = (f"{base}/oauth/{name}" for name in ("revoke", "introspect", "userinfo"))
metadata_url, resource = f"{base}/.well-known/openid-configuration", f"{base}/secret"

# How requests, on which all of them stand, is told whom to trust; and no proxy of the environment stands between.
os.environ["no_proxy"] = "localhost,127.0.0.1"
if ca_file:
    os.environ["REQUESTS_CA_BUNDLE"] = ca_file
if plain:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
# oauthlib looks at where a browser comes back to as well, which on the user's own machine is plain either way.
os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"


def step(what, good, detail=""):
    print(f"{'ok ' if good else 'NOT OK'} {what} {detail}".rstrip(), flush=True)
    assert good, what


class Form(HTMLParser):
    """The one form of a page: where it leads, and what its fields hold."""

    def __init__(self, page):
        super().__init__()
        self.action, self.fields = None, {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self.action = attrs["action"]
        elif tag == "input":
            self.fields[attrs["name"]] = attrs.get("value", "")


class Browser:
    """A browser, with its cookies, at which USER sits."""

    def __init__(self):
        self.session = requests.Session()

    def go(self, url, decision="allow"):
        """Goes where a client sends it: follows redirects, logs in, and decides. Ends where it leaves for the client."""
        if decision != "allow":
            # Whoever has agreed before is not asked again by itself.
            url += "&prompt=consent"
        answer = self.session.get(url, allow_redirects=False, timeout=10)
        for _ in range(8):
            if answer.status_code == 303:
                url = answer.headers["location"]
                if urlsplit(url)[:2] != urlsplit(base)[:2]:
                    return url
                answer = self.session.get(url, allow_redirects=False, timeout=10)
                continue
            assert answer.status_code == 200, answer.text
            form = Form(answer.text)
            if "username" in form.fields:
                form.fields |= {"username": USER, "password": PASSWORD}
            else:
                form.fields["decision"] = decision
            url = urljoin(url, form.action)
            answer = self.session.post(url, data=form.fields, allow_redirects=False, timeout=10)
        raise AssertionError(f"no way back to the client from {url}")
