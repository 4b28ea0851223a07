"""grpcio's client, unmodified, through a running Sidegate: grpc_flow.py ADDRESS CA_FILE GOOD_TOKEN EXPIRED_TOKEN

ADDRESS speaks TLS. Messages are bytes, so that no protoc is needed. Prints a line for each step, and stops with a
traceback at the first that is not as it should be. tests/it/streams/python.rs has the service and the routes."""

import sys
import threading

import grpc

address, ca_file, good, expired = sys.argv[1:]
with open(ca_file, "rb") as file:
    tls = grpc.ssl_channel_credentials(file.read())


def step(what, right, detail=""):
    print(f"{'ok ' if right else 'NOT OK'} {what} {detail}".rstrip(), flush=True)
    assert right, what


def note(text):
    """Note { text }: field 1, text of less than 128 bytes."""
    text = text.encode()
    return b"\x0a" + bytes([len(text)]) + text


def channel(token, **more):
    credentials = tls if token is None else grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(f"localhost:{address.rpartition(':')[2]}", credentials, **more)


def refused(what, code, words, call):
    try:
        answer = call()
    except grpc.RpcError as error:
        step(what, error.code() is code and words in error.details(), f"({error.code()}: {error.details()})")
    else:
        step(what, False, f"(got {answer!r})")


with channel(good) as gate:
    answer, call = gate.unary_unary("/test.Notes/Echo").with_call(
        note("hi"), timeout=20, metadata=[("x-told", "this"), ("x-some-bin", b"\x00\xff")])
    step("unary", answer == note("hi"))
    step("metadata", dict(call.initial_metadata()).get("x-told") == "this")
    step("binary metadata", dict(call.initial_metadata()).get("x-raw-bin") == b"\x00\x01\xff")
    step("status", call.code() is grpc.StatusCode.OK)

    counted = list(gate.unary_stream("/test.Notes/Count")(note("n") + b"\x10\x05", timeout=20))
    step("server streaming", len(counted) == 5)
    joined = gate.stream_unary("/test.Notes/Join")((note(text) for text in "abc"), timeout=20)
    step("client streaming", joined == note("abc") + b"\x10\x03")

    heard = threading.Event()

    def talk():
        for text in ("one", "two", "three"):
            heard.clear()
            yield note(text)
            # Each is answered before the next is said.
            assert heard.wait(20)

    said = []
    for answer in gate.stream_stream("/test.Notes/Chat")(talk(), timeout=20):
        said.append(answer)
        heard.set()
    step("both ways", said == [note(text) for text in ("one", "two", "three")])

    many = gate.stream_stream("/test.Notes/Chat")((note("x") for _ in range(3000)), timeout=20)
    step("many small messages", sum(1 for _ in many) == 3000)

    refused("the upstream's own status", grpc.StatusCode.FAILED_PRECONDITION, "nö: 100%\nway",
            lambda: gate.unary_unary("/test.Notes/Echo")(note("fail"), timeout=20))
    try:
        gate.unary_unary("/test.Notes/Wait")(note(""), timeout=0.3)
    except grpc.RpcError as error:
        # The upstream keeps the same deadline by itself, and may be the first to say so, in its own words.
        told = error.code(), error.details()
        by_upstream = told == (grpc.StatusCode.CANCELLED, "Timeout expired")
        step("a deadline", told[0] is grpc.StatusCode.DEADLINE_EXCEEDED or by_upstream, f"({told})")
    else:
        step("a deadline", False)
    refused("no scope", grpc.StatusCode.PERMISSION_DENIED, "lacks a scope",
            lambda: gate.unary_unary("/test.Notes/Admin")(note(""), timeout=20))
    refused("no route", grpc.StatusCode.UNIMPLEMENTED, "nothing at this address",
            lambda: gate.unary_unary("/other.Service/Method")(note(""), timeout=20))

with channel(good, compression=grpc.Compression.Gzip) as gate:
    large = b"\x0a\x80\x80\x40" + b"x" * (1 << 20)
    step("compressed", gate.unary_unary("/test.Notes/Echo")(large, timeout=20) == large)

for what, token, words in [("no token", None, "needs an access token"), ("an expired token", expired, "has expired")]:
    with channel(token) as gate:
        for _ in range(2):
            refused(f"{what}, unary", grpc.StatusCode.UNAUTHENTICATED, words,
                    lambda: gate.unary_unary("/test.Notes/Echo")(note("hi"), timeout=20))
        refused(f"{what}, server streaming", grpc.StatusCode.UNAUTHENTICATED, words,
                lambda: list(gate.unary_stream("/test.Notes/Count")(note("hi"), timeout=20)))
        refused(f"{what}, client streaming", grpc.StatusCode.UNAUTHENTICATED, words,
                lambda: gate.stream_unary("/test.Notes/Join")((note("x") for _ in range(1000)), timeout=20))
print("all as it should be")
