//! The joining side's way to a server: get its CA, check the token's hash
//! against it, then talk to nobody else.
//!
//! Source: k3s-io/k3s `pkg/clientaccess/token.go`. One difference: k3s first
//! asks with the host's CA bundle and, if that verifies the server, checks no
//! hash. Here the host's bundle does not exist.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, StatusCode};
use serde_json::Value;
use tracing::warn;

use crate::{ca_hash, token};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A server whose CA is known, and the credentials to use there.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// `https://host:port`.
    base: String,
    /// The cluster's CA bundle.
    pub(crate) ca: Vec<u8>,
    user: String,
    password: String,
    /// The password is a bearer token.
    bootstrap: bool,
    client: Client,
}

/// What the headers of a request for a node's certificate say.
pub(crate) struct NodeHeaders<'a> {
    pub(crate) name: &'a str,
    pub(crate) password: &'a str,
    pub(crate) addresses: String,
}

impl Access {
    /// Fetches the CA of `server`, checks it against the token, and checks that
    /// the server's certificate is by that CA. Sends no credentials.
    pub(crate) async fn to(server: &str, token: &str, user: &str) -> Result<Self> {
        Self::with(server, token, user, None).await
    }

    /// The same, and shows a client certificate as well (in PEM, with its key):
    /// k3s takes a node's own in place of a token that is no longer good
    /// (k3s-io/k3s#6663).
    pub(crate) async fn with(server: &str, token: &str, user: &str, own: Option<&[u8]>) -> Result<Self> {
        let token = token::parse(token)?;
        let Some(base) = server.strip_prefix("https://").map(|_| server.trim_end_matches('/').to_owned())
        else {
            bail!("only https:// URLs are supported, invalid scheme: {server}");
        };
        let url = format!("{base}/cacerts");
        let blind =
            builder().tls_danger_accept_invalid_certs(true).build().context("making an HTTP client")?;
        let ca = fetch(blind.get(&url), &url).await.context("failed to get CA certs")?;
        let mut client = trusting(&ca)?;
        if let Some(own) = own {
            client = client.identity(Identity::from_pem(own).context("reading the node's certificate")?);
        }
        let client = client.build().context("making an HTTP client")?;
        fetch(client.get(&url), &url).await.context("CA cert validation failed")?;
        match token.ca_hash {
            None => warn!(
                "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA \
                 hash. Use the full token from the server's node-token file to enable Cluster CA validation."
            ),
            Some(hash) => {
                let found = ca_hash::of_bundle(&ca)?;
                if hash != found {
                    bail!("token CA hash does not match the Cluster CA certificate hash: {hash} != {found}");
                }
            }
        }
        let (user, bootstrap) = (user.to_owned(), token.bootstrap);
        Ok(Self { base, ca, user, password: token.password, bootstrap, client })
    }

    /// The full token for what this access uses.
    pub(crate) fn token(&self) -> Result<String> {
        if self.bootstrap {
            return token::format_bootstrap(&self.password, &self.ca);
        }
        token::format(&self.user, &self.password, &self.ca)
    }

    fn signed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if self.bootstrap {
            request.bearer_auth(&self.password)
        } else {
            request.basic_auth(&self.user, Some(&self.password))
        }
    }

    /// Fetches a path with the token's credentials.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.base);
        fetch(self.signed(self.client.get(&url)), &url).await
    }

    /// Sends a JSON document and takes one back.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.base);
        fetch(self.signed(self.client.post(&url)).json(body), &url).await
    }

    /// Asks for a certificate in the node's name. `None`: the node's password
    /// was refused.
    pub(crate) async fn node_certificate(
        &self,
        path: &str,
        node: &NodeHeaders<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let url = format!("{}{path}", self.base);
        let request = self
            .signed(self.client.get(&url))
            .header("k3s-Node-Name", node.name)
            .header("k3s-Node-Password", node.password)
            .header("k3s-Node-IP", &node.addresses);
        let response = request.send().await.map_err(without_url)?;
        match response.status() {
            StatusCode::FORBIDDEN => Ok(None),
            StatusCode::OK => Ok(Some(response.bytes().await.map_err(without_url)?.to_vec())),
            status => bail!("{url}: {status}"),
        }
    }
}

/// A client certificate's way to the Kubernetes API.
#[derive(Debug)]
pub(crate) struct Api {
    base: String,
    client: Client,
}

impl Api {
    /// `certificates` and `key` are in PEM.
    pub(crate) fn new(base: &str, ca: &[u8], certificates: &str, key: &str) -> Result<Self> {
        let identity = Identity::from_pem(format!("{certificates}\n{key}").as_bytes())
            .context("reading the client certificate and its key")?;
        let client = trusting(ca)?.identity(identity).build().context("making an HTTP client")?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), client })
    }

    /// Asks the API. Any answer it gives is one, refusals too.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>)> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(without_url)?;
        let status = response.status();
        Ok((status, response.bytes().await.map_err(without_url)?.to_vec()))
    }

    /// Asks the API, and takes a refusal for an error.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        match self.ask(Method::GET, path, None).await? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => bail!("{}", message(&body).unwrap_or_else(|| format!("{path}: {status}"))),
        }
    }
}

/// The message of a Kubernetes Status.
pub(crate) fn message(body: &[u8]) -> Option<String> {
    let status: Value = serde_json::from_slice(body).ok()?;
    status["message"].as_str().map(str::to_owned)
}

fn builder() -> ClientBuilder {
    Client::builder().timeout(TIMEOUT).connect_timeout(TIMEOUT).https_only(true).no_proxy()
}

fn trusting(ca: &[u8]) -> Result<ClientBuilder> {
    Ok(builder().tls_certs_only(Certificate::from_pem_bundle(ca).context("reading the server's CA bundle")?))
}

async fn fetch(request: reqwest::RequestBuilder, url: &str) -> Result<Vec<u8>> {
    let response = request.send().await.map_err(without_url)?;
    let status = response.status();
    let body = response.bytes().await.map_err(without_url)?.to_vec();
    if !status.is_success() {
        let said = String::from_utf8_lossy(&body);
        // k3s says the status alone; what the server adds helps a reader of test logs.
        bail!("{url}: {status}{}{}", if said.is_empty() { "" } else { ": " }, said.trim());
    }
    Ok(body)
}

/// The whole chain of causes: reqwest's own text names only the outermost.
fn without_url(error: reqwest::Error) -> anyhow::Error {
    let url = error.url().map(ToString::to_string).unwrap_or_default();
    anyhow!(error.without_url()).context(url)
}
