"""IKEv2 (RFC 7296) as a deterministic core: datagrams, commands and time in; effects out."""
