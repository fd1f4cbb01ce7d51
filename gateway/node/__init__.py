"""The whole gateway as one deterministic machine: inputs in, effects out (gateway/contract.py)."""
