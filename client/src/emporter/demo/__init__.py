"""The whole way once, on one machine: a volume goes in through the bus and a block comes out over HTTP."""
