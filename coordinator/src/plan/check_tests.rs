use super::*;
use crate::plan::fixtures::{DEV, edited};
use proptest::prelude::*;

fn error(from: &str, to: &str) -> PlanError {
    assert!(DEV.contains(from), "{from:?} is not in the file");
    ClusterFile::parse(&DEV.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn the_designs_example_is_valid() {
    let plan = edited(&[]);
    assert_eq!((plan.name().as_str(), plan.k3s().as_str()), ("home", "v1.28.5+k3s1"));
    assert_eq!(
        (plan.image().as_str(), plan.provider()),
        ("alma9-k3-node-amd64-v1.28.5-v1", ProviderKind::Proxmox)
    );
    let node = plan.first_server();
    assert_eq!(
        (node.name.as_str(), node.cores, node.memory.bytes(), node.disk.bytes()),
        ("k3s-s1", 4, 24 << 30, 32 << 30)
    );
    let address = node.static_address().unwrap();
    assert_eq!(address.address.to_string(), "10.23.45.31/24");
    assert_eq!(address.gateway.unwrap().to_string(), "10.23.45.1");
    assert_eq!(plan.first_server_address().to_string(), "10.23.45.31:6443");
    assert_eq!(plan.network(), None, "the network is the house's, not made by the provider");
}

#[test]
fn each_fault_is_named_with_its_place() {
    for (from, to, line, what) in [
        ("v1.28.5+k3s1", "v1.28.6+k3s1", 5, "the image holds k3s v1.28.5"),
        ("\"server\"", "\"agent\"", 3, "role = \"server\""),
        ("k3s-a1", "k3s-s1", 18, "a second node is named k3s-s1"),
        ("k3s-a1", "K3S-a1", 18, "node name"),
        ("k3s-a1", "../a1", 18, "node name"),
        ("10.23.45.32/24", "10.23.46.32/24", 23, "not in the cluster's network"),
        ("10.23.45.32/24", "10.23.45.32/25", 23, "not in the cluster's network"),
        ("10.23.45.32/24", "10.23.45.31/24", 23, "already k3s-s1's"),
        ("10.23.45.32/24", "10.23.45.0/24", 23, "of a network"),
        ("10.23.45.32/24", "10.23.45.32", 23, "with its prefix length"),
        ("gateway = \"10.23.45.1\"", "gateway = \"10.23.46.1\"", 14, "outside the network"),
        ("gateway = \"10.23.45.1\"", "gateway = \"10.23.45.32\"", 14, "is the address of node k3s-a1"),
        ("24GiB", "24GB", 11, "write 24GiB"),
        ("24GiB", "10MiB", 11, "at least 256MiB"),
        ("32GiB", "512MiB", 12, "at least 1GiB"),
        ("cores = 4", "cores = 0", 10, "between 1 and 512"),
        ("cores = 4", "cores = 4\nkores = 5", 11, "unknown field"),
        ("\"proxmox\"", "\"vmware\"", 6, "unknown variant"),
        ("role = \"agent\"", "role = \"server\"", 19, "odd number"),
        ("role = \"agent\"", "role = \"agent\"\nmac = \"01:00:5e:00:00:01\"", 20, "multicast"),
        ("name = \"home\"", "name = ", 3, ""),
    ] {
        let error = error(from, to);
        assert_eq!(error.line, line, "{error} ({from} -> {to})");
        assert!(error.message.contains(what), "{error} ({from} -> {to})");
    }
}

#[test]
fn the_column_points_at_the_value() {
    let error = error("24GiB", "24GB");
    assert_eq!((error.line, error.column), (11, 10));
    assert!(error.to_string().starts_with("line 11, column 10: size \"24GB\""), "{error}");
}

#[test]
fn equal_macs_are_refused() {
    let mac = "role = \"server\"\nmac = \"52:54:00:00:00:01\"";
    let text =
        DEV.replace("role = \"server\"", mac).replace("role = \"agent\"", &mac.replace("server", "agent"));
    let error = ClusterFile::parse(&text).unwrap_err();
    assert!(error.message.contains("is already k3s-s1's"), "{error}");
}

#[test]
fn a_server_without_an_address_is_refused_where_none_is_given_out() {
    let text = DEV.replace("address = \"10.23.45.31/24\"\n", "").replace("gateway = \"10.23.45.1\"\n", "");
    let error = ClusterFile::parse(&text).unwrap_err();
    assert!(error.message.contains("server k3s-s1 needs an address"), "{error}");
    let agent = DEV.replace("address = \"10.23.45.32/24\"\n", "");
    let plan = ClusterFile::parse(&agent).unwrap();
    assert_eq!(plan.nodes()[1].address, None);
}

#[test]
fn long_names_are_refused_where_providers_could_not_keep_them() {
    let long = "a".repeat(60);
    assert!(error("k3s-a1", &long).message.contains("65 characters"));
}

#[test]
fn macs_are_derived_from_the_names() {
    let plan = edited(&[]);
    let again = edited(&[("10.23.45.32", "10.23.45.33")]);
    let other = edited(&[("\"home\"", "\"work\"")]);
    let macs = |plan: &ClusterFile| plan.nodes().iter().map(|node| node.mac).collect::<Vec<_>>();
    assert_eq!(macs(&plan), macs(&again));
    assert_ne!(macs(&plan), macs(&other));
    assert!(macs(&plan)[0].to_string().starts_with("52:54:00:"));
}

#[test]
fn a_nodes_own_user_replaces_the_clusters() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq";
    let users = |comment: &str, name: &str| {
        format!("users = [{{ name = \"{name}\", authorized_keys = [\"{key} {comment}\"] }}]")
    };
    let text = DEV
        .replacen("provider = \"proxmox\"", &format!("provider = \"proxmox\"\n{}", users("all", "ops")), 1)
        .replacen("role = \"agent\"", &format!("role = \"agent\"\n{}", users("own", "ops")), 1);
    let plan = ClusterFile::parse(&text).unwrap();
    assert!(plan.nodes()[0].users[0].authorized_keys[0].as_str().ends_with("all"));
    assert_eq!(plan.nodes()[1].users.len(), 1);
    assert!(plan.nodes()[1].users[0].authorized_keys[0].as_str().ends_with("own"));
}

/// A cluster file for QEMU; some addresses are given, the others allocated.
fn qemu_file(servers: usize, agents: usize, given: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "[cluster]\nname = \"p\"\nk3s = \"v1.28.5+k3s1\"\nimage = \"alma9-k3-node-amd64-v1.28.5-v1\"\n\
         provider = \"qemu\"\nnetwork = \"10.77.0.0/24\"\n",
    );
    for n in 0..servers + agents {
        let role = if n < servers { "server" } else { "agent" };
        let _ = write!(
            text,
            "[[node]]\nname = \"n{n}\"\nrole = \"{role}\"\ncores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n"
        );
        if let Some(host) = given.get(n).filter(|host| **host != 0) {
            let _ = writeln!(text, "address = \"10.77.0.{host}/24\"");
        }
    }
    text
}

