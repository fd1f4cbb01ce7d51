"""gatewayd: a userspace IPsec/BGP data-plane gateway.

The rooms and the rules between them are described in docs/ARCHITECTURE.md and enforced by the
import contracts in pyproject.toml.
"""

__version__ = "0.1.0"
