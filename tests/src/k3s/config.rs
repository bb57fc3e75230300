//! Configuration as k3s reads it: `config.yaml`, then `config.yaml.d/*.yaml`
//! in the order of their names, then the command line; at the end the
//! environment, for what nothing else has set.
//!
//! Source: k3s-io/k3s `pkg/configfilearg/parser.go`. A later file's key
//! replaces an earlier one's, `key+` appends to it, and the result is turned
//! into flags. One difference is deliberate: the real `k3s server` skips a key
//! it does not know with a warning (the real `k3s agent` dies of it, as here);
//! for a stand-in that is to find mistakes both must be fatal.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::flags::{self, Command, Flag, Kind};

/// The values of a command's flags.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Values(BTreeMap<&'static str, Vec<String>>);

impl Values {
    /// The last value given; an empty one is none.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a switch is on.
    pub(crate) fn on(&self, name: &str) -> bool {
        self.text(name).and_then(boolean).unwrap_or(false)
    }

    /// All values, each split at its commas, as k3s does for addresses, SANs
    /// and components.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
    }

    /// Every flag that is set, with its values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.0.iter().map(|(name, values)| (*name, values.as_slice()))
    }
}

/// Reads files, command line and environment.
pub(crate) fn load(
    command: Command,
    args: &[String],
    etc: &Path,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Values> {
    let (file, named) = config_file(args, etc, &env);
    let mut documents = Vec::new();
    for path in files(&file, named)? {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        documents.push((path.display().to_string(), text));
    }
    let from_files = merge(&documents)?;
    parse(command, &from_files, args, env)
}

/// Which configuration file, and whether somebody asked for just that one.
fn config_file(args: &[String], etc: &Path, env: &impl Fn(&str) -> Option<String>) -> (PathBuf, bool) {
    if let Some(file) = env("K3S_CONFIG_FILE").filter(|file| !file.is_empty()) {
        return (file.into(), true);
    }
    for (at, arg) in args.iter().enumerate() {
        for name in ["--config", "-c"] {
            if arg == name
                && let Some(file) = args.get(at + 1)
            {
                return (file.into(), true);
            }
            if let Some(file) = arg.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                return (file.into(), true);
            }
        }
    }
    (etc.join("rancher/k3s/config.yaml"), false)
}

/// The file, if there, then its drop-ins in the order of their names.
fn files(file: &Path, named: bool) -> Result<Vec<PathBuf>> {
    let mut dropins = Vec::new();
    let directory = PathBuf::from(format!("{}.d", file.display()));
    match fs::read_dir(&directory) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.with_context(|| format!("reading {}", directory.display()))?.path();
                let yaml = path
                    .extension()
                    .is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
                if yaml && path.is_file() {
                    dropins.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", directory.display())),
    }
    dropins.sort();
    if file.exists() {
        dropins.insert(0, file.to_owned());
    } else if named && dropins.is_empty() {
        bail!("open {}: no such file or directory", file.display());
    }
    Ok(dropins)
}

/// Merges documents (name and text) into flags, `--key=value` each.
fn merge(documents: &[(String, String)]) -> Result<Vec<String>> {
    let mut merged: Vec<(String, Vec<String>)> = Vec::new();
    for (name, text) in documents {
        let keys: Option<BTreeMap<String, Value>> = serde_saphyr::from_str(text)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("parsing {name}"))?;
        for (key, value) in keys.unwrap_or_default() {
            let (key, append) = key.strip_suffix('+').map_or((key.as_str(), false), |key| (key, true));
            let values = texts(&value).with_context(|| format!("reading key {key} of {name}"))?;
            match merged.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) if append => old.extend(values),
                Some((_, old)) => *old = values,
                None => merged.push((key.to_owned(), values)),
            }
        }
    }
    let flags = merged.iter().flat_map(|(key, values)| {
        let dashes = if key.len() == 1 { "-" } else { "--" };
        values.iter().map(move |value| format!("{dashes}{key}={value}"))
    });
    Ok(flags.collect())
}

fn texts(value: &Value) -> Result<Vec<String>> {
    Ok(match value {
        Value::Null => vec![String::new()],
        Value::Bool(value) => vec![value.to_string()],
        Value::Number(value) => vec![value.to_string()],
        Value::String(value) => vec![value.clone()],
        Value::Array(values) => {
            let mut all = Vec::new();
            for value in values {
                all.extend(texts(value)?);
            }
            all
        }
        Value::Object(_) => {
            bail!("a mapping is no value of a flag: use text, a number, true or false, or a list")
        }
    })
}

/// Turns flags from files and from the command line into values.
fn parse(
    command: Command,
    from_files: &[String],
    args: &[String],
    env: impl Fn(&str) -> Option<String>,
) -> Result<Values> {
    let mut values = Values::default();
    for flag in from_files {
        let mut rest = std::iter::empty();
        take(command, &mut values, flag, &mut rest).context("reading config.yaml")?;
    }
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        take(command, &mut values, arg, &mut rest)?;
    }
    for flag in flags::of(command).filter(|flag| !flag.env.is_empty()) {
        if let Some(value) = env(flag.env).filter(|value| !value.is_empty())
            && !values.0.contains_key(flag.name)
        {
            set(&mut values, flag, value)
                .with_context(|| format!("reading environment variable {}", flag.env))?;
        }
    }
    Ok(values)
}

