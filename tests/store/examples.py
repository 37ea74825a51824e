"""A key, a record and leases."""

from __future__ import annotations

from mge_cache_server.model import EntryKey
from mge_cache_server.store import LeaseOffer, Lookup

KEY = EntryKey("ns", bytes(range(32)))
RECORD = b"\x01header: the rest of the record"
HEADER = b"\x01header"
OURS = LeaseOffer(b"o" * 16, 60.0)
THEIRS = LeaseOffer(b"t" * 16, 60.0)
NOTHING = Lookup(None, 0.0, granted=False)
GRANTED = Lookup(None, 0.0, granted=True)
