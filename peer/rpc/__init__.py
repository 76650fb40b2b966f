"""gRPC: the room where asyncio lives."""

import trio_asyncio as trio_asyncio  # before grpclib: it needs this loop policy
