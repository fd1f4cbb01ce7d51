"""Makes pkits.json.xz out of NIST's Public Key Interoperability Test Suite (PKITS, in the public domain).

    python tests/vectors/generate_pkits.py DIRECTORY      PKITS_data of the package cryptography-vectors

Of its certificates those that are about what this project does: signatures, validity, names, basicConstraints, keyUsage,
name constraints, extensions, and CRLs without deltas and indirection. Policies are not processed here.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from pathlib import Path

from cryptography import x509

ENDS = re.compile(
    r"(Valid|Invalid)(CertificatePath|CASignature|EESignature|CAnot|EEnot|pre2000UTC|Generalized|NameChaining(Test|Order)|NameUIDs"
    r"|RFC3280|UTF8StringEncoded|MissingCRL|RevokedCA|RevokedEE|BadCRL|WrongCRL|UnknownCRL|OldCRL|pre2000CRL|LongSerial|NegativeSerial"
    r"|MissingbasicConstraints|basicConstraints|cAFalse|pathLen|keyUsage|DNname|RFC822name|DNSname|URIname|DNandRFC822"
    r"|UnknownNotCritical|UnknownCritical|onlyContains|NoissuingDistributionPoint).*EE"
)


def main(directory: Path) -> None:
    certificates = {one.stem: one.read_bytes() for one in sorted((directory / "certs").glob("*.crt"))}
    parsed = {}
    for name, octets in certificates.items():
        try:
            parsed[name] = x509.load_der_x509_certificate(octets)
        except ValueError:
            continue
    ends = [name for name in parsed if ENDS.fullmatch(name)]
    wanted, names = set(ends) | {"TrustAnchorRootCertificate"}, {parsed[name].issuer for name in ends}
    for _ in range(8):
        found = {name for name, one in parsed.items() if not name.endswith("EE") and one.subject in names}
        wanted |= found
        names |= {parsed[name].issuer for name in found}
    crls = {}
    for one in sorted((directory / "crls").glob("*.crl")):
        octets = one.read_bytes()
        if len(octets) < 1000 and x509.load_der_x509_crl(octets).issuer in names | {parsed[n].issuer for n in wanted}:
            crls[one.stem] = octets
    text = {
        "certificates": {name: certificates[name].hex() for name in sorted(wanted)},
        "crls": {name: octets.hex() for name, octets in crls.items()},
    }
    target = Path(__file__).with_name("pkits.json.xz")
    target.write_bytes(lzma.compress(json.dumps(text).encode(), preset=9))
    print(len(ends), "end entities", len(wanted), "certificates", len(crls), "CRLs", target.stat().st_size, "octets")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
