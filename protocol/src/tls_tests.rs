use super::*;
use rustls::{ClientConnection, ServerConnection};

/// Runs a handshake in memory; returns what each side thought of it.
fn handshake(client: ClientConfig, server: ServerConfig) -> Result<(Fingerprint, Fingerprint), Error> {
    let name = ServerName::try_from("kiln.invalid").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    let seen =
        |certificates: Option<&[CertificateDer<'_>]>| fingerprint_of(&certificates.unwrap()[0]).unwrap();
    Ok((seen(server.peer_certificates()), seen(client.peer_certificates())))
}

#[test]
fn both_sides_learn_the_others_key() {
    let (node, coordinator) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let client = client_config(&node, coordinator.fingerprint()).unwrap();
    let seen = handshake(client, server_config(&coordinator).unwrap()).unwrap();
    assert_eq!(seen, (node.fingerprint(), coordinator.fingerprint()));
}

#[test]
fn another_key_is_a_pin_mismatch_that_can_be_found() {
    let (node, pinned, other) =
        (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let client = client_config(&node, pinned.fingerprint()).unwrap();
    let error = handshake(client, server_config(&other).unwrap()).unwrap_err();
    let expected = PinMismatch { pinned: pinned.fingerprint(), found: other.fingerprint() };
    assert_eq!(PinMismatch::find(&error), Some(expected));
    assert_eq!(PinMismatch::find(&std::io::Error::other(error)), Some(expected));
}

/// The public half of a key as most services have.
struct RsaKey;

impl rcgen::PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &[0x30, 0x08, 0x02, 0x01, 0x5b, 0x02, 0x03, 0x01, 0x00, 0x01]
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::SigningKey for RsaKey {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![0x5b; 256])
    }
}

/// A certificate for so many names.
fn certificate(key: &impl rcgen::SigningKey, names: usize) -> CertificateDer<'static> {
    let names: Vec<String> = (0..names).map(|n| format!("service-{n}.example.net")).collect();
    rcgen::CertificateParams::new(names).unwrap().self_signed(key).unwrap().der().clone()
}

#[test]
fn another_key_is_a_pin_mismatch_in_whatever_form_it_is_shown() {
    let pinned = Identity::generate().unwrap();
    let verifier = PinnedServer { trust: pinned.fingerprint().into(), keys: Keys::new() };
    let verify = |certificate: &CertificateDer<'_>, chain: &[CertificateDer<'_>]| {
        let name = ServerName::try_from("kiln.invalid").unwrap();
        verifier.verify_server_cert(certificate, chain, &name, &[], UnixTime::now())
    };
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let large = certificate(&RsaKey, 500);
    assert!((MAX_CERTIFICATE * 4..MAX_FOREIGN_CERTIFICATE).contains(&large.len()), "{}", large.len());
    for shown in [certificate(&p256, 1), certificate(&ed25519, 1), certificate(&RsaKey, 1), large] {
        let parsed = ParsedCertificate::try_from(&shown).unwrap();
        let found = Fingerprint::of_spki(&parsed.subject_public_key_info());
        for chain in [&[][..], &[certificate(&RsaKey, 2)]] {
            let error = verify(&shown, chain).unwrap_err();
            let mismatch = PinMismatch { pinned: pinned.fingerprint(), found };
            assert_eq!(PinMismatch::find(&error), Some(mismatch), "{error}");
        }
    }
    // The pinned key is not taken in every form, and what has no end is not read.
    let own = rcgen::KeyPair::from_pem(pinned.to_pem().expose()).unwrap();
    assert!(verify(&certificate(&own, 1), &[]).is_ok());
    for (shown, chain) in [
        (certificate(&own, 1), &[certificate(&RsaKey, 2)][..]),
        (certificate(&own, 100), &[]),
        (certificate(&RsaKey, 4000), &[]),
        (vec![0x30; 300].into(), &[]),
    ] {
        let error = verify(&shown, chain).unwrap_err();
        assert!(PinMismatch::find(&error).is_none() && is_foreign_tls(&error), "{error}");
    }
}

