"""A client made with PyPI's websockets: speaks to the URL that it is given, and ends with 0 if all came back.

With a third argument, it does so over the Unix socket of that path.
"""

import asyncio
import os
import ssl
import sys

import websockets

# An emulated machine asks for less.
MESSAGES = 500 // int(os.environ.get("SLUICE_TEST_SHARE", "1"))


def connect(url, path, **options):
    return websockets.unix_connect(path, url, **options) if path else websockets.connect(url, **options)


async def main(url, certificate, path=None):
    context = ssl.create_default_context(cafile=certificate) if url.startswith("wss:") else None
    options = {"ssl": context, "compression": None, "max_size": None, "subprotocols": ["echo"]}
    async with connect(url, path, **options) as socket:
        assert socket.subprotocol == "echo", socket.subprotocol
        for message in ["grüß Gott", b"\x00\xff", "", b"x" * 70_000, "y" * (1 << 20)]:
            await socket.send(message)
            assert await socket.recv() == message, "a message came back changed"
        await socket.send(["frag", "men", "ted"])
        assert await socket.recv() == "fragmented"
        await asyncio.wait_for(await socket.ping(b"p"), 30)
        await asyncio.gather(*(socket.send(str(number)) for number in range(MESSAGES)))
        for number in range(MESSAGES):
            assert await socket.recv() == str(number)
        await socket.close(4001, "done")
        assert socket.close_code == 4001, socket.close_code


asyncio.run(main(*sys.argv[1:4]))
