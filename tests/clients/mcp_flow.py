"""Clients of an MCP server behind Sidegate: the scanner mcp-authlab, which all has to please, as a client that registers itself and as one that
is listed; and the client of the official SDK."""

import asyncio
import contextlib
import io
import json
import os
import ssl
import tempfile
import webbrowser
from urllib.parse import parse_qs, urlsplit

os.environ["SSL_CERT_FILE"] = __import__("sys").argv[2]
os.environ["MCP_AUTHLAB_TOKENS"] = os.path.join(tempfile.mkdtemp(), "tokens.json")

import httpx2
import requests
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from mcp_authlab import cli

from rig import Browser, base, ca_file, step

tools, notes = f"{base}/tools", f"{base}/notes"


class AtTheBrowser(webbrowser.BaseBrowser):
    """What mcp-authlab opens: a browser that goes all the way back to it."""

    def __init__(self):
        self.browser = Browser()

    def open(self, url, new=0, autoraise=True):
        requests.get(self.browser.go(url), timeout=10).raise_for_status()
        return True


webbrowser.register("rig", None, AtTheBrowser(), preferred=True)


def authlab(*arguments):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(list(arguments))
    assert code == 0, said.getvalue()
    return said.getvalue()


def scan(who, *login):
    authlab("login", tools, "--foreign-resource", notes, "--thorough", *login)
    report = json.loads(authlab("scan", tools, "--format", "json"))
    for result in report["results"]:
        step(f"{who}: {result['id']} {result['title']}", result["status"] == "pass", result["message"])
    step(f"{who}: all there is to check", report["coverage"]["ran"] == len(report["results"]) >= 33)
    step(f"{who}: {report['conformance']}", (report["conformance"], report["grade"]) == ("Conformant", "A"))


scan("registered")
scan("listed", "--client-id", "stock-public")


class Storage:
    """Where the SDK keeps what it has got."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def call():
    storage, browser, back = Storage(), Browser(), []

    async def go(url):
        back.append(await asyncio.to_thread(browser.go, url))

    async def come_back():
        query = {name: values[0] for name, values in parse_qs(urlsplit(back[-1]).query).items()}
        return AuthorizationCodeResult(code=query["code"], state=query["state"], iss=query["iss"])

    metadata = OAuthClientMetadata(client_name="A program", redirect_uris=["http://127.0.0.1:51004/callback"])
    auth = OAuthClientProvider(notes, metadata, storage, go, come_back)
    trust = ssl.create_default_context(cafile=ca_file)
    async with httpx2.AsyncClient(auth=auth, verify=trust, timeout=10) as http:
        async with Client(streamable_http_client(notes, http_client=http)) as client:
            listed = await client.list_tools()
            step("the SDK lists tools", [tool.name for tool in listed.tools] == ["get_answer"])
            answer = await client.call_tool("get_answer", {})
            step("the SDK calls one", answer.content[0].text == "42")
    step("the SDK has registered", storage.client.client_id.startswith("sgr1."))
    step("for what the server has asked for", storage.tokens.scope == "notes", storage.tokens.scope)


asyncio.run(call())
print("all as it should be")
