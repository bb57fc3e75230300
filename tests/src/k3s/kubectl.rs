//! `k3s kubectl`, as far as nodes go.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Api, message};
use crate::kubeconfig;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Verb {
    Get {
        name: Option<String>,
        output: Output,
    },
    Delete {
        kind: Kind,
        names: Vec<String>,
        ignore_not_found: bool,
    },
    /// Server-side, of Secrets on standard input.
    Apply,
    /// Names only.
    Secrets,
    Raw {
        path: String,
    },
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Kind {
    Node,
    Secret,
}

impl Kind {
    fn path(self, name: &str) -> String {
        match self {
            Self::Node => format!("/api/v1/nodes/{name}"),
            Self::Secret => secret_path(name),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Secret => "secret",
        }
    }
}

fn secret_path(name: &str) -> String {
    format!("/api/v1/namespaces/kube-system/secrets/{name}")
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Output {
    Table,
    Json,
    Name,
}

/// Runs `kubectl` with these arguments.
pub(crate) async fn run(args: &[String], etc: &Path, env: impl Fn(&str) -> Option<String>) -> Result<()> {
    let (verb, file) = parse(args)?;
    let default = etc.join("rancher/k3s/k3s.yaml");
    let file =
        file.or_else(|| env("KUBECONFIG").map(PathBuf::from)).or_else(|| default.exists().then_some(default));
    let Some(file) = file else {
        bail!(
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?"
        );
    };
    let text = answer(&kubeconfig::load(&file)?, verb).await?;
    io::stdout().write_all(text.as_bytes()).context("writing the answer")
}

async fn answer(api: &Api, verb: Verb) -> Result<String> {
    match verb {
        Verb::Raw { path } => Ok(String::from_utf8_lossy(&api.get(&path).await?).into_owned()),
        Verb::Delete { kind, names, ignore_not_found } => {
            let mut said = String::new();
            for name in names {
                let (status, body) = api.ask(Method::DELETE, &kind.path(&name), None).await?;
                if status == StatusCode::NOT_FOUND && ignore_not_found {
                    continue;
                }
                ensure!(status.is_success(), "Error from server: {}", message(&body).unwrap_or_default());
                said = said + kind.word() + " \"" + &name + "\" deleted\n";
            }
            Ok(said)
        }
        Verb::Apply => {
            let input = io::read_to_string(io::stdin()).context("reading standard input")?;
            let object: Value = serde_json::from_str(&input).context("error parsing STDIN")?;
            let objects = match object["items"].as_array() {
                Some(items) => items.clone(),
                None => vec![object],
            };
            let mut said = String::new();
            for object in objects {
                ensure!(
                    object["kind"] == "Secret" && object["metadata"]["namespace"] == "kube-system",
                    "the stand-in k3s applies Secrets in kube-system only"
                );
                let name = object["metadata"]["name"].as_str().context("an object without a name")?;
                let path = format!("{}?fieldManager=kubectl&force=true", secret_path(name));
                let (status, body) = api.ask(Method::PATCH, &path, Some(&object)).await?;
                ensure!(status.is_success(), "Error from server: {}", message(&body).unwrap_or_default());
                said = said + "secret/" + name + " serverside-applied\n";
            }
            Ok(said)
        }
        Verb::Secrets => {
            let body =
                api.get("/api/v1/namespaces/kube-system/secrets").await.context("Error from server")?;
            let list: Value = serde_json::from_slice(&body).context("reading the server's answer")?;
            let items = list["items"].as_array().into_iter().flatten();
            Ok(items
                .filter_map(|item| item["metadata"]["name"].as_str())
                .flat_map(|name| ["secret/", name, "\n"])
                .collect())
        }
        Verb::Get { name, output } => {
            let path = name
                .as_ref()
                .map_or_else(|| "/api/v1/nodes".to_owned(), |name| format!("/api/v1/nodes/{name}"));
            let body = api.get(&path).await.context("Error from server")?;
            shown(serde_json::from_slice(&body).context("reading the server's answer")?, output)
        }
    }
}

fn shown(mut answer: Value, output: Output) -> Result<String> {
    let list = answer.get("items").is_some();
    let mut items = if list { answer["items"].take() } else { json!([answer.take()]) };
    for item in items.as_array_mut().into_iter().flatten() {
        item["apiVersion"] = json!("v1");
        item["kind"] = json!("Node");
    }
    Ok(match output {
        Output::Json => {
            let whole = if list {
                json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
            } else {
                items[0].take()
            };
            serde_json::to_string_pretty(&whole)? + "\n"
        }
        Output::Name => {
            let names =
                items.as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str());
            names.flat_map(|name| ["node/", name, "\n"]).collect()
        }
        Output::Table => table(items.as_array().map(Vec::as_slice).unwrap_or_default()),
    })
}

fn table(nodes: &[Value]) -> String {
    if nodes.is_empty() {
        return "No resources found\n".to_owned();
    }
    let mut rows = vec![["NAME", "STATUS", "ROLES", "AGE", "VERSION"].map(str::to_owned)];
    rows.extend(nodes.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..4).map(width).collect();
    let line = |row: &[String; 5]| {
        let padded = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}   "));
        padded.collect::<String>() + &row[4] + "\n"
    };
    rows.iter().map(line).collect()
}

