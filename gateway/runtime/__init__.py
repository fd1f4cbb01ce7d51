"""The shell: the only code that knows asyncio, sockets, netlink, processes and the clock."""
