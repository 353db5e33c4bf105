"""An echo server made with PyPI's websockets: prints its port, then serves until it is killed.

With `unix:` and a path in front, it listens there instead, and prints that. With the files of a certificate and its key it speaks TLS; with a third, it demands that certificate of its clients.
"""

import asyncio
import ssl
import sys

import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(message)


def tls(certificate=None, key=None, clients=None):
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve(path, **options):
    return websockets.unix_serve(echo, path, **options) if path else websockets.serve(echo, "127.0.0.1", 0, **options)


async def main():
    args = sys.argv[1:]
    path = args.pop(0).removeprefix("unix:") if args and args[0].startswith("unix:") else None
    async with serve(path, ssl=tls(*args), max_size=None, subprotocols=["echo"]) as server:
        print(path or server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
