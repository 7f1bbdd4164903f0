"""One adapter a peer; each is imported in the peer's own environment only."""
