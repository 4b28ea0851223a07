"""The websockets library, unmodified, through a running Sidegate: websocket_flow.py URL CA_FILE TOKEN

URL is one of wss://. Prints a line for each step, and stops with a traceback at the first that is not as it should be.
tests/it/streams/python.rs has the other end."""

import ssl
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

url, ca_file, token = sys.argv[1:]
trust = ssl.create_default_context(cafile=ca_file)
bearer = {"Authorization": f"Bearer {token}"}


def step(what, right, detail=""):
    print(f"{'ok ' if right else 'NOT OK'} {what} {detail}".rstrip(), flush=True)
    assert right, what


def open_one(path, headers, **more):
    return connect(url + path, ssl=trust, additional_headers=headers, proxy=None, max_size=None, **more)


with open_one("/echo", bearer, subprotocols=["chat.v1", "chat.v2"]) as socket:
    step("subprotocol", socket.subprotocol == "chat.v2")
    for message in ["hello", "", "ü" * (1 << 19), b"\x00\xff" * (1 << 19)]:
        socket.send(message)
        step(f"{type(message).__name__} of {len(message)}", socket.recv(20) == message)
    step("ping", socket.ping().wait(20))
    socket.send("ping me")
    step("pong", socket.recv(20) == "pong: are you there")
    socket.send(["in ", "three ", "pieces"])
    step("fragments", socket.recv(20) == "in three pieces")
    socket.close(4002, "bye")
    step("close", (socket.close_code, socket.close_reason) == (4002, "bye"))

with open_one("/echo", bearer) as socket:
    socket.send("close me")
    try:
        step("closed by the other end", False, socket.recv(20))
    except ConnectionClosed as closed:
        step("closed by the other end", (closed.rcvd.code, closed.rcvd.reason) == (4001, "enough"))

for what, path, headers, status in [("no token", "/echo", {}, 401), ("the upstream's no", "/no", bearer, 403)]:
    try:
        open_one(path, headers)
        step(what, False)
    except InvalidStatus as refusal:
        step(what, refusal.response.status_code == status, refusal.response.body.decode().strip())
print("all as it should be")
