"""The MODP groups (RFC 2409 6.2, RFC 3526), computed from their defining formula.

p = 2^n - 2^(n-64) - 1 + 2^64 * ( [2^(n-130) pi] + c ): the RFCs give c; the primes follow, so that no
digit can be mistyped. Generator 2 throughout.
"""

from __future__ import annotations

from gateway.ike.registry import KeyExchangeId

_CONSTANTS = {
    KeyExchangeId.MODP_1024: (1024, 129093),
    KeyExchangeId.MODP_2048: (2048, 124476),
    KeyExchangeId.MODP_3072: (3072, 1690314),
    KeyExchangeId.MODP_4096: (4096, 240904),
}


def _arctan_inverse(denominator: int, unit: int) -> int:
    """unit * arctan(1/denominator) by its series."""
    term = total = unit // denominator
    square, divisor, sign = denominator * denominator, 3, -1
    while term:
        term //= square
        total += sign * (term // divisor)
        divisor, sign = divisor + 2, -sign
    return total


def _scaled_pi(bits: int) -> int:
    """[2^bits * pi], by Machin's formula with 64 guard bits."""
    unit = 1 << (bits + 64)
    return (4 * (4 * _arctan_inverse(5, unit) - _arctan_inverse(239, unit))) >> 64


def _prime(bits: int, constant: int) -> int:
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((_scaled_pi(bits - 130) + constant) << 64)


MODP_PRIMES: dict[int, int] = {method: _prime(*parameters) for method, parameters in _CONSTANTS.items()}
