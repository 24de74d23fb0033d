"""A gRPC server with one method of each kind. Messages are bytes: no schema is needed to see what arrives.

    server.py ADDRESS [KEY CERTIFICATE]
"""

import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    meta = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-sum", str(len(request))), ("x-caller", meta.get("x-user-id", "nobody"))))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
    return request.upper()


def download(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def upload(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def chat(requests, context):
    for request in requests:
        yield b"you said " + request


def sleep(request, context):
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait()
    print("cancelled", flush=True)
    return b""


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Download": grpc.unary_stream_rpc_method_handler(download),
    "Upload": grpc.stream_unary_rpc_method_handler(upload),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", METHODS),))
address, *files = sys.argv[1:]
if files:
    pair = tuple(open(name, "rb").read() for name in files)
    server.add_secure_port(address, grpc.ssl_server_credentials((pair,)))
else:
    server.add_insecure_port(address)
server.start()
server.wait_for_termination()
