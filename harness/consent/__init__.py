"""Who agreed to what: the ledger, the gate that asks it, and the cards that describe data."""
