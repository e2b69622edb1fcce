"""`mindprint demo`: the whole loop on this machine, from engagements to adapters that answer, with real processes."""