proptest! {
    #[test]
    fn allocated_addresses_are_unique_and_inside_and_given_ones_are_kept(
        servers in prop_oneof![Just(1usize), Just(3), Just(5)],
        agents in 0usize..60,
        given in proptest::collection::btree_set(1u8..255, 0..20),
    ) {
        let given: Vec<u8> = given.into_iter().collect();
        let plan = ClusterFile::parse(&qemu_file(servers, agents, &given)).unwrap();
        let network: IpNet = "10.77.0.0/24".parse().unwrap();
        let addresses: Vec<IpAddr> = plan.nodes().iter().map(|node| node.address.unwrap().addr()).collect();
        let unique: BTreeSet<_> = addresses.iter().collect();
        prop_assert_eq!(unique.len(), addresses.len());
        prop_assert!(addresses.iter().all(|address| network.contains(address)));
        for (host, address) in given.iter().zip(&addresses) {
            prop_assert_eq!(address.to_string(), format!("10.77.0.{host}"));
        }
        let macs: BTreeSet<_> = plan.nodes().iter().map(|node| node.mac).collect();
        prop_assert_eq!(macs.len(), plan.nodes().len());
    }

    #[test]
    fn even_numbers_of_servers_and_none_are_refused(servers in 0usize..12) {
        let parsed = ClusterFile::parse(&qemu_file(servers, 2, &[]));
        prop_assert_eq!(parsed.is_ok(), servers % 2 == 1);
    }

    #[test]
    fn a_duplicate_address_is_refused_wherever_it_is(a in 0usize..8, b in 0usize..8, host in 1u8..255) {
        prop_assume!(a != b);
        let mut given = [0; 8];
        (given[a], given[b]) = (host, host);
        prop_assert!(ClusterFile::parse(&qemu_file(1, 7, &given)).is_err());
    }

    #[test]
    fn any_text_is_decoded_without_panic(text in "\\PC{0,200}") {
        let _ = ClusterFile::parse(&text);
    }

    /// Cutting, doubling or overwriting a part of a good file never panics and
    /// never gives a place outside the file.
    #[test]
    fn a_damaged_file_is_refused_at_a_place_inside_it(
        at in any::<prop::sample::Index>(),
        len in 0usize..30,
        with in "[ -~äß\n]{0,10}",
    ) {
        let at = at.index(DEV.len());
        let end = (at + len).min(DEV.len());
        let damaged = format!("{}{with}{}", &DEV[..at], &DEV[end..]);
        if let Err(error) = ClusterFile::parse(&damaged) {
            prop_assert!(error.line >= 1 && error.line <= damaged.lines().count() + 1, "{}", error);
            prop_assert!(error.column >= 1 && !error.message.is_empty());
        }
    }
}

/// Every cluster file that users are shown is valid.
#[test]
fn the_examples_are_valid() {
    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ops@home";
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            // What the user is to fill in is refused until it is filled in.
            if text.contains("CHANGEME") {
                let error = ClusterFile::parse(&text).unwrap_err().to_string();
                assert!(error.contains("CHANGEME"), "{}: {error}", path.display());
            }
            let filled = text.replace("AAAACHANGEME+put+your+own+public+key+here ops@CHANGEME", KEY);
            ClusterFile::parse(&filled).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 3);
}
