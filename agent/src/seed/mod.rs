//! Where a machine finds its seed: the ticket and its first settings.
//!
//! The sources are asked in this order, and the first ticket wins; without one
//! anywhere the first seed does:
//!
//! 1. SMBIOS type 11 credentials, as systemd hands them on ([`credentials`]);
//! 2. a volume labelled `cidata` ([`nocloud`]);
//! 3. what was baked into the image ([`baked`]), which holds no ticket.
//!
//! A provider's metadata service belongs before the last: it is one more
//! [`Source`].

mod baked;
mod credentials;
mod nocloud;

use std::fmt;

use anyhow::Result;
use kiln_protocol::seed::NodeSeed;

pub(crate) use baked::Baked;
pub(crate) use credentials::Credentials;
pub(crate) use nocloud::{NoCloud, of_volume};

/// One place where a seed may be.
pub(crate) trait Source: fmt::Debug {
    /// What it is called in messages.
    fn name(&self) -> &'static str;
    /// What it holds now; `None` if there is nothing for us in it.
    fn look(&self) -> Result<Option<Vec<u8>>>;
}

/// What a look at all sources came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    /// A seed, and the name of its source.
    Found(Box<NodeSeed>, &'static str),
    /// None. Sources that could not be read, or that hold something else, say
    /// why.
    Nothing(Vec<String>),
}

/// Asks each source in turn for a seed that `fits`.
pub(crate) fn search(sources: &[Box<dyn Source>], fits: &dyn Fn(&NodeSeed) -> bool) -> Search {
    let (mut without_ticket, mut problems) = (None, Vec::new());
    for source in sources {
        let looked = source.look().map(|found| found.map(|bytes| NodeSeed::parse(&bytes)));
        match looked {
            Ok(Some(Ok(seed))) if !fits(&seed) => {}
            Ok(Some(Ok(seed))) => {
                let (ticket, found) =
                    (seed.claim.ticket().is_some(), Search::Found(Box::new(seed), source.name()));
                if ticket {
                    return found;
                }
                without_ticket.get_or_insert(found);
            }
            Ok(Some(Err(error))) => problems.push(format!("{}: {error}", source.name())),
            Ok(None) => {}
            Err(error) => problems.push(format!("{}: {error:#}", source.name())),
        }
    }
    without_ticket.unwrap_or(Search::Nothing(problems))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::Fingerprint;
    use kiln_protocol::ticket::{Ticket, TicketSeed};

    #[derive(Debug)]
    struct Fake(&'static str, Option<Vec<u8>>);

    impl Source for Fake {
        fn name(&self) -> &'static str {
            self.0
        }
        fn look(&self) -> Result<Option<Vec<u8>>> {
            if self.1.as_deref() == Some(b"broken") {
                anyhow::bail!("input/output error");
            }
            Ok(self.1.clone())
        }
    }

    fn ticket() -> Vec<u8> {
        let addresses = vec!["10.0.2.2:7443".parse().unwrap()];
        let ticket = Ticket::new(addresses, Fingerprint::of_spki(b"c"), TicketSeed::generate()).unwrap();
        ticket.to_text().as_bytes().to_vec()
    }

    fn searched_for(sources: Vec<Fake>, fits: impl Fn(&NodeSeed) -> bool) -> Search {
        let sources: Vec<_> = sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect();
        search(&sources, &fits)
    }

    fn searched(sources: Vec<Fake>) -> Search {
        searched_for(sources, |_| true)
    }

    #[test]
    fn a_ticket_comes_before_a_coordinators_address_wherever_it_is() {
        let pin = Fingerprint::of_spki(b"c");
        let contact = |port: u16| {
            format!(r#"{{"kiln":1,"coordinator":{{"addresses":["10.0.2.2:{port}"],"pin":"{pin}"}}}}"#)
        };
        let (one, two, ticket) = (contact(1).into_bytes(), contact(2).into_bytes(), ticket());
        let found = |bytes: &[u8], source| Search::Found(Box::new(NodeSeed::parse(bytes).unwrap()), source);
        let contacts = || vec![Fake("one", Some(one.clone())), Fake("two", Some(two.clone()))];
        assert_eq!(searched(contacts()), found(&one, "one"));
        let with_ticket = contacts().into_iter().chain([Fake("three", Some(ticket.clone()))]).collect();
        assert_eq!(searched(with_ticket), found(&ticket, "three"));
    }

    #[test]
    fn a_seed_that_does_not_fit_hides_none_behind_it() {
        let (old, new) = (ticket(), ticket());
        let known = NodeSeed::parse(&old).unwrap();
        let sources = || vec![Fake("one", Some(old.clone())), Fake("two", Some(new.clone()))];
        let found = searched_for(sources(), |seed| *seed != known);
        assert_eq!(found, Search::Found(Box::new(NodeSeed::parse(&new).unwrap()), "two"));
        assert_eq!(searched_for(sources(), |_| false), Search::Nothing(Vec::new()));
    }

    #[test]
    fn the_first_source_with_a_seed_wins_whatever_those_before_it_hold() {
        let (one, two) = (ticket(), ticket());
        let found = searched(vec![
            Fake("empty", None),
            Fake("broken", Some(b"broken".to_vec())),
            Fake("foreign", Some(b"#cloud-config\n".to_vec())),
            Fake("one", Some(one.clone())),
            Fake("two", Some(two)),
        ]);
        assert_eq!(found, Search::Found(Box::new(NodeSeed::parse(&one).unwrap()), "one"));
    }

    #[test]
    fn no_seed_says_what_was_there_instead() {
        assert_eq!(searched(vec![Fake("empty", None)]), Search::Nothing(Vec::new()));
        let Search::Nothing(problems) = searched(vec![Fake("disk", Some(b"kiln1.AAAA".to_vec()))]) else {
            panic!("a truncated ticket was taken");
        };
        assert_eq!(problems, ["disk: the ticket is truncated"]);
    }
}
