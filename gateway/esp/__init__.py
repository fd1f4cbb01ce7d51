"""ESP (RFC 4303): the vocabulary of the data plane, the SAD and SPD as Python sees them, the oracle."""
