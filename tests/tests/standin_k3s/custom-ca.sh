#!/usr/bin/env bash
# Makes the CA files of a k3s server in $1/server/tls as k3s's own
# contrib/util/generate-custom-ca-certs.sh does: an RSA root, an RSA
# intermediate, and an EC authority below it for each purpose, every .crt file
# a chain down from its authority. RSA keys are shorter here, to be made faster.
set -euo pipefail
tls="$1/server/tls"
mkdir -p "$tls/etcd"
cd "$tls"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/certs"
touch "$work/index"
openssl rand -hex 8 >"$work/serial"
cat >"$work/config" <<CONFIG
[ca]
default_ca = ca_default
[ca_default]
dir = $work
database = \$dir/index
serial = \$dir/serial
new_certs_dir = \$dir/certs
default_md = sha256
policy = policy_anything
[policy_anything]
commonName = supplied
[req]
distinguished_name = req_distinguished_name
[req_distinguished_name]
[v3_ca]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
basicConstraints = critical, CA:true
keyUsage = critical, digitalSignature, keyEncipherment, keyCertSign
CONFIG

# sign KEY NAME ISSUER OUT: a certificate for KEY by ISSUER.pem.
sign() {
    openssl req -new -nodes -config "$work/config" -subj "/CN=$2" -key "$1" |
        openssl ca -batch -notext -days 3700 -in /dev/stdin -out "$4" -keyfile "$3.key" -cert "$3.pem" \
            -config "$work/config" -extensions v3_ca
}

openssl genrsa -traditional -out service.key 2048
openssl genrsa -traditional -out "$work/root-ca.key" 2048
openssl req -x509 -new -nodes -sha256 -days 7300 -subj "/CN=k3s-root-ca@1" -key "$work/root-ca.key" \
    -out "$work/root-ca.pem" -config "$work/config" -extensions v3_ca
openssl genrsa -traditional -out "$work/intermediate-ca.key" 2048
sign "$work/intermediate-ca.key" "k3s-intermediate-ca@1" "$work/root-ca" "$work/intermediate-ca.pem"
for type in client server request-header etcd/peer etcd/server; do
    openssl ecparam -name prime256v1 -genkey -noout -out "$type-ca.key"
    sign "$type-ca.key" "k3s-${type/\//-}-ca@1" "$work/intermediate-ca" "$work/leaf.pem"
    cat "$work/leaf.pem" "$work/intermediate-ca.pem" "$work/root-ca.pem" >"$type-ca.crt"
done

# What a K10 token has to say: SHA-256 of the root's DER.
openssl x509 -in "$work/root-ca.pem" -outform DER | sha256sum | cut -d' ' -f1 >"$1/ca-hash"