#[test]
fn what_ends_tls_before_it_showed_a_key_is_told_from_what_is_only_broken() {
    use rustls::AlertDescription;
    let foreign = [
        Error::AlertReceived(AlertDescription::HandshakeFailure),
        Error::AlertReceived(AlertDescription::ProtocolVersion),
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into(),
    ];
    for error in foreign {
        assert!(is_foreign_tls(&error) && is_foreign_tls(&std::io::Error::other(error)));
    }
    for error in [Error::AlertReceived(AlertDescription::InternalError), Error::HandshakeNotComplete] {
        assert!(!is_foreign_tls(&error), "{error}");
    }
    assert!(!is_foreign_tls(&std::io::Error::other("reset")));
}

#[test]
fn a_pin_change_signed_by_the_recovery_key_passes_once_and_takes_nobody_back() {
    let (node, old, new) =
        (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let recovery = crate::recovery::RecoverySeed::generate();
    let trust = Trust { pin: old.fingerprint(), recovery: Some(recovery.public_key()), serial: 4 };
    let pass = |trust: Trust, change: PinChange, server: &Identity| {
        let server = server_config_after(server, &change).unwrap();
        handshake(client_config(&node, trust).unwrap(), server)
    };
    let change = recovery.change_pin(5, &new.fingerprint());
    let (seen, found) = pass(trust, change, &new).unwrap();
    assert_eq!((seen, found), (node.fingerprint(), new.fingerprint()));
    // Known already, an older one, a copied one, and one that nobody may believe.
    let after = Trust { pin: new.fingerprint(), serial: 5, ..trust };
    assert!(pass(after, change, &new).is_ok());
    for (trust, change, server) in [
        (trust, recovery.change_pin(4, &new.fingerprint()), &new),
        (after, recovery.change_pin(5, &old.fingerprint()), &old),
        (trust, change, &node),
        (Trust { recovery: None, ..trust }, change, &new),
    ] {
        let error = pass(trust, change, server).unwrap_err();
        assert!(PinMismatch::find(&error).is_some(), "{error}");
    }
}

#[test]
fn a_pin_change_signed_by_the_coordinator_itself_is_refused_before_the_client_shows_its_key() {
    let (node, old, new) =
        (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let recovery = crate::recovery::RecoverySeed::generate().public_key();
    let trust = Trust { pin: old.fingerprint(), recovery: Some(recovery), serial: 0 };
    // What a coordinator could sign with: its own key, or another it made.
    let own = old.sign(b"kiln/1 pin\0");
    let mut raw = [0; 64];
    raw.copy_from_slice(&own.as_bytes()[..64]);
    let by_itself = PinChange { serial: 1, signature: crate::identity::Signature::ed25519(&raw) };
    let by_another = crate::recovery::RecoverySeed::generate().change_pin(1, &new.fingerprint());
    for change in [by_itself, by_another] {
        let server = server_config_after(&new, &change).unwrap();
        let name = ServerName::try_from("kiln.invalid").unwrap();
        let config = Arc::new(client_config(&node, trust).unwrap());
        let mut client = ClientConnection::new(config, name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        let error = client.process_new_packets().unwrap_err();
        assert!(PinMismatch::find(&error).is_some(), "{error}");
        // What follows is an alert, from which the server learns no key.
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        assert!(server.process_new_packets().is_err());
        assert!(server.peer_certificates().is_none());
    }
}

#[test]
fn a_client_without_a_key_is_refused() {
    let coordinator = Identity::generate().unwrap();
    let mut config = client_config(&Identity::generate().unwrap(), coordinator.fingerprint()).unwrap();
    config.client_auth_cert_resolver = Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
        Arc::new(rustls::sign::CertifiedKey::new(
            Vec::new(),
            rustls::crypto::ring::sign::any_supported_type(&coordinator.private_key()).unwrap(),
        )),
    ));
    assert!(handshake(config, server_config(&coordinator).unwrap()).is_err());
}

#[test]
fn ed25519_and_chains_are_refused() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    assert!(fingerprint_of(certificate.der()).is_err());
    let ours = Identity::generate().unwrap().certificate();
    assert!(Keys::fingerprint(&ours, std::slice::from_ref(&ours)).is_err());
    assert!(fingerprint_of(&CertificateDer::from(vec![0x30; MAX_CERTIFICATE + 1])).is_err());
}
