"""native/tests/esp_shim.c through ctypes: the C sealing, opening and replay window without threads, sockets or TUN.

`ESP_SHIM` names a library to test (a sanitizer build, say); otherwise the meson target is used when it is newer than
every source, and a fresh one is compiled when it is not.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gateway.esp.dataplane import Encryption, Integrity
from gateway.esp.packet import Drop, EspKeys, Opened

ROOT = Path(__file__).parents[2]
SOURCES = ("aead_ipsecmb.c", "aead_openssl.c", "checksum.c", "coalesce.c", "esp.c", "inner.c", "replay.c", "segment.c")
ENGINES = {"ipsec-mb": 1, "libcrypto": 2}
ENCRYPTION = {encryption: number for number, encryption in enumerate(Encryption)}
INTEGRITY = {integrity: number for number, integrity in enumerate(Integrity)}
RESULTS = {1: Drop.TOO_SHORT, 2: Drop.INTEGRITY, 3: Drop.BAD_TRAILER}
STRIDE = 16384
BURST = 256


def library(scratch: Path) -> ctypes.CDLL:
    """The shim, compiled into `scratch` where nothing newer exists."""
    named = os.environ.get("ESP_SHIM")
    path = Path(named) if named else _built() or _compiled(scratch)
    shim = ctypes.CDLL(str(path))
    for name in ("shim_key_new", "shim_thread_new", "shim_replay_new"):
        getattr(shim, name).restype = ctypes.c_void_p
    shim.shim_engine_name.restype = ctypes.c_char_p
    shim.shim_replay_infer.restype = ctypes.c_uint64
    return shim


def _built() -> Path | None:
    newest = max(path.stat().st_mtime for path in (ROOT / "native").rglob("*.[ch]"))
    built = [path for path in ROOT.glob("build/*/native/tests/esp_shim.so") if path.stat().st_mtime > newest]
    return built[0] if built else None


def _compiled(scratch: Path) -> Path:
    output = scratch / "esp_shim.so"
    native = ROOT / "native"
    sources = [str(native / name) for name in SOURCES] + [str(native / "tests" / "esp_shim.c")]
    multibuffer = Path("/usr/include/intel-ipsec-mb.h").exists()
    flags = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-D_GNU_SOURCE", f"-I{native}"]
    flags += ["-DHAVE_IPSECMB"] if multibuffer else []
    libraries = ["-lcrypto", "-lpthread"] + (["-lIPSec_MB"] if multibuffer else [])
    subprocess.run(["cc", *flags, *sources, "-o", str(output), *libraries], check=True)
    return output


class ShimEsp:
    """One SA's key for one direction, and one thread's scratch, of one engine."""

    def __init__(self, shim: ctypes.CDLL, engine: str, keys: EspKeys, spi: int, *, seal: bool) -> None:
        self._shim = shim
        suite = keys.suite
        self.thread = ctypes.c_void_p(shim.shim_thread_new(ENGINES[engine]))
        self.key = ctypes.c_void_p(
            shim.shim_key_new(
                ENGINES[engine],
                ENCRYPTION[suite.encryption],
                INTEGRITY[suite.integrity],
                int(suite.esn),
                keys.encryption_key,
                ctypes.c_size_t(len(keys.encryption_key)),
                keys.integrity_key,
                ctypes.c_size_t(len(keys.integrity_key)),
                ctypes.c_uint32(spi),
                int(seal),
            )
        )
        if not self.key or not self.thread:
            raise ValueError("the shim refused the key")
        self.packets = ctypes.create_string_buffer(STRIDE * BURST)

    def close(self) -> None:
        self._shim.shim_key_free(self.key)
        self._shim.shim_thread_free(self.thread)

    def seal(self, payloads: Sequence[bytes], next_headers: Sequence[int], sequences: Sequence[int]) -> list[bytes]:
        """b"" where C refused."""
        count = len(payloads)
        lengths = (ctypes.c_size_t * count)()
        self._shim.shim_seal(
            self.thread,
            self.key,
            ctypes.c_size_t(count),
            b"".join(payloads),
            (ctypes.c_size_t * count)(*map(len, payloads)),
            bytes(next_headers),
            (ctypes.c_uint64 * count)(*sequences),
            self.packets,
            ctypes.c_size_t(STRIDE),
            lengths,
        )
        return [self._octets(i * STRIDE, lengths[i]) for i in range(count)]

    def open(self, packets: Sequence[bytes], sequences: Sequence[int]) -> list[Opened | Drop]:
        count = len(packets)
        for i, packet in enumerate(packets):
            ctypes.memmove(ctypes.byref(self.packets, i * STRIDE), packet, len(packet))
        offsets, lengths = (ctypes.c_size_t * count)(), (ctypes.c_size_t * count)()
        next_headers, results = (ctypes.c_uint8 * count)(), (ctypes.c_int * count)()
        self._shim.shim_open(
            self.thread,
            self.key,
            ctypes.c_size_t(count),
            self.packets,
            ctypes.c_size_t(STRIDE),
            (ctypes.c_size_t * count)(*map(len, packets)),
            (ctypes.c_uint64 * count)(*sequences),
            offsets,
            lengths,
            next_headers,
            results,
        )
        answers: list[Opened | Drop] = []
        for i in range(count):
            opened = Opened(self._octets(i * STRIDE + offsets[i], lengths[i]), next_headers[i])
            answers.append(RESULTS.get(results[i], opened))
        return answers

    def _octets(self, offset: int, count: int) -> bytes:
        return ctypes.string_at(ctypes.addressof(self.packets) + offset, count)
