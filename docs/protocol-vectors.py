#!/usr/bin/env python3
"""Checks protocol-vectors.json against a second implementation of protocol.md.

Written from the text of protocol.md, with the standard library alone: HKDF from
RFC 5869, Ed25519 after the reference code in RFC 8032, section 6. Slow, and not
to be used for anything but this check. Prints what it checked; exits 1 at the
first difference.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import pathlib
import sys

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def hkdf_sha256(secret, info, length):
    pseudorandom_key = hmac.digest(bytes(32), secret, "sha256")
    block, out, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(pseudorandom_key, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:length]


def add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def recover_x(y, sign):
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return P - x if x & 1 != sign else x


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def compress(point):
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def expand(private):
    digest = hashlib.sha512(private).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | (1 << 254)
    return scalar, digest[32:]


def ed25519_public(private):
    return compress(multiply(expand(private)[0], BASE))


def ed25519_sign(private, message):
    def number(data):
        return int.from_bytes(hashlib.sha512(data).digest(), "little") % L

    scalar, prefix = expand(private)
    r = number(prefix + message)
    point = compress(multiply(r, BASE))
    s = (r + number(point + ed25519_public(private) + message) * scalar) % L
    return point + s.to_bytes(32, "little")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def address(text):
    host, port = text.rsplit(":", 1)
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        data = bytes([ip.version]) + ip.packed
    except ValueError:
        data = bytes([1, len(host)]) + host.encode()
    return data + int(port).to_bytes(2, "big")


def ticket_text(ticket):
    addresses = ticket["addresses"]
    body = bytes([0, len(addresses)]) + b"".join(map(address, addresses))
    body += bytes.fromhex(ticket["pin"]) + bytes.fromhex(ticket["seed"])
    return "kiln1." + base64url(body + hashlib.sha256(b"kiln1." + body).digest()[:4])


def vectors(given):
    """Computes every derived value from what is given."""
    for key in given["fingerprints"]:
        yield key["name"], "fingerprint", hashlib.sha256(bytes.fromhex(key["spki"])).hexdigest(), key
    for ticket in given["tickets"]:
        private = hkdf_sha256(bytes.fromhex(ticket["seed"]), b"kiln/1 ticket key", 32)
        message = b"kiln/1 enrol\0" + bytes.fromhex(ticket["pin"]) + bytes.fromhex(ticket["node"])
        yield ticket["name"], "text", ticket_text(ticket), ticket
        yield ticket["name"], "private", private.hex(), ticket
        yield ticket["name"], "public", base64url(ed25519_public(private)), ticket
        yield ticket["name"], "proof", base64url(ed25519_sign(private, message)), ticket


def main():
    # Section 7.1 of RFC 8032, test 1: this implementation is one of Ed25519.
    known = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519_public(known).hex().startswith("d75a980182b10ab7d54bfed3c964073a")
    path = pathlib.Path(__file__).with_suffix(".json")
    document = json.loads(path.read_text())
    rewrite = sys.argv[1:] == ["--rewrite"]
    for name, what, computed, holder in vectors(document):
        if rewrite:
            holder[what] = computed
        elif holder.get(what) != computed:
            sys.exit(f"{name}: {what} is {holder.get(what)}, computed {computed}")
        else:
            print(f"{name}: {what} agrees")
    if rewrite:
        path.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
