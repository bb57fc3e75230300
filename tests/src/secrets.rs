//! Looks for secrets where they must not be, in every form in which a program
//! may have said or written one.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use data_encoding::{HEXLOWER, HEXUPPER};

/// What is shorter occurs by chance.
const SHORTEST: usize = 12;

/// A log that keeps everything, to be searched afterwards; its clones write to the same one.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was written so far.
    pub fn kept(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Secrets, each under a name, in all their forms.
#[derive(Debug, Default)]
pub struct Secrets {
    needles: Vec<(String, Vec<u8>)>,
}

impl Secrets {
    /// Bytes: as they are, in hexadecimal, in base64 wherever they stand in what
    /// was encoded, and as `Debug` prints them.
    ///
    /// # Panics
    /// If they are so few that they occur by chance.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        assert!(bytes.len() >= SHORTEST, "{name} is too short to be looked for");
        let decimal = format!("{bytes:?}");
        let decimal = decimal.trim_matches(['[', ']']).to_owned();
        self.add(name, bytes.to_vec());
        for form in [HEXLOWER.encode(bytes), HEXUPPER.encode(bytes), decimal] {
            self.add(name, form.into_bytes());
        }
        for before in 0..3 {
            let padded = [&[0; 2][..before], bytes].concat();
            for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                // Without the characters that hold bits of a neighbour.
                let (skip, cut) = (before + before.min(1), usize::from(padded.len() % 3 != 0));
                self.add(name, encoded.as_bytes()[skip..encoded.len() - cut].to_vec());
            }
        }
    }

    /// A token or a password: as it is, and as bytes are looked for.
    pub fn text(&mut self, name: &str, text: &str) {
        self.bytes(name, text.trim().as_bytes());
    }

    /// A private elliptic-curve key in PEM, PKCS#8 or SEC 1: the document's
    /// bytes, its secret number, and those of its lines that hold some of that.
    ///
    /// # Panics
    /// If it is none.
    pub fn key(&mut self, name: &str, pem: &str) {
        let lines: Vec<&str> = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(lines.concat()).expect("a PEM document is base64");
        // version 1, then an OCTET STRING of 32 bytes (RFC 5915)
        let begin = der.windows(5).position(|part| part == [2, 1, 1, 4, 32]).expect("an EC private key") + 5;
        let secret = begin..begin + 32;
        self.bytes(name, &der[secret.clone()]);
        self.bytes(name, &der);
        let mut at = 0;
        for line in lines {
            let end = at + line.len() / 4 * 3;
            if secret.end.min(end).saturating_sub(secret.start.max(at)) >= SHORTEST {
                self.add(name, line.as_bytes().to_vec());
            }
            at = end;
        }
    }

    /// A ticket: its text, and its seed, which stands before the checksum.
    ///
    /// # Panics
    /// If it is none.
    pub fn ticket(&mut self, name: &str, text: &str) {
        let encoded = text.strip_prefix("kiln1.").expect("a ticket begins with its kind");
        let bytes = URL_SAFE_NO_PAD.decode(encoded).expect("a ticket is base64url");
        self.text(name, text);
        self.bytes(name, &bytes[bytes.len() - 36..bytes.len() - 4]);
    }

    /// What is in the file of an unlock key.
    ///
    /// # Panics
    /// If it is none.
    pub fn unlock_key(&mut self, name: &str, file: &str) {
        let encoded = file.trim().strip_prefix("kiln-unlock-1-").expect("an unlock key begins with its kind");
        self.bytes(name, &URL_SAFE_NO_PAD.decode(encoded).expect("an unlock key is base64url"));
    }

    /// A recovery key: its text, and the part of it that is no prefix.
    pub fn recovery_key(&mut self, name: &str, text: &str) {
        let text = text.trim();
        self.text(name, text);
        self.text(name, &text[text.len() - 40..]);
    }

    /// The private key in a kubeconfig, as it stands there and as it is.
    ///
    /// # Panics
    /// If there is none.
    pub fn kubeconfig(&mut self, name: &str, yaml: &str) {
        let data = yaml.lines().find_map(|line| line.trim().strip_prefix("client-key-data:"));
        let data = data.expect("a kubeconfig has a client's key").trim();
        let pem = STANDARD.decode(data).expect("a kubeconfig's data is base64");
        self.text(name, data);
        self.key(name, std::str::from_utf8(&pem).expect("a PEM document is text"));
    }

    /// Whatever a JSON document hides: private keys, tokens, passwords.
    pub fn document(&mut self, name: &str, document: &serde_json::Value) {
        match document {
            serde_json::Value::String(text) if text.contains("PRIVATE KEY") => self.key(name, text),
            serde_json::Value::String(text) if text.starts_with("K10") => self.token(name, text),
            serde_json::Value::Array(all) => all.iter().for_each(|value| self.document(name, value)),
            serde_json::Value::Object(all) => {
                for (field, value) in all {
                    let name = format!("{name}.{field}");
                    match value {
                        serde_json::Value::String(text)
                            if field.contains("password") || field.contains("secret") =>
                        {
                            self.text(&name, text);
                        }
                        other => self.document(&name, other),
                    }
                }
            }
            _ => {}
        }
    }

    /// A k3s token, `K10<hash>::<user>:<password>` or `K10<hash>::<id>.<secret>`:
    /// all of it, and the part that is secret.
    fn token(&mut self, name: &str, token: &str) {
        self.text(name, token);
        let secret = token.rsplit([':', '.']).next().unwrap_or(token);
        self.text(name, secret);
    }

    fn add(&mut self, name: &str, form: Vec<u8>) {
        self.needles.push((name.to_owned(), form));
    }

    /// How many forms of how many secrets are looked for.
    pub fn count(&self) -> (usize, usize) {
        let names: BTreeSet<&str> = self.needles.iter().map(|(name, _)| name.as_str()).collect();
        (self.needles.len(), names.len())
    }

    /// The names of the secrets that occur in any of these bytes, with each
    /// place's own name.
    ///
    /// # Panics
    /// If it would not find each form of each secret: a search that cannot
    /// succeed proves nothing.
    pub fn find<'a>(
        &self,
        places: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> BTreeSet<(String, String)> {
        let forms = self.needles.iter().map(|(_, form)| form);
        let finder = AhoCorasick::new(forms).expect("the forms of all secrets fit into a finder");
        let named = |bytes: &[u8]| -> BTreeSet<&str> {
            finder.find_overlapping_iter(bytes).map(|hit| self.needles[hit.pattern()].0.as_str()).collect()
        };
        for (name, form) in &self.needles {
            let planted = [b"level=trace said=\"", &form[..], b"\""].concat();
            assert!(named(&planted).contains(name.as_str()), "{name} would not be found");
        }
        let found = |(place, bytes): (&str, &[u8])| -> Vec<(String, String)> {
            named(bytes).into_iter().map(|name| (place.to_owned(), name.to_owned())).collect()
        };
        places.into_iter().flat_map(found).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_whatever_it_was_encoded_in() {
        let secret: Vec<u8> = (100..132).collect();
        let mut secrets = Secrets::default();
        secrets.bytes("seed", &secret);
        for before in 0..6 {
            for after in 0..4 {
                let around = [vec![7; before], secret.clone(), vec![9; after]].concat();
                for said in [
                    around.clone(),
                    STANDARD.encode(&around).into_bytes(),
                    URL_SAFE_NO_PAD.encode(&around).into_bytes(),
                    HEXLOWER.encode(&around).into_bytes(),
                    format!("{around:?}").into_bytes(),
                ] {
                    let found = secrets.find([("log", said.as_slice())]);
                    assert_eq!(found.len(), 1, "{before} {after} {}", String::from_utf8_lossy(&said));
                }
            }
        }
        let mut other = secret.clone();
        other[16] ^= 1;
        assert!(secrets.find([("log", other.as_slice())]).is_empty());
    }

    #[test]
    fn a_key_is_found_by_its_lines_and_its_number_and_not_by_its_public_half() {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let mut secrets = Secrets::default();
        secrets.key("key", &pair.serialize_pem());
        let indented = pair.serialize_pem().replace('\n', "\\n      ");
        assert_eq!(secrets.find([("file", indented.as_bytes())]).len(), 1);
        let certificate = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate");
        for public in [certificate.pem().as_bytes(), certificate.der(), pair.public_key_pem().as_bytes()] {
            assert!(secrets.find([("file", public)]).is_empty());
        }
    }

    #[test]
    fn a_document_gives_up_its_keys_tokens_and_passwords() {
        let mut secrets = Secrets::default();
        let token = "K10aaaaaaaa::server:0123456789abcdef";
        let document = serde_json::json!({
            "k3s": {"token": token, "node_password": "fedcba9876543210", "name": "s1-which-is-no-secret"},
        });
        secrets.document("s1", &document);
        assert_eq!(secrets.count().1, 2);
        let found = secrets.find([("a", &b"x 0123456789abcdef"[..]), ("b", &b"s1-which-is-no-secret"[..])]);
        assert_eq!(found.into_iter().map(|(place, _)| place).collect::<Vec<_>>(), ["a"]);
    }
}
