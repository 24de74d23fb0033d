"""Calls a gRPC server through the gateway in every way there is, and prints what came of each as a line of JSON.

    client.py ADDRESS HOST AUTHORITY_FILE TOKEN
"""

import json
import sys
import threading

import grpc

address, host, authority, token = sys.argv[1:]
credentials = grpc.ssl_channel_credentials(open(authority, "rb").read())
channel = grpc.secure_channel(address, credentials, (("grpc.ssl_target_name_override", host),))
WITH = (("authorization", "Bearer " + token),)


def say(name, call):
    try:
        result = call()
    except grpc.RpcError as error:
        result = {"status": error.code().name, "details": error.details()}
    print(json.dumps({"call": name, "result": result}), flush=True)


def unary(request, metadata=WITH, path="/test.Kinds/Unary"):
    answer, call = channel.unary_unary(path).with_call(request, metadata=metadata, timeout=30)
    trailers = {key: value for key, value in call.trailing_metadata() if key.startswith("x-")}
    return {"answer": answer.decode(), "trailers": trailers}


def chat():
    """Each answer is waited for before the next word is said: both directions are open at once."""
    said = []
    turn = threading.Semaphore(1)

    def words():
        for word in (b"one", b"two", b"three"):
            turn.acquire(timeout=30)
            yield word

    for answer in channel.stream_stream("/test.Kinds/Chat")(words(), metadata=WITH, timeout=30):
        said.append(answer.decode())
        turn.release()
    return said


say("unary", lambda: unary(b"hello"))
say("large", lambda: len(unary(b"x" * 1_000_000)["answer"]))
say("failing", lambda: unary(b"fail"))
say("download", lambda: [a.decode() for a in channel.unary_stream("/test.Kinds/Download")(b"5", metadata=WITH, timeout=30)])
say("upload", lambda: channel.stream_unary("/test.Kinds/Upload")(iter([b"x" * 100_000] * 20), metadata=WITH, timeout=30).decode())
say("chat", chat)
say("nobody", lambda: unary(b"hello", metadata=()))
say("forbidden", lambda: unary(b"hello", path="/forbidden/Unary"))
say("gone", lambda: unary(b"hello", path="/gone/Unary"))
say("slow", lambda: unary(b"hello", path="/test.Kinds/Sleep"))
say("deadline", lambda: channel.unary_unary("/test.Kinds/Sleep")(b"", metadata=WITH, timeout=0.3).decode())
