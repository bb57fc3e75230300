//! Getting inputs, and what may be wrong with them.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;

use kiln_tests::mirror::Mirror;
use kiln_tests::process::{start, wait_until};
use kiln_tests::run;

use crate::world::{CLOSED, ISO, ISOS, RELEASE, SOON, VAULT, World, medium, sha256};

/// Some of a medium, and not all of it.
const HALF: u64 = 1 << 20;

fn iso_path() -> String {
    format!("/{ISOS}/{ISO}")
}

#[test]
fn with_nothing_given_the_newest_media_and_the_release_are_meant_and_then_no_network_is_needed() {
    let world = World::new();
    world.inputs(&["--airgap"]).success().says(&["downloading AlmaLinux-9.5-x86_64-dvd.iso"]);
    assert_eq!(world.mirror.count(&iso_path()), 1);
    assert_eq!(world.mirror.count("/k3s/v1.28.5%2Bk3s1/k3s"), 1);
    assert!(world.partials().is_empty());

    let asked = world.mirror.asked().len();
    world.inputs(&["--airgap", "--offline"]).success();
    assert_eq!(world.mirror.asked().len(), asked, "asked although it is offline");
}

#[test]
fn a_network_that_went_away_is_made_up_for_by_the_cache() {
    let world = World::new();
    let url = world.mirror.url("");
    run(world.bake_from(&url, &["--fetch"]), SOON).success();
    // The same places, and nobody there: through a proxy that is not.
    let mut alone = world.bake_from(&url, &["--fetch"]);
    alone.env("HTTP_PROXY", CLOSED);
    run(alone, SOON).success().says(&["going by what was there"]);
}

