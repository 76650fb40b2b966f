"""A process that was not launched and wants to register: says how the peer answered.

Usage: stranger.py NAME ADDRESS
"""

import asyncio
import sys

from wire import ADDRESS, status_of

print(asyncio.run(status_of(ADDRESS, sys.argv[1])))