fn row(node: &Value) -> [String; 5] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ready = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    roles.sort_unstable();
    let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") };
    let created: Option<jiff::Timestamp> = text(&node["metadata"]["creationTimestamp"]).parse().ok();
    let age = created.map_or(0, |created| jiff::Timestamp::now().as_second() - created.as_second());
    [
        text(&node["metadata"]["name"]),
        if ready { "Ready" } else { "NotReady" }.to_owned(),
        roles,
        match age.max(0) {
            seconds @ 0..120 => format!("{seconds}s"),
            seconds @ 120..7_200 => format!("{}m", seconds / 60),
            seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
            seconds => format!("{}d", seconds / 86_400),
        },
        text(&node["status"]["nodeInfo"]["kubeletVersion"]),
    ]
}

fn parse(args: &[String]) -> Result<(Verb, Option<PathBuf>)> {
    let (mut words, mut output, mut file, mut raw) = (Vec::new(), Output::Table, None, None);
    let (mut namespace, mut input) = (None, None);
    let (mut ignore_not_found, mut server_side) = (false, false);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (name, value) =
            arg.split_once('=').map_or((arg.as_str(), None), |(name, value)| (name, Some(value)));
        let mut value = || -> Result<String> {
            let next = value.map(str::to_owned).or_else(|| rest.next().cloned());
            next.with_context(|| format!("flag needs an argument: {name}"))
        };
        match name {
            "--kubeconfig" => file = Some(PathBuf::from(value()?)),
            "--namespace" | "-n" => namespace = Some(value()?),
            "--filename" | "-f" => input = Some(value()?),
            // Nothing here takes long.
            "--timeout" => drop(value()?),
            "--ignore-not-found" => ignore_not_found = true,
            "--server-side" => server_side = true,
            "--force-conflicts" => {}
            "--raw" => raw = Some(value()?),
            "--output" | "-o" => output = format(&value()?)?,
            _ if arg.starts_with("-o") && arg.len() > 2 => output = format(&arg[2..])?,
            _ if arg.starts_with('-') => bail!("unknown flag: {arg} (the stand-in k3s's kubectl knows few)"),
            _ => words.push(arg.as_str()),
        }
    }
    let is_secret = |what: &str| ["secrets", "secret"].contains(&what);
    let is_node = |what: &str| ["nodes", "node", "no"].contains(&what);
    let verb = match (words.as_slice(), raw) {
        (["get"], Some(path)) => Verb::Raw { path },
        (["get", what], None) if is_node(what) => Verb::Get { name: None, output },
        (["get", what, name], None) if is_node(what) => Verb::Get { name: Some((*name).to_owned()), output },
        (["delete", what, names @ ..], None) if !names.is_empty() && (is_node(what) || is_secret(what)) => {
            let kind = if is_node(what) { Kind::Node } else { Kind::Secret };
            ensure!(
                kind == Kind::Node || namespace.as_deref() == Some("kube-system"),
                "the stand-in k3s has Secrets in kube-system only"
            );
            Verb::Delete {
                kind,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                ignore_not_found,
            }
        }
        (["apply"], None) if server_side && input.as_deref() == Some("-") => Verb::Apply,
        (["get", what], None) if is_secret(what) && namespace.as_deref() == Some("kube-system") => {
            Verb::Secrets
        }
        _ => bail!(
            "kubectl {}: the stand-in k3s has only 'get nodes [NAME] [-o json|name]', 'delete node|secret NAME', \
             'apply --server-side -f -' of Secrets, 'get secrets -n kube-system -o name' and 'get --raw PATH'",
            args.join(" ")
        ),
    };
    Ok((verb, file))
}