#[test]
fn without_a_network_and_a_cache_it_says_what_to_do() {
    let world = World::new();
    let outcome = world.inputs(&["--offline"]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    outcome.says(&["k3s", "is not in the cache", "--offline"]);
    let outcome = run(world.bake_from(&format!("{CLOSED}/"), &["--fetch"]), SOON).code(1);
    outcome.says(&["could not be downloaded", CLOSED, "refused", "check the network"]);
}

#[test]
fn a_list_that_is_not_signed_by_the_right_key_is_refused_and_nothing_is_downloaded() {
    let world = World::new();
    let good = fs::read_to_string(world.served(&format!("{ISOS}/CHECKSUM"))).unwrap();
    let digest = sha256(medium());
    let other = World::new();
    for (list, why) in [
        (good.replace(&digest, &sha256(b"planted")), "is not signed by"),
        (other.signed(&format!("SHA256 ({ISO}) = {digest}\n")), "is not signed by"),
        (format!("SHA256 ({ISO}) = {digest}\n"), "no CHECKSUM.asc beside it"),
        ("<html>captive portal</html>".to_owned(), "no CHECKSUM.asc beside it"),
    ] {
        world.put(&format!("{ISOS}/CHECKSUM"), list.as_bytes());
        world.inputs(&[]).code(2).says(&["CHECKSUM", why, "--iso-key"]);
    }
    assert_eq!(world.mirror.count(&iso_path()), 0);
    // AlmaLinux's own key is the one that counts when no other is named.
    let mut command =
        world.builder(&["bake", "--version", kiln_tests::lab::VERSION, "--fetch", "--no-k3s-selinux"]);
    command.arg("--k3s").arg(kiln_tests::lab().k3s()).arg("--agent").arg(kiln_tests::lab().agent());
    command.args(["--almalinux-mirror", &world.mirror.url("almalinux")]);
    world.put(&format!("{ISOS}/CHECKSUM"), good.as_bytes());
    run(command, SOON).code(2).says(&["is not signed by BF18AC2876178908D6E71267D36CB86CB86B3716"]);
}

#[test]
fn a_medium_that_was_put_away_is_found_in_the_vault() {
    let world = World::new();
    world.put_media(VAULT);
    world.remove(&format!("{ISOS}/{ISO}"));
    world.remove(&format!("{ISOS}/CHECKSUM"));
    let url = world.mirror.url(&format!("{ISOS}/{ISO}"));
    let outcome = world.inputs(&["--iso", &url]).success();
    outcome.says(&[&format!("was found at {}", world.mirror.url(&format!("{VAULT}/{ISO}")))]);
}

#[test]
fn what_is_not_there_is_called_so() {
    let world = World::new();
    let url = world.mirror.url("elsewhere/AlmaLinux.iso");
    let outcome = world.inputs(&["--iso", &url]).code(2);
    outcome.says(&[&url, "404 Not Found", "pass AlmaLinux 9's DVD image"]);
    let mut command = world.builder(&["bake", "--version", "alma9-k3-node-amd64-v1.28.99-v1", "--fetch"]);
    command.arg("--no-k3s-selinux");
    command.args(["--k3s-mirror", &world.mirror.url("k3s")]).arg("--agent").arg(kiln_tests::lab().agent());
    run(command, SOON).code(2).says(&["there is no k3s of k3s v1.28.99+k3s1", "pass the binary"]);
}

#[test]
fn a_digest_behind_a_url_counts_and_a_wrong_one_costs_no_second_download() {
    let world = World::new();
    let url = world.mirror.url(&format!("{RELEASE}/k3s"));
    let (right, wrong) = (sha256(&fs::read(kiln_tests::lab().k3s()).unwrap()), sha256(b"mistyped"));
    let outcome = world.inputs(&["--k3s", &format!("{url}#sha256={wrong}")]).code(1);
    outcome.says(&[&format!("has the digest {right}, not {wrong}")]);
    let before = world.mirror.asked().iter().filter(|asked| asked.path.ends_with("/k3s")).count();
    world.inputs(&["--k3s", &format!("{url}#sha256={right}")]).success();
    let after = world.mirror.asked().iter().filter(|asked| asked.path.ends_with("/k3s")).count();
    assert_eq!(before, after, "downloaded again");
}

#[test]
fn what_nobody_vouches_for_is_taken_with_a_warning() {
    let world = World::new();
    let k3s = fs::read(kiln_tests::lab().k3s()).unwrap();
    world.put("own/k3s", &k3s);
    let outcome = world.inputs(&["--k3s", &world.mirror.url("own/k3s")]).success();
    outcome.says(&["nothing vouches for", "own/k3s", &sha256(&k3s)]);
}

#[test]
fn a_builder_that_was_killed_half_way_leaves_what_the_next_one_continues() {
    let world = World::new();
    world.mirror.hold(&iso_path(), HALF);
    let mut first = start(world.bake(&["--fetch"]));
    let data = || world.partials().into_iter().find(|path| path.ends_with("data"));
    let size = || data().and_then(|path| fs::metadata(path).ok()).map_or(0, |metadata| metadata.len());
    wait_until(SOON, || size() == HALF || first.ended()).unwrap();
    first.signal("KILL");
    wait_until(SOON, || first.ended()).unwrap();
    world.mirror.release();

    let listed = run(world.builder(&["cache", "prune"]), SOON).success();
    listed.says(&["partial", ISO, "with --yes it is removed"]);
    run(world.builder(&["gc"]), SOON).success().says(&["stopped half-way", ISO]);
    let left = run(world.builder(&["gc", "--json"]), SOON).success().stdout;
    let left: serde_json::Value = serde_json::from_str(&left).unwrap();
    assert_eq!((&left["removed"], &left["problems"]), (&false.into(), &serde_json::json!([])), "{left:#}");
    assert_eq!(left["downloads"][0]["size"], HALF, "{left:#}");
    assert!(left["downloads"][0]["url"].as_str().unwrap().ends_with(ISO), "{left:#}");
    assert!(left["runs"][0]["what"].as_str().unwrap().starts_with("bake --fetch"), "{left:#}");
    assert_eq!(size(), HALF, "a dry run removed it");
    world.inputs(&[]).success();
    let ranges: Vec<_> = world
        .mirror
        .asked()
        .into_iter()
        .filter(|asked| asked.path == iso_path())
        .map(|asked| asked.range)
        .collect();
    assert_eq!(ranges, [None, Some(format!("bytes={HALF}-"))]);
    assert!(world.partials().is_empty());
}

#[test]
fn two_builders_share_one_download_and_the_second_says_what_it_waits_for() {
    let world = World::new();
    world.mirror.hold(&iso_path(), HALF);
    let first = start(world.bake(&["--fetch"]));
    wait_until(SOON, || world.mirror.is_holding(&iso_path())).unwrap();
    let said = world.path("second.log");
    let mut second = world.bake(&["--fetch"]);
    second.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
    let mut second = second.spawn().unwrap();
    let waits = format!("waiting for another builder that downloads {ISO}");
    let waiting = wait_until(SOON, || fs::read_to_string(&said).unwrap().contains(&waits));
    world.mirror.release();
    first.wait(SOON).success();
    wait_until(SOON, || second.try_wait().unwrap().is_some()).unwrap();
    assert!(second.wait().unwrap().success(), "{}", fs::read_to_string(&said).unwrap());
    waiting.expect(&waits);
    assert_eq!(world.mirror.count(&iso_path()), 1);
    assert!(
        !world.cache().join("locks").exists()
            || fs::read_dir(world.cache().join("locks")).unwrap().count() == 0
    );
}

#[test]
fn https_is_checked_and_never_leads_to_http() {
    let world = World::new();
    let (config, authority) = certificate();
    let secure = Mirror::start_tls(&world.served(""), config);
    let bundle = world.path("ca.pem");
    fs::write(&bundle, authority).unwrap();
    let mut command = world.bake_from(&secure.url(""), &["--fetch"]);
    command.env("SSL_CERT_FILE", &bundle);
    run(command, SOON).success();

    // The host's own authorities do not know that certificate.
    fs::remove_dir_all(world.cache()).unwrap();
    let outcome = run(world.bake_from(&secure.url(""), &["--fetch"]), SOON).code(1);
    outcome.says(&["could not be downloaded", "certificate"]);

    secure.redirect(
        &format!("/{RELEASE}/k3s").replace('+', "%2B"),
        &world.mirror.url(&format!("{RELEASE}/k3s")),
    );
    let mut command = world.bake_from(&secure.url(""), &["--fetch"]);
    command.env("SSL_CERT_FILE", &bundle);
    run(command, SOON).code(1).says(&["redirects from https to http"]);
}

/// A server's configuration, and the authority that signed its certificate.
fn certificate() -> (Arc<rustls::ServerConfig>, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    (Arc::new(config), authority.pem())
}

#[test]
fn a_proxy_is_asked_when_the_environment_names_one() {
    let world = World::new();
    // Serves what is below its root whatever the host, as a proxy would.
    let mut command = world.bake_from("http://mirror.kiln.invalid/", &["--fetch"]);
    command.env("HTTP_PROXY", world.mirror.url(""));
    run(command, SOON).success();
    assert!(world.mirror.count(&format!("http://mirror.kiln.invalid/{ISOS}/{ISO}")) == 1);
}
