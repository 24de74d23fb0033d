"""Says every WebSocket message back, compressed if the client asks for it."""

import asyncio
import logging
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    # Most cases break the protocol on purpose; that is no news.
    logging.disable(logging.CRITICAL)
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None, ping_interval=None) as server:
        await server.serve_forever()


asyncio.run(main())
