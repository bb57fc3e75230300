//! `admin`: keys that may ask a coordinator from elsewhere.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::admin::{AddAdminRequest, AdminStatus, RemoveAdminRequest};
use kiln_protocol::{Fingerprint, Identity, tls};

use super::arguments::{AdminCommand, AdminKeySource};
use super::connect::connect;
use super::print;
use crate::store::dir;

pub(super) async fn admin(command: &AdminCommand) -> Result<()> {
    match command {
        AdminCommand::Key(arguments) => print(&format!("{}\n", make(&arguments.file)?)),
        AdminCommand::Add(arguments) => {
            let client = connect(&arguments.remote)?;
            let (name, key) = (arguments.name.clone(), key(&arguments.key)?);
            client.add_admin(&AddAdminRequest { name, key }).await?;
            let pin = client.status().await?.pin;
            print(&format!(
                "{} is an admin, with the key {key}\n  elsewhere: coordinator status --address HOST:PORT \
                 --pin {pin} --admin-key FILE\n",
                arguments.name
            ))
        }
        AdminCommand::List(arguments) => {
            let answer = connect(&arguments.remote)?.admins().await?;
            if arguments.json {
                return print(&(serde_json::to_string(&answer)? + "\n"));
            }
            print(&table(&answer.admins))
        }
        AdminCommand::Remove(arguments) => {
            let name = arguments.name.clone();
            connect(&arguments.remote)?.remove_admin(&RemoveAdminRequest { name }).await?;
            print(&format!("the key of {} may do nothing here any more\n", arguments.name))
        }
    }
}

fn key(source: &AdminKeySource) -> Result<Fingerprint> {
    match (source.fingerprint, &source.public_key, &source.make) {
        (Some(key), _, _) => Ok(key),
        (_, Some(file), _) => {
            let at = || format!("reading the public key {}", file.display());
            tls::fingerprint_of_pem(&fs::read(file).with_context(at)?).with_context(at)
        }
        (_, _, Some(file)) => make(file),
        _ => bail!("no key was given"),
    }
}

/// Makes a key; its private half never leaves this machine.
fn make(file: &Path) -> Result<Fingerprint> {
    let identity = Identity::generate()?;
    dir::create_private(file, identity.to_pem().expose().as_bytes())?;
    Ok(identity.fingerprint())
}

fn table(admins: &[AdminStatus]) -> String {
    let width = admins.iter().map(|admin| admin.name.as_str().len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  ADDED                REMOVED              KEY\n", "NAME");
    for AdminStatus { name, key, added, removed } in admins {
        let removed = removed.map_or("-".to_owned(), |at| at.strftime("%F %T").to_string());
        let added = added.strftime("%F %T");
        let _ = writeln!(text, "{:<width$}  {added}  {removed:<19}  {key}", name.as_str());
    }
    text
}
