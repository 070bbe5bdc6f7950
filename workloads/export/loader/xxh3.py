"""XXH3 with 64 bits of a byte string, seed 0, in plain Python: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md."""

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6"
    "813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c8"
    "9f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95"
    "160428afd7fbcabb4b407e"
)
MASK, LOW = (1 << 64) - 1, (1 << 32) - 1
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SMALL1, SMALL2, SMALL3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
STRIPE, BLOCK = 64, 1024


def xxh3(data: bytes) -> int:
    """The hash, a number below 2**64."""
    size = len(data)
    if size <= 16:
        return _short(data, size)
    if size <= 240:
        return _medium(data, size)
    return _long(data, size)


def _short(data: bytes, size: int) -> int:
    if size > 8:
        low = _read(data, 0) ^ _read(SECRET, 24) ^ _read(SECRET, 32)
        high = _read(data, size - 8) ^ _read(SECRET, 40) ^ _read(SECRET, 48)
        return _avalanche(size + int.from_bytes(low.to_bytes(8, "little"), "big") + high + _fold(low, high))
    if size > 3:
        first, last = int.from_bytes(data[:4], "little"), int.from_bytes(data[-4:], "little")
        value = (last + (first << 32)) ^ _read(SECRET, 8) ^ _read(SECRET, 16)
        value ^= _rotated(value, 49) ^ _rotated(value, 24)
        value = value * 0x9FB21C651E98DF25 & MASK
        value ^= (value >> 35) + size
        value = value * 0x9FB21C651E98DF25 & MASK
        return value ^ (value >> 28)
    if size:
        packed = data[0] << 16 | data[size >> 1] << 24 | data[-1] | size << 8
        return _avalanche_64(packed ^ (_read(SECRET, 0) & LOW) ^ (_read(SECRET, 4) & LOW))
    return _avalanche_64(_read(SECRET, 56) ^ _read(SECRET, 64))


def _medium(data: bytes, size: int) -> int:
    total = size * P1
    if size <= 128:
        for at in range((size - 1) // 32 + 1):
            total += _mixed(data, 16 * at, 32 * at) + _mixed(data, size - 16 * (at + 1), 32 * at + 16)
        return _avalanche(total)
    total = _avalanche(total + sum(_mixed(data, 16 * at, 16 * at) for at in range(8)))
    total += sum(_mixed(data, 16 * at, 16 * (at - 8) + 3) for at in range(8, size // 16))
    return _avalanche(total + _mixed(data, size - 16, 119))


def _long(data: bytes, size: int) -> int:
    sums = [SMALL3, P1, P2, P3, P4, SMALL2, P5, SMALL1]
    for start in range(0, (size - 1) // STRIPE * STRIPE, STRIPE):
        _accumulate(sums, data, start, start % BLOCK // 8)
        if start % BLOCK == BLOCK - STRIPE:
            sums[:] = [(each ^ (each >> 47) ^ _read(SECRET, 128 + 8 * at)) * SMALL1 & MASK for at, each in enumerate(sums)]
    _accumulate(sums, data, size - STRIPE, 121)
    pairs = [_fold(sums[at] ^ _read(SECRET, 11 + 8 * at), sums[at + 1] ^ _read(SECRET, 19 + 8 * at)) for at in (0, 2, 4, 6)]
    return _avalanche(size * P1 + sum(pairs))


def _accumulate(sums: list[int], data: bytes, start: int, secret: int) -> None:
    for at in range(8):
        value = _read(data, start + 8 * at)
        key = value ^ _read(SECRET, secret + 8 * at)
        sums[at ^ 1] = (sums[at ^ 1] + value) & MASK
        sums[at] = (sums[at] + (key & LOW) * (key >> 32)) & MASK


def _mixed(data: bytes, at: int, secret: int) -> int:
    return _fold(_read(data, at) ^ _read(SECRET, secret), _read(data, at + 8) ^ _read(SECRET, secret + 8))


def _read(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & MASK


def _fold(one: int, other: int) -> int:
    product = one * other
    return (product ^ product >> 64) & MASK


def _avalanche(value: int) -> int:
    value &= MASK
    value = (value ^ value >> 37) * 0x165667919E3779F9 & MASK
    return value ^ value >> 32


def _avalanche_64(value: int) -> int:
    value = (value ^ value >> 33) * P2 & MASK
    value = (value ^ value >> 29) * P3 & MASK
    return value ^ value >> 32
