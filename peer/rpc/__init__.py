"""gRPC: the room where asyncio lives."""

import asyncio

import trio_asyncio as trio_asyncio  # before grpclib: it needs this loop policy

# Outside Trio, asyncio stays what it was: without this, importing the peer would turn every
# asyncio.run of the program into a Trio run.
asyncio.set_event_loop_policy(asyncio.get_event_loop_policy())