fn take<'a>(
    command: Command,
    values: &mut Values,
    arg: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<()> {
    let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
        bail!("unexpected argument {arg:?}: k3s {} takes flags only", command.name());
    };
    let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
    let flag = flags::find(command, name)
        .with_context(|| format!("flag provided but not defined: -{name} (k3s {})", command.name()))?;
    let value = match (value, flag.kind) {
        (Some(value), _) => value.to_owned(),
        (None, Kind::Switch) => "true".to_owned(),
        (None, _) => rest.next().with_context(|| format!("flag needs an argument: -{name}"))?.clone(),
    };
    set(values, flag, value)
}

fn set(values: &mut Values, flag: &'static Flag, value: String) -> Result<()> {
    match flag.kind {
        Kind::Number if value.parse::<i64>().is_err() => {
            bail!("invalid value {value:?} for flag -{}: parse error", flag.name)
        }
        Kind::Switch if boolean(&value).is_none() => {
            bail!("invalid boolean value {value:?} for -{}: parse error", flag.name)
        }
        _ => {}
    }
    values.0.entry(flag.name).or_default().push(value);
    Ok(())
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(texts: &[&str]) -> Vec<(String, String)> {
        texts.iter().enumerate().map(|(n, text)| (format!("{n}.yaml"), (*text).to_owned())).collect()
    }

    fn values(command: Command, texts: &[&str], args: &[&str]) -> Result<Values> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        parse(command, &merge(&documents(texts))?, &args, |_| None)
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let yaml =
            "token: secret\ntls-san:\n  - a.example\n  - 10.0.0.1\nselinux: true\nhttps-listen-port: 7443\n";
        let json = r#"{"token":"secret","tls-san":["a.example","10.0.0.1"],"selinux":true,"https-listen-port":7443}"#;
        let read = values(Command::Server, &[yaml], &[]).expect("yaml");
        assert_eq!(values(Command::Server, &[json], &[]).expect("json"), read);
        assert_eq!(read.list("tls-san"), ["a.example", "10.0.0.1"]);
        assert_eq!(read.text("https-listen-port"), Some("7443"));
        assert!(read.on("selinux"));
    }

    #[test]
    fn a_later_file_replaces_and_a_plus_appends() {
        let read = values(
            Command::Server,
            &["disable: traefik\nnode-label: [a=1]\n", "disable: [servicelb]\nnode-label+: b=2\n"],
            &["--disable", "metrics-server"],
        )
        .expect("values");
        assert_eq!(read.list("disable"), ["servicelb", "metrics-server"]);
        assert_eq!(read.list("node-label"), ["a=1", "b=2"]);
    }

    #[test]
    fn an_unknown_key_is_fatal_for_both_commands() {
        for command in [Command::Server, Command::Agent] {
            let error = values(command, &["nod-name: x\n"], &[]).expect_err("a mistyped key");
            assert!(format!("{error:#}").contains("flag provided but not defined: -nod-name"), "{error:#}");
        }
        assert!(values(Command::Agent, &["cluster-init: true\n"], &[]).is_err());
    }

    #[test]
    fn an_empty_file_is_no_mistake_and_a_broken_one_is_named() {
        for text in ["", "---\n", "# nothing\n"] {
            assert_eq!(values(Command::Server, &[text], &[]).expect(text), Values::default());
        }
        for text in ["token: [", "just text", "- a\n", "token: {a: 1}\n"] {
            let error = values(Command::Server, &[text], &[]).expect_err(text);
            assert!(format!("{error:#}").contains("0.yaml"), "{error:#}");
        }
    }

    #[test]
    fn values_are_typed() {
        assert!(values(Command::Server, &["selinux: maybe\n"], &[]).is_err());
        assert!(values(Command::Server, &["https-listen-port: high\n"], &[]).is_err());
        assert!(values(Command::Server, &[], &["--token"]).is_err());
        assert!(values(Command::Server, &[], &["token"]).is_err());
        assert!(
            values(Command::Server, &[], &["--selinux=false"]).expect("values").0.contains_key("selinux")
        );
    }

    #[test]
    fn the_environment_comes_last() {
        let env = |name: &str| (name == "K3S_TOKEN").then(|| "from-env".to_owned());
        let none = parse(Command::Agent, &[], &[], env).expect("values");
        assert_eq!(none.text("token"), Some("from-env"));
        let given = parse(Command::Agent, &["--token=given".into()], &[], env).expect("values");
        assert_eq!(given.text("token"), Some("given"));
    }

    #[test]
    fn drop_ins_are_read_in_the_order_of_their_names() {
        let etc = tempfile::tempdir().expect("a directory");
        let dropins = etc.path().join("rancher/k3s/config.yaml.d");
        fs::create_dir_all(&dropins).expect("directories");
        for (name, text) in
            [("20-b.yaml", "token: b\n"), ("10-a.yml", "token: a\n"), ("30-c.txt", "token: c\n")]
        {
            fs::write(dropins.join(name), text).expect("a drop-in");
        }
        let read = load(Command::Agent, &[], etc.path(), |_| None).expect("values");
        assert_eq!(read.text("token"), Some("b"));
        let missing = load(Command::Agent, &["--config=/nonexistent".into()], etc.path(), |_| None);
        assert!(missing.is_err());
    }
}
