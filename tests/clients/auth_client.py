"""A client made with PyPI's websockets that shows who it is: URL, then `header NAME VALUE` or `protocols A,B` or nothing.

Prints the subprotocol behind `entered`, or the status behind `refused`.
"""

import asyncio
import sys

import websockets


async def main(url, how=None, *what):
    options = {"compression": None}
    if how == "header":
        options["additional_headers"] = [tuple(what)]
    if how == "protocols":
        options["subprotocols"] = what[0].split(",")
    try:
        async with websockets.connect(url, **options) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            print("entered", socket.subprotocol)
    except websockets.InvalidStatus as refused:
        print("refused", refused.response.status_code)


asyncio.run(main(*sys.argv[1:]))