fn format(text: &str) -> Result<Output> {
    match text {
        "json" => Ok(Output::Json),
        "name" => Ok(Output::Name),
        "wide" => Ok(Output::Table),
        _ => bail!("output format {text:?} not recognized, the stand-in k3s has: json, name, wide"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<(Verb, Option<PathBuf>)> {
        parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    fn node() -> Value {
        json!({"metadata": {"name": "k3s-s1", "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": {"node-role.kubernetes.io/master": "true", "node-role.kubernetes.io/control-plane": "true"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.28.5+k3s1"}}})
    }

    #[test]
    fn the_forms_in_use_are_understood() {
        for args in
            [&["get", "nodes", "-o", "json"][..], &["get", "no", "-ojson"], &["get", "-o=json", "node"]]
        {
            let (verb, file) = parsed(args).expect("a verb");
            assert_eq!((verb, file), (Verb::Get { name: None, output: Output::Json }, None));
        }
        let (verb, file) = parsed(&["--kubeconfig", "/k", "delete", "node", "a"]).expect("a verb");
        let delete = |kind, names: &[&str], ignore_not_found| Verb::Delete {
            kind,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ignore_not_found,
        };
        assert_eq!((verb, file), (delete(Kind::Node, &["a"], false), Some("/k".into())));
        let many =
            ["delete", "--ignore-not-found", "--timeout=20s", "secret", "--namespace=kube-system", "a", "b"];
        assert_eq!(parsed(&many).expect("a verb").0, delete(Kind::Secret, &["a", "b"], true));
        let apply = ["apply", "--server-side", "--force-conflicts", "--filename=-"];
        assert_eq!(parsed(&apply).expect("a verb").0, Verb::Apply);
        assert_eq!(
            parsed(&["get", "--raw=/readyz"]).expect("a verb").0,
            Verb::Raw { path: "/readyz".into() }
        );
        for args in [
            &["get", "pods"][..],
            &["apply"],
            &["get", "nodes", "--watch"],
            &["get", "nodes", "-o", "yaml"],
            &[],
        ] {
            assert!(parsed(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn a_table_has_kubectls_columns() {
        let text = table(&[node()]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]);
        assert_eq!(lines[1][..3], ["k3s-s1", "Ready", "control-plane,master"]);
        assert_eq!(table(&[]), "No resources found\n");
    }

    #[test]
    fn json_is_a_list_of_nodes() {
        let text = shown(json!({"kind": "NodeList", "items": [node()]}), Output::Json).expect("JSON");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (value["kind"].as_str(), value["items"][0]["kind"].as_str()),
            (Some("List"), Some("Node"))
        );
        let one: Value = serde_json::from_str(&shown(node(), Output::Json).expect("JSON")).expect("JSON");
        assert_eq!(one["metadata"]["name"], "k3s-s1");
        assert_eq!(shown(node(), Output::Name).expect("a name"), "node/k3s-s1\n");
    }
}
